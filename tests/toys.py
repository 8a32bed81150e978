"""Tiny models and data that many tests share."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers
array = keras.ops.convert_to_numpy


def images(count: int = 48, shape: tuple[int, ...] = (8, 8, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, *shape)).astype(np.float32)


def labels(count: int = 48, classes: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count)


def mixed_net(seed: int = 0) -> keras.Model:
    """A convolution, a residual of pointwise convolutions and a dense layer; BatchNorm, ReLU."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    skip = x = layers.ReLU(6.0, name="relu")(x)
    x = layers.Conv2D(16, 1, activation="relu", name="expand")(x)
    x = layers.Conv2D(8, 1, name="project")(x)
    x = layers.Add(name="add")([x, skip])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(x), name="mixed")


def summing_net(seed: int = 0) -> keras.Model:
    """What adds up, by every way: convolutions, dense layers, products, means, rows, sums."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(x)
    y = layers.Conv2D(16, 1, name="pointwise")(y)
    x = layers.Concatenate()([layers.Add()([x, y]), layers.Conv2D(48, 3, padding="same")(x)])
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="groups")(layers.AveragePooling2D(2)(x))
    x = layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Conv2D(8, 5, padding="same", name="long")(layers.Conv2D(64, 1)(x))
    x = layers.Reshape((16, 8))(layers.MaxPooling2D(2)(x))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    x = layers.LayerNormalization()(x)
    x = layers.Concatenate()([layers.Flatten()(x), layers.GlobalAveragePooling1D()(x)])
    return keras.Model(inputs, layers.Dense(4, name="logits")(x), name="summing")


def shake(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every variable of a float model a value that no initializer does."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype != "float32":
            continue
        values, name = array(variable), variable.name
        if name in ("moving_variance",):
            values = rng.uniform(0.3, 2, values.shape)
        elif name == "gamma":
            values = rng.uniform(0.5, 1.5, values.shape) * rng.choice([-1, 1], values.shape)
        elif name in ("beta", "moving_mean", "bias"):
            values = rng.normal(0, 0.3, values.shape)
        variable.assign(values)
    return model


def compiled(model: keras.Model, optimizer: object = None, *, eager: bool = True) -> keras.Model:
    """Compiles a classifier; eager steps cost less than tracing where there are few of them."""
    model.compile(
        optimizer or keras.optimizers.SGD(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=eager,
    )
    return model
