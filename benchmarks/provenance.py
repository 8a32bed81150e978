"""Result files: every number with its command, seed, versions, machine and commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ddq_tf.files import atomic_write_bytes

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert", "ddq_tf")


def write_result(name: str, results: dict[str, Any], *, seed: int) -> Path:
    """Writes benchmarks/results/NAME.json and returns its path."""
    record = {
        "name": name,
        "command": shlex.join(["python", *sys.argv]),
        "seed": seed,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in _PACKAGES},
        },
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "results": results,
    }
    text = json.dumps(record, indent=1) + "\n"
    return atomic_write_bytes(RESULTS / f"{name}.json", text.encode())


def _commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
