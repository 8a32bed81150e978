"""What is needed to repeat a run and to compare its numbers: versions, machine, commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import codec

_PACKAGES = ("ddq_tf", "tensorflow", "keras", "numpy", "ai-edge-litert")
_GIT_SECONDS = 5


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that shape results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def machine() -> dict[str, Any]:
    """Returns the processor's model, how many cores this process may use, and the system."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def git_commit() -> str | None:
    """Returns the commit of the checkout that this code runs from, None where there is none.

    Uncommitted changes show as "-dirty".
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def now() -> str:
    """Returns the time in ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_run(
    path: str | os.PathLike[str],
    *,
    command: Sequence[str],
    seed: int | None,
    wall_s: float,
    results: Mapping[str, Any],
) -> None:
    """Writes a run as JSON.

    Args:
        path: the file to create or replace.
        command: as it was typed.
        seed: that it ran with, if any.
        wall_s: seconds that it took.
        results: what came out; dataclasses and NumPy values are converted.
    """
    run = {
        "command": list(command),
        "created": now(),
        "seed": seed,
        "wall_s": round(wall_s, 3),
        "versions": versions(),
        "machine": machine(),
        "git_commit": git_commit(),
        "results": codec.encode(codec.plain(results)),
    }
    text = json.dumps(run, indent=1, ensure_ascii=False, allow_nan=False, default=str)
    atomic_write_bytes(path, f"{text}\n".encode())


def _cpu_model() -> str:
    """Returns the processor's name; Linux tells it only in /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
