"""Result files: every number with its command, seed, versions, machine and commit."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ddq_tf.jobs.record import write_run

RESULTS = Path(__file__).parent / "results"
_START = time.monotonic()


def write_result(name: str, results: dict[str, Any], *, seed: int) -> Path:
    """Writes benchmarks/results/NAME.json and returns its path.

    It keeps the command, but not where folders outside the checkout lie.
    """
    path = RESULTS / f"{name}.json"
    write_run(
        path,
        command=["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(shortened, sys.argv[1:])],
        seed=seed,
        wall_s=time.monotonic() - _START,
        results=results,
    )
    return path


def shortened(argument: str) -> str:
    """Returns `--name=/absolute/path` as `--name=path`; other arguments as they are."""
    name, sign, value = argument.partition("=")
    return f"{name}={Path(value).name}" if sign and Path(value).is_absolute() else argument
