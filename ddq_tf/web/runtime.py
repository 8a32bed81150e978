"""LiteRT.js as npm publishes it: one version, its files known by their hashes."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from ddq_tf.errors import DDQError

PACKAGE, VERSION = "@litertjs/core", "2.5.3"
_ARCHIVE = f"core-{VERSION}.tgz"
_REGISTRY = "https://registry.npmjs.org"  # npm's own default
_SECONDS = 300
# As the registry's metadata tell it: dist.integrity.
_INTEGRITY = (
    "sha512-PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8Iwqgq"
    "CIkviYGr9OFDL1kCnN4nzWoyJQ=="
)
# Those without threads, which need no special headers of the web server: with and without relaxed
# SIMD. Their SHA-256.
_FILES = {
    "litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "litert_wasm_compat_internal.js": (
        "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5"
    ),
    "litert_wasm_compat_internal.wasm": (
        "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c"
    ),
}
_CURE = (
    f"With a network, run `npm pack {PACKAGE}@{VERSION}` somewhere and give the folder of the .tgz "
    "as --runtime=FOLDER; that of an earlier `ddq web`, or node_modules, will do as well"
)


def find_runtime(folder: str | os.PathLike[str] | None = None) -> dict[str, bytes]:
    """Returns LiteRT.js's files by name, each with the content that was published.

    Args:
        folder: where they are: npm's archive, what it unpacks to, a node_modules, or a folder made
            by `ddq web`; None to download them from the npm registry.

    Raises:
        DDQError: if they are not there, are others, or cannot be downloaded.
    """
    files = _from_archive(_downloaded()) if folder is None else _from_folder(Path(folder))
    changed = [name for name in _FILES if _sha256(files[name]) != _FILES[name]]
    if changed:
        raise DDQError(
            f"the files must be those of {PACKAGE} {VERSION}, byte by byte. Received others: "
            f"{', '.join(changed)}. {_CURE}"
        )
    return files


def _from_folder(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        raise DDQError(f"--runtime must be a folder. Received: {str(folder)!r}. {_CURE}")
    for place in _places(folder):
        if all((place / name).is_file() for name in _FILES):
            return {name: (place / name).read_bytes() for name in _FILES}
    archives = [path for path in sorted(folder.glob("*.tgz")) if path.name.endswith(_ARCHIVE)]
    if archives:
        return _from_archive(archives[0].read_bytes())
    raise DDQError(
        f"the folder {str(folder)!r} must hold {PACKAGE} {VERSION}: {_ARCHIVE}, or "
        f"{', '.join(_FILES)}. {_CURE}"
    )


def _places(folder: Path) -> Iterator[Path]:
    """Yields where a folder may hold the files."""
    yield from (folder, folder / "wasm", folder / "package" / "wasm", folder / "runtime")
    yield from (folder / PACKAGE / "wasm", folder / "node_modules" / PACKAGE / "wasm")


def _from_archive(data: bytes) -> dict[str, bytes]:
    """Reads the files out of npm's archive, which is hashed before anything looks into it."""
    received = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if received != _INTEGRITY:
        raise DDQError(
            f"the archive of {PACKAGE} {VERSION} must have the hash {_INTEGRITY}. Received: "
            f"{received}, {len(data):,} bytes. {_CURE}"
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name in _FILES:
            member = archive.extractfile(f"package/wasm/{name}")
            files[name] = member.read() if member else b""
    return files


def _downloaded() -> bytes:
    """Downloads the archive: with npm, which knows the user's registry, else without."""
    npm = shutil.which("npm")
    return _read_url(os.environ) if npm is None else _packed_by(npm)


def _packed_by(npm: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _no_download(str(error)) from error
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise _no_download("; ".join(lines[:2]) or f"npm ended with {done.returncode}")
        return archives[0].read_bytes()


def _read_url(environment: Mapping[str, str]) -> bytes:
    registry = environment.get("npm_config_registry") or _REGISTRY
    url = f"{registry.rstrip('/')}/{PACKAGE}/-/{_ARCHIVE}"
    if not url.startswith(("https://", "http://")):
        raise _no_download(f"npm_config_registry is {registry!r}")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return answer.read()
    except OSError as error:
        raise _no_download(f"{url}: {error}") from error


def _no_download(reason: str) -> DDQError:
    return DDQError(f"{PACKAGE} {VERSION} could not be downloaded: {reason}. {_CURE}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
