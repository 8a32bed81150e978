"""Normalizations of rows, in inference computed step by step as a file does, in float32.

A row is what lies along the last axis. Every step is an operation of IEEE on one or two floats, or
a sum that is exact in any order, so that the same codes come out everywhere:

    spread = max x - min x            (without a mean: the greatest |x|)
    d = x - mean x                    (without a mean: x)
    y = d / sqrt(mean d^2 + epsilon)

What is summed up is first rounded to 2^-j of the greatest it can be, with j the largest for which
float32 holds all sums: 14 to 23 binary places for rows of 1024 to 1. Longer rows are added up in
parts of 1024. The square root is Heron's, s <- (s + v / s) / 2, from a start between the least and
the greatest that it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from ddq_tf.layers.formulas import MOST_POWERS, Value, steps_in_keras

Tensor = Any
Number = Callable[[Any], Any]

_PRECISE = 1 + 2.0**-11  # from there on one more step of Heron's is as good as float32


def normalized(x: Value, size: int, epsilon: float, *, has_mean: bool) -> Value:
    """Returns d / sqrt(mean d^2 + epsilon) of each row.

    Args:
        x: the rows.
        size: of a row.
        epsilon: > 0.
        has_mean: whether the mean is taken away first.
    """
    if has_mean:
        # Small where x varies little, however large x is. TFLite Micro subtracts a column from rows
        # rightly, not rows from a column.
        below = x - x.of("PEAK")
        spread = (-below).of("PEAK")
        d = below - _mean(below, -spread, size)
    else:
        d, spread = x, abs(x).of("PEAK")
    variance = _mean(d * d, spread * spread, size)
    least = math.sqrt(epsilon)
    # Of two values at least, that lie `spread` apart; and (a + b)^2 <= 2 (a^2 + b^2).
    root = _root(variance + epsilon, spread + least, math.sqrt(5 * size))
    return d * (1.0 / root)


def _mean(x: Value, greatest: Value, size: int) -> Value:
    """The mean of a row of values between 0 and `greatest`, each rounded."""
    places = math.ceil(math.log2(min(size, MOST_POWERS)))
    large = greatest * (1.5 * 2.0**places)
    return ((x + large) - large).of("TOTAL") * (1 / size)


def _root(x: Value, greatest: Value, ratio: float) -> Value:
    """Sqrt(x), which lies in [greatest / ratio, greatest]."""
    worst = math.sqrt(ratio)
    root = greatest * (1 / worst)
    while worst > 1:
        mean = (worst + 1 / worst) / 2
        is_last, worst = worst < _PRECISE, math.sqrt(mean)
        root = (root + x / root) * (0.5 if is_last else 0.5 / worst)
        if is_last:
            break
    return root


class RowNormalization(keras.layers.Layer):
    """What the layers below have in common; mixed in before Keras's own, which trains.

    Attributes:
        has_mean: whether the mean is taken away first.
    """

    has_mean: bool
    epsilon: float

    def gain(self, size: int) -> Any:
        """Returns what rows of `size` values are multiplied with at the end, or None."""
        raise NotImplementedError

    def shift(self) -> Any:
        """Returns what is added at the end, or None."""
        return None

    def steps(self, x: Value, shape: Sequence[Any], number: Number) -> Value:
        """Returns what the layer makes of its inputs.

        Args:
            x: the inputs.
            shape: theirs.
            number: makes an operand of a variable or a number.
        """
        y = normalized(x, shape[-1], self.epsilon, has_mean=self.has_mean)
        return self._scaled(y, shape[-1], number)

    def _scaled(self, y: Value, size: int, number: Number) -> Value:
        for kind, by in (("MUL", self.gain(size)), ("ADD", self.shift())):
            y = y if by is None else y.of(kind, number(by))
        return y

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Normalizes; float32, the inputs' shape."""
        if training:
            return super().call(inputs)
        rows = Value(steps_in_keras, inputs)
        return self.steps(rows, inputs.shape, ops.convert_to_tensor).tensor


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQLayerNormalization(RowNormalization, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis."""

    has_mean = True

    def gain(self, size: int) -> Any:
        """Returns gamma."""
        return self.gamma

    def shift(self) -> Any:
        """Returns beta."""
        return self.beta


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQRMSNormalization(RowNormalization, keras.layers.RMSNormalization):
    """`keras.layers.RMSNormalization` over the last axis."""

    has_mean = False

    def gain(self, size: int) -> Any:
        """Returns the scale."""
        return self.scale


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQUnitNormalization(RowNormalization, keras.layers.UnitNormalization):
    """`keras.layers.UnitNormalization` over the last axis: x / |x|."""

    has_mean = False
    epsilon = 1e-24

    def gain(self, size: int) -> Any:
        """Returns what turns root mean squares into lengths."""
        return size**-0.5


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQGroupNormalization(RowNormalization, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` of (batch, channels, positions): axis 1."""

    has_mean = True

    def steps(self, x: Value, shape: Sequence[Any], number: Number) -> Value:
        """Returns what the layer makes of its inputs: each group is a row."""
        _, channels, positions = shape
        size = channels // self.groups * positions
        rows = x.of("VIEW", (self.groups, size))
        y = normalized(rows, size, self.epsilon, has_mean=True)
        return self._scaled(y.of("VIEW", (channels, positions)), size, number)

    def gain(self, size: int) -> Any:
        """Returns gamma, (channels, 1)."""
        return None if self.gamma is None else self.gamma[:, None]

    def shift(self) -> Any:
        """Returns beta, (channels, 1)."""
        return None if self.beta is None else self.beta[:, None]
