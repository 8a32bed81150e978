"""What a worker is told and what it tells: task.json and done.json in one folder."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TASK, DONE, MODEL = "task.json", "done.json", "model.tflite"


def read() -> tuple[Path, dict[str, Any]]:
    """Returns the folder named on the command line, and its task."""
    folder = Path(sys.argv[1])
    return folder, json.loads((folder / TASK).read_text())


def finish(folder: Path, **results: Any) -> None:
    """Writes what came out; its being there says that the work is done."""
    part = folder / f"{DONE}.part"
    part.write_text(json.dumps(results, indent=1, default=float))
    part.rename(folder / DONE)


@contextlib.contextmanager
def reasons(folder: Path) -> Iterator[None]:
    """Turns what a peer's library refuses into the row's reason."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        finish(folder, reason=f"{type(error).__name__}: {text}"[:500])
        raise SystemExit(0) from error
