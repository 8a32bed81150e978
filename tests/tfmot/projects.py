"""Small TFMOT projects, trained for a moment."""

from __future__ import annotations

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

Q = tfmot.quantization.keras
L = tf_keras.layers
CLASSES = 5


def data(count: int = 128) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(0, 0.3, (count, 16, 16, 3)) + labels[:, None, None, None] / 4 - 0.5
    return images.astype(np.float32), labels


def network() -> tf_keras.Model:
    i = L.Input((16, 16, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(i)
    x = L.ReLU(6.0, name="stem_relu")(L.BatchNormalization(name="stem_norm")(x))
    y = L.DepthwiseConv2D(3, padding="same", name="dw")(x)
    y = L.Conv2D(8, 1, name="pw")(L.BatchNormalization(name="dw_norm")(y))
    x = L.Add(name="sum")([x, y])
    x = L.Concatenate(name="both")([x, L.Conv2D(3, 1, activation="relu", name="side")(x)])
    x = L.GlobalAveragePooling2D(name="pool")(L.MaxPooling2D(name="max")(x))
    return tf_keras.Model(i, L.Dense(CLASSES, activation="softmax", name="scores")(x), name="net")


def trained(model: tf_keras.Model, epochs: int = 1, rate: float = 0.01) -> tf_keras.Model:
    optimizer = tf_keras.optimizers.legacy.SGD(rate, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*data(), epochs=epochs, batch_size=32, verbose=0)
    return model


def float_twin(quantized: tf_keras.Model) -> tf_keras.Model:
    """The network without TFMOT, with what was trained: by the names of variables."""
    held = {
        (layer.layer.name, variable.name.split("/")[-1]): variable.numpy()
        for layer in quantized.layers
        if hasattr(layer, "layer")
        for variable in (*layer.weights, *layer.layer.weights)
    }
    twin = network()
    for layer in twin.layers:
        layer.set_weights([held[layer.name, v.name.split("/")[-1]] for v in layer.weights])
    return twin
