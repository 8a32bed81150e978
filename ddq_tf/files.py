"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
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
        DDQError: if the folder is missing or `path` is itself a folder.
        OSError: if the disk refuses; `path` is then as it was.
    """
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise DDQError(
            f"the path must name a file in an existing folder. Received: {str(path)!r}. "
            "Create the folder first, or choose another name"
        )
    # Not tempfile: its files are private to the user whatever the umask says.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    return path
