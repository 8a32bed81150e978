"""Result files: every number with its command, seed, versions, machine and commit."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_START = time.monotonic()


def write_result(
    name: str, results: dict[str, Any], *, seed: int, path: Path | None = None
) -> Path:
    """Writes benchmarks/results/NAME.json, or another file, and returns its path.

    It keeps the command, but not where folders outside the checkout lie.
    """
    from ddq_tf.jobs.record import write_run  # imports Keras, which readers need not

    path = path or RESULTS / f"{name}.json"
    write_run(
        path,
        command=["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(shortened, sys.argv[1:])],
        seed=seed,
        wall_s=time.monotonic() - _START,
        results=results,
    )
    return path


def is_there(name: str, float_sha256: str) -> bool:
    """Returns whether benchmarks/results/NAME.json is there.

    Raises:
        SystemExit: if it is there, but of another float file.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return False
    if json.loads(path.read_text())["results"]["float_sha256"] != float_sha256:
        raise SystemExit(f"{path.name} was made from another float file; delete it first")
    return True


def read_results(group: str) -> list[dict[str, Any]]:
    """Returns the results, with their seed, of all benchmarks/results/GROUP_*.json, by name."""
    contents = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{group}_*.json"))]
    return [{**content["results"], "seed": content["seed"]} for content in contents]


def shortened(argument: str) -> str:
    """Returns `--name=/absolute/path` as `--name=path`; other arguments as they are."""
    name, sign, value = argument.partition("=")
    return f"{name}={Path(value).name}" if sign and Path(value).is_absolute() else argument
