"""Training step of a DDQ model over that of its float model, interleaved in one process.

    python benchmarks/step_time.py [--alpha=0.5] [--steps=20]

MobileNetV2 (output stride 16), 32 px, batch 128, Keras 3 on TensorFlow, `train_on_batch` on random
data: one float step, one DDQ step, and so on; medians. Writes benchmarks/results/step_time.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import resource
import time
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf

SEED = 0
BATCH = 128


def compiled(model: Any) -> Any:
    """Returns the model, ready for `train_on_batch`."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def step_seconds(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the wall time of one training step."""
    start = time.perf_counter()
    model.train_on_batch(images, labels)
    return time.perf_counter() - start


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--output_stride", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    rng = np.random.default_rng(SEED)
    images = rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, BATCH)
    shape = (32, 32, 3)
    model = ddq_tf.models.mobilenet_v2(
        shape, alpha=options.alpha, classes=10, output_stride=options.output_stride
    )
    model(images, training=True)
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(budget=0.6), calibration=images)
    for layer in q.weight_budget.layers:
        layer.quantizer.explore.assign(0.15)
    runs = {"float": compiled(model), "ddq": compiled(q)}
    peak_kib = {}
    for name, run in runs.items():
        for _ in range(3):
            step_seconds(run, images, labels)
        peak_kib[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.steps):
        for name, run in runs.items():
            times[name].append(step_seconds(run, images, labels))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    pairs = np.array(times["ddq"]) / np.array(times["float"])
    results = {
        "alpha": options.alpha,
        "output_stride": options.output_stride,
        "batch_size": BATCH,
        "steps": options.steps,
        "float_step_s": medians["float"],
        "ddq_step_s": medians["ddq"],
        "ratio_of_medians": medians["ddq"] / medians["float"],
        "ratio_pairwise_median": float(np.median(pairs)),
        "ratio_pairwise_quartiles": [float(v) for v in np.quantile(pairs, (0.25, 0.75))],
        "peak_rss_kib_after": peak_kib,
    }
    write_result("step_time", results, seed=SEED)
    print(results)


if __name__ == "__main__":
    main()
