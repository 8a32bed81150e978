"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from pathlib import Path

from ddq_tf.errors import DDQError


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
    if not path.parent.is_dir() or path.is_dir():
        raise DDQError(
            f"the path must name a file in an existing folder. Received: {str(path)!r}. "
            "Create the folder first, or choose another name"
        )
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


def _sweep(path: Path) -> None:
    """Deletes the unfinished files that killed processes have left of a path."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.removeprefix(f".{path.name}.").split(".")[0]
        if number.isdigit() and not _is_alive(int(number)):
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
