"""Quantization-aware training by TensorFlow Model Optimization, int8, on tf_keras.

The float weights move layer by layer into tf_keras, checked by outputs. Data, augmentation, seed,
schedule, optimizer and weight decay are those of `ddq quantize`; then the stock converter.
"""

from __future__ import annotations

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import portable
import task
import tensorflow as tf

from ddq_tf import data
from ddq_tf.jobs.images import open_images
from ddq_tf.pictures import DataOptions

tfmot, tf_keras = map(importlib.import_module, ("tensorflow_model_optimization", "tf_keras"))
_CHECKED, _TOLERANCE = 64, 1e-3


class Clock(tf_keras.callbacks.Callback):
    """Keeps the seconds of each epoch in a file, across interruptions."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.start = time.monotonic()

    @property
    def seconds(self) -> list[float]:
        """One number for each epoch."""
        return json.loads(self.path.read_text()) if self.path.exists() else []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self.start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes the time."""
        now = [*self.seconds[:epoch], time.monotonic() - self.start]
        self.path.write_text(json.dumps(now))


def optimizer(todo: dict[str, Any], total_steps: int) -> Any:
    """Returns what `ddq_tf.training.make_optimizer` does, of tf_keras."""
    warmup = min(round(0.05 * total_steps), total_steps - 1)
    rate = tf_keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else todo["learning_rate"],
        decay_steps=total_steps - warmup,
        warmup_target=todo["learning_rate"] if warmup else None,
        warmup_steps=warmup,
    )
    decay = todo["weight_decay"] or None
    found = tf_keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    found.exclude_from_weight_decay(var_names=["beta", "gamma", "bias"])
    return found


def converted(model: Any) -> bytes:
    """Returns the stock converter's file, int8 from input to output."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, save_format="tf")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        return converter.convert()


def main() -> None:
    """Trains and converts."""
    folder, todo = task.read()
    common = Path(todo["common"])
    graph = portable.read(common)
    twin = portable.build(common, tf_keras)
    difference = portable.largest_difference(
        twin, common, np.load(common / "calibration.npy")[:_CHECKED]
    )
    if difference > _TOLERANCE:
        raise SystemExit(f"the tf_keras twin's float outputs are off by {difference}")
    options = DataOptions(
        spec=todo["data"], input_range=tuple(todo["input_range"]), batch_size=todo["batch_size"]
    )
    images = open_images(options, input_shape=(None, *graph["shape"]))
    train, steps = images.training(data.default_augment(images.dataset.name), todo["seed"])
    if todo["steps"]:
        steps, validation = todo["steps"], None
    else:
        validation = images.batches("val")
    keras.utils.set_random_seed(todo["seed"])
    model = tfmot.quantization.keras.quantize_model(twin)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=portable.gives_logits(graph))
    model.compile(optimizer(todo, todo["epochs"] * steps), loss, metrics=["accuracy"])
    clock = Clock(folder / "seconds.json")
    keeping = tf_keras.callbacks.BackupAndRestore(str(folder / "backup"))
    log = tf_keras.callbacks.CSVLogger(str(folder / "history.csv"), append=True)
    model.fit(
        train.repeat(),
        validation_data=validation,
        epochs=todo["epochs"],
        steps_per_epoch=steps,
        callbacks=[clock, log, keeping],
        shuffle=False,
        verbose=2,
    )
    (folder / task.MODEL).write_bytes(converted(model))
    task.finish(
        folder,
        training_s=sum(clock.seconds),
        epoch_s=clock.seconds,
        largest_float_difference=difference,
    )


if __name__ == "__main__":
    main()
