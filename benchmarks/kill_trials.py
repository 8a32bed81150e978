"""Kills `ddq quantize` and `ddq reconstruct` at random moments, resumes them, compares the results.

    python benchmarks/kill_trials.py [--trials=30] [--seed=0]

Each trial starts the command in a process of its own, kills it (SIGKILL) at a moment drawn from
its whole duration, perhaps several times, and starts it again with --resume until it ends. Weights,
bits and history must then be those of an undisturbed run, and nothing else may lie in the folder.
Half of the trials are trainings, half reconstructions. Writes benchmarks/results/kill_trials.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from provenance import write_result

_MOST_KILLS = 3
_COMMANDS = {
    "quantize": (
        "--epochs=4",
        "--batch_size=64",
        "--limit=600",
        "--budget=5bits",
        "--target=litert-int8",
    ),
    "reconstruct": (
        "--limit=300",
        "--steps=20",
        "--budget=5bits",
        "--distill_steps=10",
        "--target=litert-int8",
    ),
}


def ddq(*arguments: str) -> subprocess.Popen[bytes]:
    """Starts the command."""
    return subprocess.Popen(
        [sys.executable, "-m", "ddq_tf", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors.decode()[-2000:])


def command(kind: str, model: Path, out: Path, *more: str) -> tuple[str, ...]:
    """The words of a command."""
    return (kind, str(model), "--data=digits", f"--out={out}", *_COMMANDS[kind], *more)


def content(path: Path) -> dict[str, Any]:
    """All weights of a saved model, and its history if it has one."""
    found: dict[str, Any] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            found[name] = np.array(item)

    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as file,
        h5py.File(file) as weights,
    ):
        weights.visititems(add)
    history = path.with_suffix(".history.json")
    if history.is_file():
        found["history"] = json.loads(history.read_text())
    return found


def difference(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The names of what differs."""
    names = sorted(one.keys() | two.keys())
    return [n for n in names if n not in one or n not in two or not _same(one[n], two[n])]


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    return one == two


def trial(kind: str, model: Path, folder: Path, duration_s: float, draw: random.Random) -> Any:
    """Kills and resumes until the command ends; returns the moments of the kills."""
    out = folder / "ddq.keras"
    kills, more = [], ()
    for _ in range(draw.randint(1, _MOST_KILLS)):
        process = ddq(*command(kind, model, out, *more))
        moment = draw.uniform(0.2, 1.0) * duration_s
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills.append(round(moment, 2))
        more = ("--resume",)
    else:
        finish(ddq(*command(kind, model, out, *more)))
    return kills


def main() -> None:
    """Runs all trials."""
    parser = argparse.ArgumentParser(description="Kills, resumes and compares runs.")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    draw = random.Random(flags.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        model = home / "float.keras"
        finish(ddq("train", "--data=digits", "--model=resnet8", "--epochs=2", f"--out={model}"))
        for kind in _COMMANDS:
            whole = home / kind
            whole.mkdir()
            begin = time.time()
            finish(ddq(*command(kind, model, whole / "ddq.keras")))
            duration_s = time.time() - begin
            wanted, files = content(whole / "ddq.keras"), {f.name for f in whole.iterdir()}
            for number in range(flags.trials // len(_COMMANDS)):
                folder = home / f"{kind}_{number}"
                folder.mkdir()
                kills = trial(kind, model, folder, duration_s, draw)
                left = sorted({f.name for f in folder.iterdir()} - files)
                differs = difference(wanted, content(folder / "ddq.keras"))
                rows.append({"command": kind, "kills_s": kills, "differs": differs, "left": left})
                print(kind, number, kills, differs or "equal", left or "", flush=True)
    good = [row for row in rows if not row["differs"] and not row["left"]]
    results = {
        "trials": len(rows),
        "kills": sum(len(row["kills_s"]) for row in rows),
        "equal": len(good),
        "rows": rows,
    }
    write_result("kill_trials", results, seed=flags.seed)
    print(f"{len(good)} of {len(rows)} trials equal, {results['kills']} kills")


if __name__ == "__main__":
    main()
