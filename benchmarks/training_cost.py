"""Peak memory and step time of `ddq quantize`, beside what `ddq doctor` estimates.

    python benchmarks/training_cost.py [--again]

Each network is quantized and trained for a few steps on random images in a process of its own, on
one core, with the calibration batches and the distillation of `ddq quantize`. Peaks are
`resource.getrusage`'s; times are of the processor, the shortest of a few steps, so that other work
on the machine does not count. Writes benchmarks/results/training_cost.json; with --again, only the
estimates in it.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from provenance import RESULTS, write_result

import ddq_tf
from ddq_tf.files import atomic_write_bytes
from ddq_tf.jobs.doctor import cost
from ddq_tf.jobs.doctor.quantizable import macs_in
from ddq_tf.recipes import DDQ_RECIPE
from ddq_tf.targets import get_target
from ddq_tf.training import fit_classifier
from ddq_tf.transform.quantize import examine

PATH = RESULTS / "training_cost.json"
SEED = 0
STEPS = 6
CLASSES = 10
# Name of the builder, its options, side of the images, batch size.
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "resnet8_32px_b128": ("resnet8", {}, 32, 128),
    "mobilenet_v2_0.5_32px_b128": ("mobilenet_v2", {"alpha": 0.5}, 32, 128),
    "mobilenet_v2_0.35_96px_b32": ("mobilenet_v2", {"alpha": 0.35}, 96, 32),
    # The constants of the estimates are not fitted to this one.
    "mobilenet_v2_1.0_96px_b16": ("mobilenet_v2", {"alpha": 1.0}, 96, 16),
}


class _Times(keras.callbacks.Callback):
    """Seconds of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._start = time.process_time()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops the clock."""
        self.seconds.append(time.process_time() - self._start)


def measured(case: str) -> dict[str, Any]:
    """Returns what one network costs, in this process."""
    builder, options, side, batch = CASES[case]
    rng = np.random.default_rng(SEED)
    model = ddq_tf.models.build(builder, (side, side, 3), CLASSES, **options)
    _, graph = examine(model, get_target("litert")).checked()
    speed = cost.probe()
    calibration = [
        rng.random((cost.CALIBRATION_BATCH, side, side, 3), np.float32) for _ in range(2)
    ]
    quantized = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(), calibration)
    calibrated = _peak_mib()
    load = cost.load_of(quantized, macs_in(graph))
    assert load is not None
    images = rng.random((batch, side, side, 3), np.float32)
    train = tf.data.Dataset.from_tensors((images, rng.integers(0, CLASSES, batch))).repeat()
    times = _Times()
    fit_classifier(
        quantized,
        train,
        None,
        dataclasses.replace(DDQ_RECIPE.settings, epochs=1, batch_size=batch, learning_rate=1e-4),
        steps_per_epoch=STEPS,
        teacher=model,
        callbacks=[times],
        verbose=0,
    )
    return {
        "batch_size": batch,
        "load": dataclasses.asdict(load),
        "speed": dataclasses.asdict(speed),
        "peak_mib_after_calibration": calibrated,
        "peak_mib": _peak_mib(),
        "first_step_s": times.seconds[0],
        "step_s": min(times.seconds[1:]),
    }


def with_estimates(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with what the formulas say, over what was measured."""
    load, speed = cost.Load(**row["load"]), cost.Speed(**row["speed"])
    peak = cost.peak_mib(load, row["batch_size"])
    step = cost.step_s(load, row["batch_size"], speed)
    first = cost.first_step_s(load)
    return {
        **row,
        "peak_ratio": peak / row["peak_mib"],
        "step_ratio": step / row["step_s"],
        "first_step_ratio": first / row["first_step_s"],
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures all networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="one network, to standard output")
    parser.add_argument("--again", action="store_true", help="estimate anew what was measured")
    options = parser.parse_args()
    if options.case:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measured(options.case)))
        return
    if options.again:
        content = json.loads(PATH.read_text())
        content["results"] = {n: with_estimates(row) for n, row in content["results"].items()}
        atomic_write_bytes(PATH, f"{json.dumps(content, indent=1)}\n".encode())
        return
    rows = {}
    for name in CASES:
        command = [sys.executable, __file__, f"--case={name}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        rows[name] = with_estimates(json.loads(done.stdout.splitlines()[-1]))
        write_result("training_cost", rows, seed=SEED)


if __name__ == "__main__":
    main()
