"""The activation quantizer: one learned range per tensor."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.quantizers.fake_quant import as_float32, clip_above, fake_quantize
from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax
from ddq_tf.quantizers.native import has_native_fake_quant, native_fake_quantize
from ddq_tf.quantizers.ranges import learned_range

Tensor = Any

_DEFAULT_RANGE = 6.0


@keras.saving.register_keras_serializable(package="ddq_tf")
class ActivationQuantizer(keras.layers.Layer):
    r"""Fake-quantizes an activation tensor on one uniform grid.

    Forward:
        x_q = s * clip(round(x / s), qmin, qmax),   s = alpha / qmax,
        alpha = min(learned_range(base, log_range), ceiling)
    on codes {0..2^b-1} (unsigned) or {-2^(b-1)..2^(b-1)-1} (signed), which at 8 bits are where
    INT8 saturates by itself. Gradients as in
    `fake_quantize` and `quantizers.ranges`.

    Args:
        num_bits: precision, 2..8.
        signed: whether the grid is symmetric about 0; otherwise it starts at 0.
        learned: whether the range is trained; model inputs keep theirs.
        ceiling: upper limit of the range, for example 6 after ReLU6, or None.
    """

    def __init__(
        self,
        num_bits: int = 8,
        signed: bool = True,
        learned: bool = True,
        ceiling: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 2 <= num_bits <= 8:
            raise DDQError(f"num_bits must lie in 2..8. Received: num_bits={num_bits!r}")
        self.num_bits = num_bits
        self.signed = signed
        self.learned = learned
        self.ceiling = ceiling

    def build(self, input_shape: Any) -> None:
        """Creates the range variables for activations of this shape."""
        self.log_range = self.add_weight(
            name="log_range", shape=(), initializer="zeros", trainable=self.learned
        )
        self.base_range = self.add_weight(
            name="base_range",
            shape=(),
            initializer=keras.initializers.Constant(self.ceiling or _DEFAULT_RANGE),
            trainable=False,
        )
        self.built = True

    @property
    def qmax(self) -> int:
        """The largest code."""
        return signed_qmax(self.num_bits) if self.signed else unsigned_qmax(self.num_bits)

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -self.qmax - 1 if self.signed else 0

    def scale(self) -> Tensor:
        """Returns s as a float32 scalar tensor."""
        alpha = learned_range(self.base_range, self.log_range)
        if self.ceiling is not None:
            alpha = clip_above(alpha, as_float32(self.ceiling))
        return alpha * float(np.float32(1.0 / self.qmax))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the fake-quantized activations; float32, the same shape."""
        scale = self.scale()
        if training and has_native_fake_quant(self.num_bits):
            return native_fake_quantize(inputs, scale, self.qmin, self.qmax)
        return fake_quantize(inputs, scale, as_float32(self.qmin), as_float32(self.qmax))

    def set_range(self, value: float) -> None:
        """Sets the range, for example from calibration; `value` > 0."""
        self.base_range.assign(value)
        self.log_range.assign(0.0)

    def rescale(self, factor: float) -> None:
        """Multiplies the range, up to the ceiling."""
        self.set_range(float(self.export_scale()) * self.qmax * factor)

    def export_scale(self) -> np.float32:
        """Returns s as the forward pass uses it."""
        return np.float32(np.asarray(ops.convert_to_numpy(self.scale())))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_bits": self.num_bits,
            "signed": self.signed,
            "learned": self.learned,
            "ceiling": self.ceiling,
        }
