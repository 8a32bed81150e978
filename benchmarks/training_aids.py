"""Training step with each training aid over one without, interleaved in one process.

    python benchmarks/training_aids.py [--model=resnet8|mobilenet_v2] [--levels=uniform|free]
        [--steps=20]

32 px, batch 128, Keras 3 on TensorFlow, precisions final, `train_on_batch` on random data: one step
of each variant, and so on; medians, of wall time and of the CPU time of all threads, which other
work on the machine disturbs less. Also the seconds of one batch of BatchNorm re-estimation and of
one epoch's entry of the logger. Writes benchmarks/results/training_aids_MODEL_LEVELS.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import time
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf
from ddq_tf import training

SEED = 0
BATCH = 128
ROUNDS = 5


def float_model(name: str) -> Any:
    """Returns the float network."""
    keras.utils.set_random_seed(SEED)
    options = {"alpha": 0.5, "output_stride": 16} if name == "mobilenet_v2" else {}
    return ddq_tf.models.build(name, (32, 32, 3), 10, **options)


def quantized(model: Any, levels: str, images: np.ndarray, *, separate_rate: bool) -> Any:
    """Returns its DDQ model, 4 bits, all choices final, ready to train."""
    config = ddq_tf.DDQConfig(
        target="litert-int8", precisions=(4,), budget=None, levels=levels, seed=SEED
    )
    q = ddq_tf.quantize_model(model, config, images)
    for layer in q.layers:
        if hasattr(layer, "quantizer"):
            layer.quantizer.frozen.assign(True)
    optimizer: Any = keras.optimizers.SGD(0.001, momentum=0.9)
    if separate_rate:
        optimizer = training.QuantizerLearningRate(optimizer, 0.1)
    logits = training.outputs_logits(q)
    q.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=logits))
    return q


class Run:
    """One variant in training."""

    def __init__(self, model: Any, aid: keras.callbacks.Callback | None) -> None:
        self.model = model
        self.aid = aid or keras.callbacks.Callback()
        self.aid.set_model(model)
        self.aid.set_params({"epochs": 1, "steps": 1000})
        self.aid.on_train_begin()
        self.aid.on_epoch_begin(0)
        self.batch = 0

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Returns the wall and CPU time of one step, the aid's part included."""
        start, cpu = time.perf_counter(), time.process_time()
        self.aid.on_train_batch_begin(self.batch)
        self.model.train_on_batch(images, labels)
        self.aid.on_train_batch_end(self.batch)
        self.batch += 1
        return time.perf_counter() - start, time.process_time() - cpu


def seconds(work: Any) -> float:
    """Returns the median wall time of some work, after one run to warm up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("mobilenet_v2", "resnet8"), default="resnet8")
    parser.add_argument("--levels", choices=("uniform", "free"), default="uniform")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    images = rng.uniform(-1, 1, (BATCH, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, BATCH)
    model = float_model(options.model)
    aids: dict[str, Any] = {
        "none": None,
        "distillation": training.Distillation(model),
        "dampening": training.OscillationDampening(0.01),
        "freezing": training.OscillationFreezing(),
        "freezing_every_10": training.OscillationFreezing(every=10),
        "quantizer_learning_rate": None,
    }
    runs = {
        name: Run(
            quantized(
                model,
                options.levels,
                images,
                separate_rate=name == "quantizer_learning_rate",
            ),
            aid,
        )
        for name, aid in aids.items()
    }
    for run in runs.values():
        for _ in range(11):
            run.step(images, labels)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.steps):
        for name, run in runs.items():
            times[name].append(run.step(images, labels))
    medians = {name: np.median(values, axis=0) for name, values in times.items()}
    plain = np.array(times["none"])
    pairs = {name: np.median(np.array(v) / plain, axis=0) for name, v in times.items()}
    q = runs["none"].model
    batches = [images] * ROUNDS
    logger = training.QuantizerLogger()
    logger.set_model(q)
    results = {
        "model": options.model,
        "levels": options.levels,
        "batch_size": BATCH,
        "steps": options.steps,
        **{
            kind: {name: float(values[column]) for name, values in found.items()}
            for column, clock in enumerate(("wall", "cpu"))
            for kind, found in ((f"{clock}_step_s", medians), (f"{clock}_ratio", pairs))
        },
        "reestimation_s_per_batch": seconds(lambda: training.reestimate_batch_norm(q, batches))
        / ROUNDS,
        "logger_s_per_epoch": seconds(lambda: logger.on_epoch_end(0, {})),
    }
    write_result(f"training_aids_{options.model}_{options.levels}", results, seed=SEED)
    print(results)


if __name__ == "__main__":
    main()
