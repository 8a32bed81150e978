"""The activation quantizer: learned range, learned precision, a uniform grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from ddq_tf.quantizers.fake_quant import as_float32, clip_above, fake_quantize
from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax
from ddq_tf.quantizers.native import has_native_kernels, native_fake_quantize, shared
from ddq_tf.quantizers.precision import LearnedPrecision
from ddq_tf.quantizers.ranges import RangesNow, learned_range, range_value
from ddq_tf.quantizers.selection import pick, pick_number

Tensor = Any

_DEFAULT_RANGE = 6.0


@dataclasses.dataclass(frozen=True)
class RoundedActivation:
    """From activations and their ranges to the fake-quantized activations.

    A function of tensors alone: equal quantizers share what a backend traces of it.

    Args:
        limits: smallest and largest code of each precision.
        ceiling: upper limit of the range, or None.
        native: whether the backend's own kernels round in training.
    """

    limits: tuple[tuple[int, int], ...]
    ceiling: float | None
    native: bool

    def __call__(
        self, selection: Tensor, x: Tensor, base_range: Tensor, log_range: Tensor
    ) -> Tensor:
        """Returns the activations at the selected precision, by the backend's fastest way.

        Args:
            selection: float32, shape (num_precisions,), one-hot.
            x: float32, any shape.
            base_range: float32, (num_precisions,).
            log_range: likewise.
        """
        if not self.native:
            return self.portable(selection, x, base_range, log_range)
        index = ops.cast(ops.argmax(selection), "int32")
        scale = self.scale(selection, base_range, log_range)
        return native_fake_quantize(x, scale, index, self.limits)

    def portable(
        self, selection: Tensor, x: Tensor, base_range: Tensor, log_range: Tensor
    ) -> Tensor:
        """Returns the same by `fake_quantize`, ties to even."""
        ends = np.array(self.limits, np.float32).T.copy()
        qmin, qmax = (pick(selection, ops.convert_to_tensor(column)) for column in ends)
        return fake_quantize(x, self.scale(selection, base_range, log_range), qmin, qmax)

    def scale(self, selection: Tensor, base_range: Tensor, log_range: Tensor) -> Tensor:
        """Returns s at the selected precision as a float32 scalar tensor."""
        alpha = learned_range(pick(selection, base_range), pick(selection, log_range))
        if self.ceiling is not None:
            alpha = clip_above(alpha, as_float32(self.ceiling))
        return alpha * pick_number(selection, self.reciprocals)

    @property
    def reciprocals(self) -> np.ndarray:
        """Of the largest code of each precision: float32."""
        return np.array([1.0 / qmax for _, qmax in self.limits], np.float32)


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
        self.ceiling = None if ceiling is None else float(ceiling)
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
        selection, tensors = self.selection(training), (inputs, *self._ranges())
        if not training:
            portable = dataclasses.replace(self._rounded, native=False)
            return shared(portable, 1)(selection, *tensors)
        return self.with_gates(self._rounded, selection, tensors)

    @property
    def _rounded(self) -> RoundedActivation:
        limits = tuple(map(self.limits, self.precisions))
        return RoundedActivation(limits, self.ceiling, has_native_kernels())

    def _ranges(self) -> tuple[Tensor, Tensor]:
        return ops.copy(self.base_range), ops.copy(self.log_range)

    def at(self, index: int, inputs: Tensor) -> Tensor:
        """Returns the activations fake-quantized at precision number `index`."""
        selection = ops.one_hot(index, len(self.precisions), dtype="float32")
        return self._rounded.portable(selection, inputs, *self._ranges())

    def scale(self, selection: Tensor) -> Tensor:
        """Returns s at the selected precision as a float32 scalar tensor."""
        return self._rounded.scale(selection, *self._ranges())

    def current_step(self) -> Tensor:
        """Returns s in inference, without gradient: a float32 scalar tensor, of the same bits."""
        selection = self.selection(False)
        alpha = range_value(*(pick(selection, row) for row in self._ranges()))
        if self.ceiling is not None:
            alpha = ops.minimum(alpha, as_float32(self.ceiling))
        return alpha * pick_number(selection, self._rounded.reciprocals)

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
