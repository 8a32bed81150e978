"""The program of docs/tfmot.md runs, and its files compute what was trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_runs():
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "tfmot_project.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = [line for line in run.stdout.splitlines() if "bytes, bits" in line]
    assert [line.split(":")[0] for line in lines] == ["learned_bits", "given_bits"]
    assert all(line.endswith("equal codes 100.00%") for line in lines)
