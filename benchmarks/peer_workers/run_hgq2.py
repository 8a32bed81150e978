"""Quantization-aware training by HGQ2: a learned number of bits for every weight and activation.

Layers take its documented defaults; the float weights move over. BetaPID steers the effective bit
operations (EBOPs) to those of `weight_bits` by `activation_bits` for every multiplication. Adam, as
in its documentation: SGD's steps are far too small for its numbers of bits. Accuracy is that of
the Keras model, which its FPGA code reproduces bit by bit; there is no .tflite.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import portable
import task

from ddq_tf import data
from ddq_tf.jobs.images import Images, open_images
from ddq_tf.pictures import DataOptions
from ddq_tf.training import TrainConfig, accuracy, make_optimizer

_QUANTIZED = ("Add", "AveragePooling2D", "BatchNormalization", "Conv2D", "Dense")
_PLAIN = ("Activation", "Dropout", "Flatten", "ReLU", "ZeroPadding2D")
_SMOKE_IMAGES = 256


def check(graph: dict[str, Any], layers: Any) -> None:
    """Refuses networks with layers that HGQ2 does not have.

    Raises:
        NotImplementedError: naming them.
    """
    kinds = {node["kind"] for node in graph["nodes"]} - set(_PLAIN)
    missing = sorted(kind for kind in kinds if not hasattr(layers, f"Q{kind}"))
    if missing:
        raise NotImplementedError(f"hgq.layers has no layer for {', '.join(missing)}")


def maker(layers: Any) -> Any:
    """Returns what makes a node's layer."""

    def make(node: dict[str, Any]) -> Any:
        if node["kind"] in _PLAIN:
            return portable.layer_of(node, keras)
        settings = dict(node["settings"])
        if node["kind"] == "Dense":
            settings["activation"] = None  # logits; softmax is left to the loss
        return getattr(layers, f"Q{node['kind']}")(name=node["name"], **settings)

    return make


def move_weights(model: Any, graph: dict[str, Any], weights: Any) -> None:
    """Sets kernels, biases and BatchNormalizations; quantizers keep their own variables."""
    for index, node in enumerate(graph["nodes"]):
        values = [weights[f"{index}/{place}"] for place in range(node["weights"])]
        layer = model.get_layer(node["name"])
        if node["kind"] == "BatchNormalization":
            targets = [layer.bn_gamma, layer.bn_beta, layer.moving_mean, layer.moving_variance]
        else:
            targets = [layer._kernel, layer.bias] if values else []
        for target, value in zip(targets, values, strict=True):
            target.assign(value)


def multiplications(model: Any) -> int:
    """Returns those of all convolutions and dense layers, for one image."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "_kernel"):
            places = int(np.prod(layer.output.shape[1:-1]))
            total += places * int(np.prod(layer._kernel.shape))
    return total


def weight_bits(model: Any) -> tuple[float, int]:
    """Returns the sum of all weights' bits, and how many weights there are."""
    bits, count = 0.0, 0
    for layer in model.layers:
        if hasattr(layer, "_kernel"):
            shape = tuple(layer._kernel.shape)
            bits += float(np.sum(np.asarray(layer.kq.bits_(shape)) * np.ones(shape)))
            count += int(np.prod(shape))
    return bits, count


def train(model: Any, images: Images, todo: dict[str, Any], sugar: Any) -> float:
    """Trains; returns the seconds."""
    batches, steps = images.training(data.default_augment(images.dataset.name), todo["seed"])
    steps = todo["steps"] or steps
    keras.utils.set_random_seed(todo["seed"])
    config = TrainConfig(
        epochs=todo["epochs"], optimizer=todo["optimizer"], learning_rate=todo["learning_rate"]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = make_optimizer(config, config.epochs * steps)
    model.compile(optimizer, loss, metrics=["accuracy"])
    target = multiplications(model) * todo["weight_bits"] * todo["activation_bits"]
    steering = sugar.BetaPID(target, init_beta=0.1 / target, warmup=1)
    start = time.monotonic()
    model.fit(
        batches.repeat(),
        epochs=config.epochs,
        steps_per_epoch=steps,
        callbacks=[steering, sugar.FreeEBOPs()],
        shuffle=False,
        verbose=2,
    )
    return time.monotonic() - start


def main() -> None:
    """Trains and measures."""
    folder, todo = task.read()
    common = Path(todo["common"])
    layers, sugar, utils = (
        importlib.import_module(f"hgq.{name}") for name in ("layers", "utils.sugar", "utils")
    )
    graph, inputs = portable.read(common), np.load(common / "calibration.npy")
    with task.reasons(folder):
        check(graph, layers)
        model = portable.build(common, keras, maker(layers), set_weights=False)
        move_weights(model, graph, np.load(common / portable.WEIGHTS))
        utils.trace_minmax(model, inputs)
    start = np.asarray(model(inputs[:64], training=False)).argmax(axis=1)
    expected = np.load(common / "float_outputs.npy").argmax(axis=1)
    options = DataOptions(
        spec=todo["data"],
        input_range=tuple(todo["input_range"]),
        batch_size=todo["batch_size"],
        limit=_SMOKE_IMAGES if todo["steps"] else None,
    )
    images = open_images(options, input_shape=(None, *graph["shape"]))
    seconds = train(model, images, todo, sugar)
    ebops = utils.trace_minmax(model, inputs)
    bits, count = weight_bits(model)
    task.finish(
        folder,
        training_s=seconds,
        keras_accuracy=accuracy(model, images.batches("test")),
        average_bits=bits / count,
        weight_bytes=bits / 8,
        ebops=ebops,
        target_ebops=multiplications(model) * todo["weight_bits"] * todo["activation_bits"],
        start_agreement=float(np.mean(start == expected)),
    )


if __name__ == "__main__":
    main()
