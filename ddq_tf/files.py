"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
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
