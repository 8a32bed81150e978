"""Models as users write them: subclassed, with layers of their own, with Lambdas and keras.ops."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

L = keras.layers


class ResidualBlock(L.Layer):
    """Two convolutions with a skip, as most tutorials have them."""

    def __init__(self, filters, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Conv2D(filters, 3, strides, padding="same", use_bias=False)
        self.first_norm = L.BatchNormalization()
        self.second = L.Conv2D(filters, 3, padding="same", use_bias=False)
        self.second_norm = L.BatchNormalization()
        self.drop = L.Dropout(0.1)
        self.skip = L.Conv2D(filters, 1, strides) if strides > 1 else None

    def call(self, x, training=None):
        y = ops.relu(self.first_norm(self.first(x), training=training))
        y = self.second_norm(self.second(y), training=training)
        y = self.drop(y, training=training)
        return ops.relu(y + (x if self.skip is None else self.skip(x)))


class ResNet(keras.Model):
    """A subclassed model of such blocks."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = L.Conv2D(8, 3, padding="same")
        self.blocks = [ResidualBlock(8), ResidualBlock(16, 2)]
        self.head = L.Dense(10)

    def call(self, images, training=False):
        x = self.stem(images / 127.5 - 1)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(ops.mean(x, axis=(1, 2)))


class SqueezeExcite(L.Layer):
    """Gates of channels, from variables of its own."""

    def build(self, shape):
        channels = shape[-1]
        self.reduce = self.add_weight(shape=(channels, channels // 2), name="reduce")
        self.expand = self.add_weight(shape=(channels // 2, channels), name="expand")
        self.scale = self.add_weight(shape=(channels,), initializer="ones", name="scale")

    def call(self, x):
        gate = ops.relu(ops.matmul(ops.mean(x, axis=(1, 2)), self.reduce))
        gate = ops.sigmoid(ops.matmul(gate, self.expand))
        return self.scale * x * gate[:, None, None, :]


class Sum(keras.Model):
    """Of a dictionary of inputs, to a dictionary of outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left, self.right = L.Conv2D(4, 3), L.Conv2D(4, 3)
        self.head = L.Dense(3)

    def call(self, inputs):
        both = ops.add(self.left(inputs["left"]), self.right(inputs["right"]))
        return {"map": both, "logits": self.head(ops.mean(both, axis=(1, 2)))}


class Twice(keras.Model):
    """Layers called twice; one of them is a model with a graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(3, 3, padding="same")
        self.inner = keras.Sequential(
            [keras.Input((16, 16, 3)), L.Conv2D(3, 1), L.BatchNormalization(), L.ReLU()]
        )

    def call(self, x):
        return self.conv(self.inner(self.conv(self.inner(x, training=False))))


class Residual(keras.Model):
    """Made of a graph; its own call() adds the input."""

    def call(self, inputs, training=None):
        return inputs + super().call(inputs, training=training)


def resnet():
    model = ResNet(name="resnet")
    model(np.zeros((2, 16, 16, 3), np.float32))
    return model


def inside():
    """A subclassed model within a Functional one."""
    x = keras.Input((16, 16, 3), name="image")
    return keras.Model(x, L.Softmax()(ResNet(name="resnet")(x)))


def lambdas():
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = L.Lambda(lambda image: image / 255 * 2 - 1, name="to_one")(x)
    x = SqueezeExcite(name="se")(L.Conv2D(8, 3)(x))
    return keras.Model(inputs, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def dictionaries():
    model = Sum(name="sum")
    model({key: np.zeros((2, 16, 16, 3), np.float32) for key in ("left", "right")})
    return model


def twice():
    model = Twice(name="twice")
    model(np.zeros((2, 16, 16, 3), np.float32))
    return model


def own_call():
    x = keras.Input((16, 16, 3), name="image")
    return Residual(x, L.Conv2D(3, 3, padding="same")(x), name="residual")


class Mixed(L.Layer):
    """One matrix and one kernel of its own for both halves of the channels."""

    def build(self, shape):
        half = shape[-1] // 2
        self.kernel = self.add_weight(shape=(3, 3, half, half), name="kernel")
        self.matrix = self.add_weight(shape=(half, half), name="matrix")

    def call(self, x):
        halves = ops.split(x, 2, axis=-1)
        halves = [ops.conv(half, self.kernel, padding="same") for half in halves]
        left, right = (ops.matmul(half, self.matrix) for half in halves)
        return ops.concatenate([ops.maximum(left, right), left - right], axis=-1)


def operations():
    """Of keras.ops alone, but for two layers."""
    inputs = keras.Input((16, 16, 3), name="image")
    x = ops.pad(inputs[..., ::-1], ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = ops.relu6(Mixed(name="mixed")(L.Conv2D(8, 3)(x)))
    x = ops.max_pool(x, 2) + ops.average_pool(x, 2)
    x = x * ops.sigmoid(ops.mean(x, axis=-1, keepdims=True))
    x = ops.reshape(ops.transpose(x, (0, 3, 1, 2)), (-1, 8 * 8, 8))[:, :, 1:5]
    return keras.Model(inputs, ops.softmax(L.Dense(3)(ops.sum(x, axis=1))))


def _hard_swish(x):
    return x * ops.relu6(x + 3.0) / 6.0


def functions():
    """Activations that are functions: of TensorFlow, of one's own, without a name, in part."""
    x = keras.Input((8, 8, 3))
    y = L.Conv2D(4, 3, padding="same", activation=tf.nn.relu)(x)
    y = L.DepthwiseConv2D(3, activation=_hard_swish)(y)
    shared = L.Conv2D(4, 1, activation=lambda z: ops.relu(z) * 0.5, name="shared")
    y = L.Activation(tf.nn.silu)(shared(shared(y)))
    y = L.Reshape((-1, 4))(y)
    y = L.Dense(4, activation=functools.partial(ops.leaky_relu, negative_slope=0.125))(y)
    return keras.Model(x, L.Dense(3, activation=tf.nn.softmax)(L.GlobalAveragePooling1D()(y)))


def steps():
    """What is done to each step of a sequence, as recurrent networks are written."""
    x = keras.Input((6, 4))
    y = L.TimeDistributed(L.Dense(5, activation="relu"))(x)
    y = L.TimeDistributed(L.LayerNormalization())(L.TimeDistributed(L.Dropout(0.1))(y))
    y = L.TimeDistributed(L.Dense(4, activation=_hard_swish))(y)
    y = L.TimeDistributed(keras.Sequential([L.Dense(6, activation="relu"), L.Dense(4)]))(y)
    return keras.Model(x, L.TimeDistributed(L.Dense(3), name="tags")(y))


def frames():
    """A small CNN on each frame of a film, then one answer."""
    film = keras.Input((3, 8, 8, 3))
    frame = keras.Input((8, 8, 3))
    y = L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(L.Conv2D(5, 3)(frame))))
    y = L.TimeDistributed(keras.Model(frame, y, name="cnn"))(film)
    return keras.Model(film, L.Dense(3)(L.GlobalAveragePooling1D()(y)))


MODELS = (resnet, inside, lambdas, dictionaries, twice, own_call, operations, functions)
