"""The activation quantizer: learned range, learned precision, a uniform grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from ddq_tf.quantizers.fake_quant import as_float32, clip_above, fake_quantize
from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax
from ddq_tf.quantizers.native import has_native_kernels, native_fake_quantize
from ddq_tf.quantizers.precision import LearnedPrecision, pick
from ddq_tf.quantizers.ranges import RangesNow, learned_range

Tensor = Any

_DEFAULT_RANGE = 6.0


@keras.saving.register_keras_serializable(package="ddq_tf")
class ActivationQuantizer(LearnedPrecision):
    r"""Fake-quantizes an activation tensor on a uniform grid, one range per precision.

    Forward, at the precision b in force:
        x_q = s * clip(round(x / s), qmin, qmax),   s = alpha_b / qmax,
        alpha_b = min(learned_range(base_b, log_range_b), ceiling)
    on codes {0..2^b-1} (unsigned) or {-n..n}, n = 2^(b-1)-1 (signed), at 8 bits {-128..127}, where
    INT8 saturates by itself. Gradients as in `fake_quantize` and `quantizers.ranges`.

    Variables: `log_range` and `base_range`, both (num_precisions,); `signed`, bool, so that saved
    weights tell what their codes mean; those of `LearnedPrecision`.

    Args:
        precisions: ascending, each 2..8.
        signed: whether the grid is symmetric about 0; otherwise it starts at 0.
        learned: whether the range is trained; model inputs keep theirs.
        ceiling: upper limit of the range, for example 6 after ReLU6, or None.
    """

    def __init__(
        self,
        precisions: Sequence[int] = (8,),
        signed: bool = True,
        learned: bool = True,
        ceiling: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(precisions, **kwargs)
        self._signed = signed
        self.learned = learned
        self.ceiling = ceiling
        self._ranges_now = RangesNow()

    def build(self, input_shape: Any) -> None:
        """Creates the variables for activations of this shape."""
        shape = (len(self.precisions),)
        self.log_range = self.add_weight(
            name="log_range", shape=shape, initializer="zeros", trainable=self.learned
        )
        self.base_range = self.add_weight(
            name="base_range",
            shape=shape,
            initializer=keras.initializers.Constant(self.ceiling or _DEFAULT_RANGE),
            trainable=False,
        )
        self._stored_signed = self.add_weight(
            name="signed",
            shape=(),
            dtype="bool",
            initializer=keras.initializers.Constant(self._signed),
            trainable=False,
        )
        self.num_values = int(np.prod([d or 1 for d in input_shape[1:]]))
        self.add_precision()
        self.built = True

    @property
    def signed(self) -> bool:
        """Whether the grid is symmetric about 0."""
        return self._signed

    @signed.setter
    def signed(self, value: bool) -> None:
        self._signed = bool(value)
        self._stored_signed.assign(self._signed)

    def adopt_stored(self) -> bool:
        """Takes over whether the grid is signed from weights that were loaded.

        Returns:
            Whether that changes anything: what was traced before is then out of date.
        """
        before, self._signed = self._signed, bool(ops.convert_to_numpy(self._stored_signed))
        return self._signed != before

    def limits(self, num_bits: int) -> tuple[int, int]:
        """Returns the smallest and the largest code at a precision."""
        if not self.signed:
            return 0, unsigned_qmax(num_bits)
        qmax = signed_qmax(num_bits)
        return (-qmax - 1 if num_bits == 8 else -qmax), qmax

    @property
    def qmin(self) -> int:
        """The smallest code in force."""
        return self.limits(self.num_bits)[0]

    @property
    def qmax(self) -> int:
        """The largest code in force."""
        return self.limits(self.num_bits)[1]

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the fake-quantized activations; float32, the same shape."""
        selection, tensors = self.selection(training), (inputs, ops.copy(self.log_range))
        if not training:
            return self._portable(selection, *tensors)
        return self.with_gates(self._quantize, selection, tensors)

    def _quantize(self, selection: Tensor, x: Tensor, log_range: Tensor) -> Tensor:
        """The activations at the selected precision, by the backend's fastest way."""
        if not has_native_kernels():
            return self._portable(selection, x, log_range)
        limits = tuple(self.limits(bits) for bits in self.precisions)
        index = ops.cast(ops.argmax(selection), "int32")
        return native_fake_quantize(x, self._scale(selection, log_range), index, limits)

    def at(self, index: int, inputs: Tensor) -> Tensor:
        """Returns the activations fake-quantized at precision number `index`."""
        selection = ops.one_hot(index, len(self.precisions), dtype="float32")
        return self._portable(selection, inputs, ops.copy(self.log_range))

    def _portable(self, selection: Tensor, x: Tensor, log_range: Tensor) -> Tensor:
        limits = np.array([self.limits(b) for b in self.precisions], np.float32)
        qmin, qmax = (pick(selection, ops.convert_to_tensor(column)) for column in limits.T.copy())
        return fake_quantize(x, self._scale(selection, log_range), qmin, qmax)

    def scale(self, selection: Tensor) -> Tensor:
        """Returns s at the selected precision as a float32 scalar tensor."""
        return self._scale(selection, ops.copy(self.log_range))

    def _scale(self, selection: Tensor, log_range: Tensor) -> Tensor:
        base = pick(selection, ops.convert_to_tensor(self.base_range))
        alpha = learned_range(base, pick(selection, log_range))
        if self.ceiling is not None:
            alpha = clip_above(alpha, as_float32(self.ceiling))
        reciprocal = [1.0 / self.limits(b)[1] for b in self.precisions]
        return alpha * pick(selection, ops.convert_to_tensor(np.array(reciprocal, np.float32)))

    def set_range(self, values: npt.ArrayLike) -> None:
        """Sets the range, for example from calibration: one > 0, or one for each precision."""
        self.base_range.assign(np.broadcast_to(values, self.base_range.shape))
        self.log_range.assign(np.zeros(self.log_range.shape, np.float32))

    def rescale(self, factor: float) -> None:
        """Multiplies the range in force, up to the ceiling."""
        index = int(self.indices)
        base = np.array(ops.convert_to_numpy(self.base_range))
        log = np.array(ops.convert_to_numpy(self.log_range))
        base[index], log[index] = float(self.export_scale()) * self.qmax * factor, 0.0
        self.base_range.assign(base)
        self.log_range.assign(log)

    def export_scale(self) -> np.float32:
        """Returns s as the forward pass uses it, bit by bit."""
        index = int(self.indices)
        alpha = self._ranges_now.of(self.base_range, self.log_range)[index]
        if self.ceiling is not None:
            alpha = min(alpha, np.float32(self.ceiling))
        return alpha * np.float32(1.0 / self.limits(self.precisions[index])[1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "signed": self.signed,
            "learned": self.learned,
            "ceiling": self.ceiling,
        }
