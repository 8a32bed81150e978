"""The product of two tensors of activations, and their sum where it broadcasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from ddq_tf.layers.codes import LARGEST_CODE, Grids, sums_of_codes
from ddq_tf.quantizers.fake_quant import codes_of

Tensor = Any
Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQAdd(keras.layers.Add):
    """a + b of two tensors that broadcast.

    On TensorFlow, `keras.ops.add` takes b for a bias where b has but one axis of more than one
    element and that is as long as the channels of a: a column of 8 rows, or one number for each of
    8 examples, beside 8 channels. A difference is read as it is written, and a - (-b) is a + b.
    """

    def _merge_function(self, inputs: Sequence[Tensor]) -> Tensor:
        first, second = inputs
        return ops.subtract(first, ops.negative(second))


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQMatmul(keras.layers.Layer):
    """a b, the matrix product of the last two axes; all axes before them are alike.

    A file multiplies codes: the second factor lies on a grid whose zero point is 0. So does
    inference (`ddq_tf.layers.codes`).

    Attributes:
        grids: what the factors lie on, where it is the same wherever the layer stands; else None.
    """

    grids: Grids | None = None

    def call(self, inputs: Sequence[Tensor], training: bool | None = None) -> Tensor:
        """Returns the products.

        Args:
            inputs: a, of shape (..., rows, terms), and b, (..., terms, columns).
            training: whether the model trains.
        """
        left, right = inputs
        if training or self.grids is None or not self.grids.hold:
            return ops.matmul(left, right)
        one, other = self.grids.steps()
        sums = sums_of_codes(
            ops.matmul,
            codes_of(left, one),
            codes_of(right, other),
            largest=LARGEST_CODE * LARGEST_CODE,
            terms=left.shape[-1],
        )
        return sums * ops.stop_gradient(one * other)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        """Returns (..., rows, columns)."""
        left, right = input_shape
        return (*left[:-1], right[-1])
