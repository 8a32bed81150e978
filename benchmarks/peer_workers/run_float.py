"""The float network trained on, by the recipe that the quantized rows are trained by.

The bar for "lossless": what the same epochs give without any quantization.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
import time
from pathlib import Path

import keras
import portable
import task
import tensorflow as tf

from ddq_tf import data
from ddq_tf.jobs.images import open_images
from ddq_tf.pictures import DataOptions
from ddq_tf.training import TrainConfig, fit_classifier


def main() -> None:
    """Trains and converts."""
    folder, todo = task.read()
    common = Path(todo["common"])
    graph = portable.read(common)
    model = portable.build(common, keras)
    options = DataOptions(
        spec=todo["data"], input_range=tuple(todo["input_range"]), batch_size=todo["batch_size"]
    )
    images = open_images(options, input_shape=(None, *graph["shape"]))
    train, steps = images.training(data.default_augment(images.dataset.name), todo["seed"])
    names = ("epochs", "batch_size", "learning_rate", "weight_decay", "seed")
    start = time.monotonic()
    history = fit_classifier(
        model,
        train,
        None if todo["steps"] else images.batches("val"),
        TrainConfig(**{name: todo[name] for name in names}),
        steps_per_epoch=todo["steps"] or steps,
        from_logits=portable.gives_logits(graph),
        checkpoint_dir=folder / "checkpoint",
        verbose=2,
    )
    training_s = time.monotonic() - start
    with tempfile.TemporaryDirectory() as saved:
        model.export(saved, verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(saved).convert()
    (folder / task.MODEL).write_bytes(content)
    task.finish(folder, training_s=training_s, history=history.history)


if __name__ == "__main__":
    main()
