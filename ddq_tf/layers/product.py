"""The product of two tensors of activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any
Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQMatmul(keras.layers.Layer):
    """a b, the matrix product of the last two axes; all axes before them are alike.

    A file multiplies codes: the second factor lies on a grid whose zero point is 0.
    """

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns the products.

        Args:
            inputs: a, of shape (..., rows, terms), and b, (..., terms, columns).
        """
        left, right = inputs
        return ops.matmul(left, right)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Returns (..., rows, columns)."""
        left, right = input_shape
        return (*left[:-1], right[-1])
