"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from ddq_tf.errors import DDQError


def check_writable(path: str | os.PathLike[str], name: str = "the path") -> None:
    """Refuses a file that cannot be written, before the work for it starts.

    Args:
        path: of the file.
        name: what the user calls it.

    Raises:
        DDQError: if its folder is missing or read-only, or it is itself a folder.
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise DDQError(
            f"{name} must be a file in an existing folder. Received: {str(path)!r}. "
            "Create the folder first, or choose another name"
        )
    if not os.access(path.parent, os.W_OK):
        raise DDQError(
            f"the folder of {str(path)!r} cannot be written to: it is read-only. Choose another"
        )


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder that cannot hold files, there or still to be made.

    Raises:
        DDQError: if it is a file, lies in one, or in a folder that is read-only.
    """
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is read-only" if there.is_dir() else "is no folder"
        raise DDQError(
            f"the folder {str(folder)!r} cannot be written to: {str(there)!r} {reason}. "
            "Choose another"
        )


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Writes a file in one step: a reader sees the old content or the new, never a part.

    Args:
        path: the file to create or replace; its folder must exist.
        data: the whole content.

    Returns:
        `path` as a Path.

    Raises:
        DDQError: if the folder is missing, `path` is itself a folder, or the disk refuses, being
            full or read-only; `path` is then as it was.
    """
    path = Path(path)
    check_writable(path)
    _sweep(path)
    # Not tempfile: its files are private to the user whatever the umask says.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise DDQError(
                f"cannot write {len(data):,} bytes to {str(path)!r}: {error.strerror or error}. "
                f"{'It is as it was' if path.exists() else 'It is not there'}; free some space, "
                "or choose another folder"
            ) from error
        raise
    return path


def check_replaceable(folder: str | os.PathLike[str], marker: str) -> None:
    """Refuses a folder that `atomic_write_folder` would refuse, before the work for it starts.

    Raises:
        DDQError: if it holds other things than an earlier writing, or cannot be written.
    """
    path = _resolved(folder)
    check_folder(path.parent)
    if path.exists() and not path.is_dir():
        raise DDQError(f"{str(folder)!r} must be a folder. Received: a file of this name")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise DDQError(
            f"the folder {str(folder)!r} must be new or empty, or an earlier one with {marker}, to "
            "be replaced. Received: a folder with other things. Choose another"
        )


def atomic_write_folder(
    folder: str | os.PathLike[str], contents: Mapping[str, bytes], *, marker: str
) -> Path:
    """Writes a folder whole or not at all.

    Args:
        folder: to make, with the folders above it. One that is there must be empty or hold
            `marker`; it is replaced with all that it holds.
        contents: of the files, by their path in the folder with "/" between.
        marker: a file that every writing has, and by which an earlier one is known.

    Returns:
        The folder as an absolute path.

    Raises:
        DDQError: if the folder holds other things, or the disk refuses; it is then as it was.
    """
    check_replaceable(folder, marker)
    path = _resolved(folder)
    made = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    old = made.with_suffix(".old.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        for name, data in contents.items():
            file = made / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if path.exists():
            path.rename(old)
        made.rename(path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError):
            raise DDQError(
                f"cannot write the folder {str(folder)!r}: {error.strerror or error}. "
                f"{'It is as it was' if path.exists() else 'It is not there'}; free some space, "
                "or choose another folder"
            ) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    return path


def _resolved(folder: str | os.PathLike[str]) -> Path:
    """The folder itself, where its name is a link to it."""
    return Path(os.path.realpath(folder))


def _sweep(path: Path) -> None:
    """Deletes what killed processes have left of a path unfinished."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.removeprefix(f".{path.name}.").split(".")[0]
        if number.isdigit() and not _is_alive(int(number)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                left.unlink()


def _is_alive(process: int) -> bool:
    """Whether a process of this machine may be running; on Windows it may always be."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
