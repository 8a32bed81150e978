"""Convolution and dense layers that compute in float32, in the file too."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


class FloatLayer:
    """What a layer with a kernel becomes that a rule leaves in float; mixed in before it.

    It reads and writes quantized values all the same: in the file it stands between DEQUANTIZE and
    QUANTIZE. It has no precision and takes no part in budgets.
    """

    kernel: Any
    bias: Any

    def kernel_outputs_last(self) -> np.ndarray:
        """Returns the kernel, float32, output channels last, as DDQ layers hold it."""
        return np.asarray(keras.ops.convert_to_numpy(self.kernel), np.float32)


@keras.saving.register_keras_serializable(package="ddq_tf")
class FloatConv2D(FloatLayer, keras.layers.Conv2D):
    """`keras.layers.Conv2D` that stays in float."""


@keras.saving.register_keras_serializable(package="ddq_tf")
class FloatDepthwiseConv2D(FloatLayer, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` that stays in float."""


@keras.saving.register_keras_serializable(package="ddq_tf")
class FloatDense(FloatLayer, keras.layers.Dense):
    """`keras.layers.Dense` that stays in float."""


@keras.saving.register_keras_serializable(package="ddq_tf")
class FloatConv2DTranspose(FloatLayer, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` that stays in float."""

    def kernel_outputs_last(self) -> np.ndarray:
        """Returns the kernel, float32, output channels last, as DDQ layers hold it."""
        return np.swapaxes(super().kernel_outputs_last(), -1, -2)
