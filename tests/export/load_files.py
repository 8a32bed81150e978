"""Loads every FOLDER/*.tflite in LiteRT, each in a process of its own, as some abort it.

    python tests/export/load_files.py FOLDER

Prints, as JSON, what becomes of each: "delegated" to XNNPACK as a whole, partly "built-in",
"refused" or "aborted".
"""

import json
import os
import sys
from pathlib import Path

from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import delegation

_VERDICTS = ("delegated", "built-in", "refused")


def _verdict(path: Path) -> int:
    try:
        return 0 if delegation(path).is_complete else 1
    except DDQError:
        return 2


def load(path: Path) -> str:
    child = os.fork()
    if not child:
        os._exit(_verdict(path))
    _, status = os.waitpid(child, 0)
    return "aborted" if os.WIFSIGNALED(status) else _VERDICTS[os.WEXITSTATUS(status)]


print(json.dumps({path.stem: load(path) for path in sorted(Path(sys.argv[1]).glob("*.tflite"))}))
