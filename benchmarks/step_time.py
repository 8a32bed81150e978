"""Training step of DDQ models over that of their float model, interleaved in one process.

    python benchmarks/step_time.py [--alpha=0.5] [--steps=20] [--output_stride=32] [--network=vit]

MobileNetV2, or the small Vision Transformer of benchmarks/networks, 32 px, batch 128, Keras 3 on
TensorFlow, `train_on_batch` on random data: one step of each variant after the other; medians; and
the first step of each, in which it is traced. MobileNetV2 is also trained by TensorFlow Model
Optimization's int8 QAT on tf_keras, where these are installed. Peak memory is measured apart, one
process for each variant. Writes benchmarks/results/step_time_strideN.json or step_time_vit.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for TensorFlow Model Optimization

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from networks import transformers
from peer_workers import portable
from provenance import write_result

import ddq_tf

_PEER = ("tensorflow_model_optimization", "tf_keras")
SEED = 0
BATCH = 128
WARM_UP = 3
VARIANTS: dict[str, dict[str, Any]] = {
    "uniform": {"budget": 0.6},
    "free": {
        "target": "litert-int8",
        "levels": "free",
        "precisions": (2, 3, 4, 8),
        "budget": "4bits",
    },
    "activations_4_bits": {"budget": 0.6, "activation_bits": 4},
    "activations_learn_bits": {"budget": 0.6, "activation_bits": (2, 4, 8)},
}
FROZEN = {"uniform_settled": "uniform", "free_settled": "free"}


def float_model(options: argparse.Namespace, images: np.ndarray) -> Any:
    """Returns the float network."""
    keras.utils.set_random_seed(SEED)
    if options.network == "vit":
        return transformers.vit(augmented=False)
    model = ddq_tf.models.mobilenet_v2(
        (32, 32, 3), alpha=options.alpha, classes=10, output_stride=options.output_stride
    )
    model(images, training=True)
    return model


def compiled(model: Any, library: Any = keras) -> Any:
    """Returns the model, ready for `train_on_batch`."""
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.SGD(0.01, momentum=0.9), loss)
    return model


def variant(name: str, model: Any, images: np.ndarray) -> Any:
    """Returns a compiled model; of DDQ with the search on, or settled."""
    if name == "float":
        return compiled(model)
    if name == "tfmot_int8":
        return tfmot(model)
    config = ddq_tf.DDQConfig(**VARIANTS[FROZEN.get(name, name)])
    q = ddq_tf.quantize_model(model, config, calibration=images)
    if name in FROZEN:
        for layer in q.weight_budget.layers:
            layer.quantizer.frozen.assign(True)
    return compiled(q)


def tfmot(model: Any) -> Any:
    """Returns the same network on tf_keras, prepared by TensorFlow Model Optimization."""
    optimization, tf_keras = map(importlib.import_module, _PEER)
    with tempfile.TemporaryDirectory() as folder:
        portable.save(model, Path(folder))
        twin = portable.build(Path(folder), tf_keras)
    return compiled(optimization.quantization.keras.quantize_model(twin), tf_keras)


def step_seconds(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the wall time of one training step."""
    start = time.perf_counter()
    model.train_on_batch(images, labels)
    return time.perf_counter() - start


def interleaved(
    runs: dict[str, Any], images: np.ndarray, labels: np.ndarray, steps: int
) -> dict[str, dict[str, Any]]:
    """Returns what a step of each model takes, one of each after the other.

    Args:
        runs: compiled models by name; one of them "float".
        images: a batch.
        labels: likewise.
        steps: how many are measured.
    """
    first = {name: step_seconds(run, images, labels) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for step in range(WARM_UP + steps):
        for name, run in runs.items():
            seconds = step_seconds(run, images, labels)
            if step >= WARM_UP:
                times[name].append(seconds)
    rows = {}
    for name in runs:
        pairs = np.array(times[name]) / np.array(times["float"])
        rows[name] = {
            "first_step_s": first[name],
            "median_step_s": float(np.median(times[name])),
            "ratio_to_float": float(np.median(pairs)),
            "ratio_quartiles": [float(v) for v in np.quantile(pairs, (0.25, 0.75))],
        }
    return rows


def names_of(options: argparse.Namespace) -> list[str]:
    """Returns what to measure."""
    names = options.variants.split(",")
    return [*names, "tfmot_int8"] if has_peer() and options.network != "vit" else names


def has_peer() -> bool:
    """Returns whether TensorFlow Model Optimization is installed."""
    return all(map(importlib.util.find_spec, _PEER))


def peak_so_far_kib() -> int:
    """Returns the peak memory of this process; unlike ru_maxrss, not of the one before exec."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def peak_kib(name: str, options: argparse.Namespace) -> dict[str, int]:
    """Returns the peak memory of a process that trains one variant, and of its start."""
    command = [sys.executable, __file__, f"--alpha={options.alpha}", f"--memory={name}"]
    command += [f"--output_stride={options.output_stride}", f"--network={options.network}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--output_stride", type=int, default=32)
    parser.add_argument("--network", choices=("mobilenet_v2", "vit"), default="mobilenet_v2")
    parser.add_argument("--steps", type=int, default=20)
    every = ["float", *VARIANTS, *FROZEN]
    parser.add_argument("--variants", default=",".join(every), help="comma-separated")
    parser.add_argument("--peaks", default=",".join(every), help="whose memory is measured")
    parser.add_argument("--memory", help="print the peak memory of one variant, and no more")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    images = rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, BATCH)
    model = float_model(options, images[:2])
    if options.memory:
        start = peak_so_far_kib()
        run = variant(options.memory, model, images[:8])
        for _ in range(6):
            step_seconds(run, images, labels)
        print(json.dumps({"start": start, "peak": peak_so_far_kib()}))
        return
    names = names_of(options)
    runs = {name: variant(name, model, images) for name in names}
    rows = interleaved(runs, images, labels, options.steps)
    memory = {name: peak_kib(name, options) for name in options.peaks.split(",")}
    for name in names:
        if name in memory:
            rows[name]["peak_kib"] = memory[name]["peak"]
            rows[name]["peak_over_float"] = memory[name]["peak"] / memory["float"]["peak"]
            grown = {n: m["peak"] - m["start"] for n, m in memory.items()}
            rows[name]["growth_over_float"] = grown[name] / grown["float"]
    is_vit = options.network == "vit"
    of_mobilenet = {"alpha": options.alpha, "output_stride": options.output_stride}
    results = {
        "num_params": model.count_params(),
        **({} if is_vit else of_mobilenet),
        "batch_size": BATCH,
        "steps": options.steps,
        "variants": rows,
    }
    ending = "vit" if is_vit else f"stride{options.output_stride}"
    write_result(f"step_time_{ending}", results, seed=SEED)
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
