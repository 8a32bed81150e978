"""How far outputs are from those of the float network."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.reconstruction.streams import Values
from ddq_tf.reconstruction.tracing import batch_slices

_BATCH = 32
_SMALLEST_POWER = 1e-12


class RelativeError(keras.losses.Loss):
    """mean (y - y_float)^2 / mean y_float^2, the latter over all data.

    Args:
        power: mean y_float^2.
    """

    def __init__(self, power: float) -> None:
        super().__init__(name="relative_error")
        self.power = max(float(power), _SMALLEST_POWER)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns one number for each example."""
        squares: Any = ops.square(ops.subtract(y_pred, y_true))
        mean: Any = ops.mean(squares, axis=tuple(range(1, len(squares.shape))))
        return mean / self.power


def loss_towards(wanted: Values, *, probabilities: bool) -> keras.losses.Loss:
    """Returns the loss that compares outputs with the float network's.

    Args:
        wanted: all outputs of the float network.
        probabilities: whether they are: then KL(y_float || y) in nats, else `RelativeError`.
    """
    if probabilities:
        return keras.losses.KLDivergence()
    parts = batch_slices(len(wanted), _BATCH)
    sums = [np.sum(np.square(wanted[part]), dtype=np.float64) for part in parts]
    return RelativeError(float(np.sum(sums) / math.prod(wanted.shape)))
