"""How long `quantize_model` takes on a deep graph and on MobileNetV2 1.0/224.

    python benchmarks/quantize_time.py

The deep graph has 1,602 layers: 400 residual blocks of convolution, BatchNormalization, ReLU and
sum. Random weights, 32 random images. The float model's own time for the images stands beside it.
Writes benchmarks/results/quantize_time.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import time
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf

L = keras.layers
_BLOCKS = 400
_IMAGES = 32


def deep() -> keras.Model:
    """A chain of small residual blocks."""
    inputs = keras.Input((8, 8, 8))
    x = inputs
    small: Any = keras.initializers.RandomNormal(0.0, 0.01, seed=0)  # 400 sums must not overflow
    for _ in range(_BLOCKS):
        conv = L.Conv2D(8, 1, use_bias=False, kernel_initializer=small)
        y = L.ReLU()(L.BatchNormalization()(conv(x)))
        x = L.Add()([x, y])
    return keras.Model(inputs, L.Conv2D(4, 1)(x))


def measured(model: keras.Model, target: str) -> dict[str, Any]:
    """Seconds of the float model and of `quantize_model`."""
    shape = (_IMAGES, *model.input_shape[1:])
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    start = time.perf_counter()
    model(images, training=False)
    float_s = time.perf_counter() - start
    config = ddq_tf.DDQConfig(target=target, budget=None)
    start = time.perf_counter()
    ddq_tf.quantize_model(model, config, images)
    seconds = time.perf_counter() - start
    print(f"{len(model.layers)} layers: float {float_s:.1f} s, quantize_model {seconds:.1f} s")
    return {"layers": len(model.layers), "float_s": float_s, "quantize_model_s": seconds}


def main() -> None:
    """Measures both and writes the result."""
    keras.utils.set_random_seed(0)
    untrained: dict[str, Any] = {"weights": None}
    mobilenet = keras.applications.MobileNetV2(**untrained)
    results = {
        "deep": measured(deep(), "litert-int8"),
        "mobilenet_v2": measured(mobilenet, "litert"),
    }
    write_result("quantize_time", results, seed=0)


if __name__ == "__main__":
    main()
