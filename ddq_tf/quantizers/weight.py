"""The weight quantizer: learned range, learned precision, uniform or learned levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.quantizers.calibration import max_weight_range, optimal_weight_range
from ddq_tf.quantizers.fake_quant import codes_of
from ddq_tf.quantizers.grid import signed_qmax
from ddq_tf.quantizers.levels import FreeLevels, FreeRounding, UniformLevels
from ddq_tf.quantizers.native import recomputed, shared
from ddq_tf.quantizers.precision import LearnedPrecision
from ddq_tf.quantizers.ranges import RangesNow, learned_range, range_value
from ddq_tf.quantizers.selection import pick
from ddq_tf.scheme import WeightScheme

Tensor = Any


@dataclasses.dataclass(frozen=True)
class RoundedKernel:
    """From a kernel, its ranges and levels to the fake-quantized kernel.

    A function of tensors alone: equal layers share what a backend compiles of it.

    Args:
        rounding: of the level family.
    """

    rounding: UniformLevels | FreeRounding

    def __call__(
        self,
        selection: Tensor,
        kernel: Tensor,
        ranges: Tensor,
        inverses: Tensor,
        base_range: Tensor,
        log_range: Tensor,
        *levels: Tensor,
    ) -> Tensor:
        """Returns the kernel at the selected precision.

        Args:
            selection: float32, shape (num_precisions,), one-hot.
            kernel: float32, any shape.
            ranges: `range_value(base_range, log_range)`, float32.
            inverses: of the level family, for these ranges. Neither is computed here: compiled,
                they would differ in their last bits from those of inference.
            base_range: float32, (num_precisions, *range_shape).
            log_range: likewise.
            levels: of the level family's `parameters`.
        """
        qmax = np.array([signed_qmax(b) for b in self.rounding.precisions], np.float32)
        speed = ops.convert_to_tensor(np.minimum(1.0, np.square(7 / qmax)).astype(np.float32))
        alpha = learned_range(
            *(pick(selection, rows) for rows in (base_range, log_range, speed, ranges))
        )
        inverse = pick(selection, inverses)
        return self.rounding.round(kernel, alpha, selection, *levels, inverse=inverse)


@dataclasses.dataclass(frozen=True)
class KernelCodes:
    """From a kernel, its step, ranges and levels to its codes; else as `RoundedKernel`."""

    rounding: UniformLevels | FreeRounding

    def __call__(
        self, selection: Tensor, kernel: Tensor, step: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Returns whole numbers in float32; their gradient is that of the kernel over the step."""
        return codes_of(RoundedKernel(self.rounding)(selection, kernel, *parameters), step)


@keras.saving.register_keras_serializable(package="ddq_tf")
class WeightQuantizer(LearnedPrecision):
    r"""Fake-quantizes a kernel at one of several precisions.

    Forward, at the precision b in force:
        x_q = alpha_b * q_j,   j = argmin_j |w / alpha_b - q_j|,
        alpha_b = learned_range(base_b, log_range_b),
    with the levels q of one of two families (`quantizers.levels`): `uniform`, k/n with
    n = 2^(b-1) - 1, or `free`, learned. There is one range per precision (see
    `quantizers.ranges`), since fewer levels want a tighter one. Ranges of more than 4 bits learn
    (7/n)^2 times slower: the rounding error that a better range can save falls as 1/n^2, and what
    remains of their gradient is noise.

    Variables: `log_range`, trainable, and `base_range`, both (num_precisions, *range_shape); those
    of `LearnedPrecision` and of the level family.

    Args:
        precisions: ascending, each 2..8; where there is no scheme.
        channel_axes: how many trailing axes of the kernel tell the output channels.
        scheme: all other options; or those of `WeightScheme` one by one.

    Attributes:
        bypass: whether kernels pass as they are.
    """

    def __init__(
        self,
        precisions: Sequence[int] = (4, 8),
        channel_axes: int = 1,
        scheme: WeightScheme | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"precisions": precisions, **kwargs}
        scheme = scheme or WeightScheme.taken_from(options)
        kwargs = {name: value for name, value in kwargs.items() if name not in scheme.names()}
        super().__init__(scheme.precisions, **kwargs)
        self.scheme = scheme
        self.channel_axes = channel_axes
        self.per_channel = scheme.per_channel
        self.channel_precision = scheme.channel_precision
        self.levels = (
            UniformLevels(self.precisions, scheme.narrow_range)
            if scheme.levels == "uniform"
            else FreeLevels(self.precisions, scheme.level_init, scheme.correction, name="levels")
        )
        self.bypass = False
        self._ranges_now = RangesNow()

    def build(self, kernel_shape: Sequence[int]) -> None:
        """Creates the variables for a kernel of this shape."""
        self.kernel_shape = tuple(int(d) for d in kernel_shape)
        self.channel_shape = self.kernel_shape[len(self.kernel_shape) - self.channel_axes :]
        ranges = self.channel_shape if self.per_channel else (1,) * self.channel_axes
        shape = (len(self.precisions), *ranges)
        self.log_range = self.add_weight(name="log_range", shape=shape, initializer="zeros")
        self.base_range = self.add_weight(
            name="base_range", shape=shape, initializer="ones", trainable=False
        )
        self.levels.build()
        self.add_precision(self.channel_shape if self.channel_precision else ())
        self.built = True

    def call(self, kernel: Tensor, training: bool | None = None) -> Tensor:
        """Returns the fake-quantized kernel; float32, the kernel's shape."""
        kernel = ops.copy(kernel)  # a tensor: custom gradients take no variables
        if self.bypass:
            return kernel
        if self.scheme.keep_zeros and training:
            kernel = ops.where(ops.equal(kernel, 0), 0.0, kernel)  # no gradient there
        selection = self.selection(training)
        tensors = (kernel, *self._parameters(training))
        if not training:
            return self._once(self._rounded)(selection, *tensors)
        # Uniform levels are as fast without, and XLA's compiler takes memory.
        if self.scheme.levels == "free":
            return self.with_gates(self._rounded, selection, tensors, recomputed)
        return self.with_gates(self._rounded, selection, tensors)

    def codes_and_step(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what `call` does in inference, as whole multiples of a step.

        Args:
            kernel: as `call` takes it.

        Returns:
            codes: float32, the kernel's shape; their gradient is that of the quantized kernel / s.
            s: float32 > 0, broadcasts against the kernel's channel axes; without gradient.
        """
        selection, parameters, rounding = (
            self.selection(False),
            self._parameters(),
            self.levels.rounding,
        )
        step = rounding.scale(pick(selection, parameters[0]), selection)
        codes = self._once(KernelCodes(rounding))(selection, ops.copy(kernel), step, *parameters)
        return codes, ops.stop_gradient(step)

    def _once(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Traces it once for kernels alike; not with free levels, whose gradient knows shapes."""
        return function if self.scheme.levels == "free" else shared(function, 1)

    @property
    def _rounded(self) -> RoundedKernel:
        return RoundedKernel(self.levels.rounding)

    def _parameters(self, training: bool | None = False) -> list[Tensor]:
        """The tensors that `RoundedKernel` takes last."""
        base, log = ops.copy(self.base_range), ops.copy(self.log_range)
        ranges = range_value(base, log)
        inverses = ops.stop_gradient(self.levels.rounding.inverses(ranges))
        return [ranges, inverses, base, log, *self.levels.parameters(training)]

    def calibrate(self, kernel: np.ndarray, *, method: str = "mse") -> None:
        """Sets the ranges, and free levels, for this kernel.

        Args:
            kernel: float32, the kernel's shape.
            method: "mse" for the least squared error per range and precision, "max" for the
                largest magnitude.
        """
        flat = self._columns(kernel)
        largest = max_weight_range(flat)
        self.levels.calibrate(flat / largest, np.broadcast_to(np.square(largest), flat.shape))
        if method == "mse":
            self.set_best_ranges(kernel)
        else:
            self._set_ranges([largest] * len(self.precisions))

    def set_best_ranges(self, kernel: np.ndarray, importance: np.ndarray | None = None) -> None:
        """Sets the range of least squared error at each precision.

        Args:
            kernel: float32, the kernel's shape.
            importance: of the squared error of each weight, >= 0; broadcasts against the kernel.
                None for equal importance.
        """
        flat = self._columns(kernel)
        if importance is not None:
            importance = self._columns(np.broadcast_to(importance, self.kernel_shape))
        self._set_ranges(
            [
                optimal_weight_range(
                    flat, lambda units, i=i: self.levels.nearest(units, i), importance
                )
                for i in range(len(self.precisions))
            ]
        )

    def _columns(self, values: np.ndarray) -> np.ndarray:
        """Values of the kernel's shape, a column for each range."""
        columns = int(np.prod(self.channel_shape)) if self.per_channel else 1
        return np.asarray(values, np.float32).reshape(-1, columns)

    def _set_ranges(self, ranges: Sequence[np.ndarray]) -> None:
        self.base_range.assign(np.stack(ranges).reshape(self.base_range.shape))
        self.log_range.assign(np.zeros(self.log_range.shape, np.float32))

    def set_range_at(self, index: int, alpha: np.ndarray) -> None:
        """Sets the ranges at precision number `index`: > 0, broadcast to their shape."""
        base = np.array(ops.convert_to_numpy(self.base_range))
        log = np.array(ops.convert_to_numpy(self.log_range))
        base[index], log[index] = alpha, 0.0
        self.base_range.assign(base)
        self.log_range.assign(log)

    @property
    def num_weights(self) -> int:
        """How many weights the kernel has."""
        return int(np.prod(self.kernel_shape))

    @property
    def num_channels(self) -> int:
        """How many output channels the kernel has."""
        return int(np.prod(self.channel_shape))

    @property
    def weights_per_channel(self) -> int:
        """How many weights each output channel has: a row in the file."""
        return self.num_weights // self.num_channels

    def rescale(self, factor: np.ndarray) -> None:
        """Multiplies the ranges; a kernel multiplied likewise keeps its codes.

        Args:
            factor: float, broadcasts to the range shape.
        """
        base = np.asarray(ops.convert_to_numpy(self.base_range), np.float64)
        self.base_range.assign(base * np.reshape(factor, base.shape[1:]))

    def range_in_force(self) -> np.ndarray:
        """Returns alpha at the precision in force: float32, the channel shape."""
        return self.range_at(self.indices)

    def range_at(self, index: int | np.ndarray) -> np.ndarray:
        """Returns alpha at precision number `index`, or each channel's: float32, channel shape."""
        ranges = self._ranges()
        ranges = np.broadcast_to(ranges, (len(ranges), *self.channel_shape))
        chosen = np.broadcast_to(np.asarray(index), self.channel_shape)
        return np.take_along_axis(ranges, chosen[None], axis=0)[0].copy()

    def levels_in_force(self) -> np.ndarray:
        """Returns the distinct levels of the highest precision in force: float32, ascending."""
        grid = np.linspace(-2, 1, 12 * 255, dtype=np.float32)
        return np.unique(self.levels.nearest(grid, int(np.max(self.indices))))

    def export(self, kernel: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns the integer codes and scales at the precision in force.

        Args:
            kernel: the float kernel.

        Returns:
            codes: int8, the kernel's shape; at most 2^num_bits different ones, and for uniform
                levels |code| <= 2^(num_bits-1) - 1, on a full grid also -2^(num_bits-1).
            scale: float32, the channel shape; codes * scale is what the forward pass uses.
        """
        quantized = self._rounded(self.selection(False), ops.copy(kernel), *self._parameters())
        scale = self.export_scale()
        codes = np.rint(np.asarray(ops.convert_to_numpy(quantized)) / scale).astype(np.int8)
        return codes, scale

    def export_scale(self) -> np.ndarray:
        """Returns the scales alone of `export`: float32, the channel shape."""
        ranges = self._ranges()
        steps = ranges * self.levels.units.reshape(-1, *(1,) * (ranges.ndim - 1))
        steps = np.broadcast_to(steps, (len(steps), *self.channel_shape))
        chosen = np.broadcast_to(self.indices, self.channel_shape)
        return np.take_along_axis(steps, chosen[None], axis=0)[0].copy()

    def _ranges(self) -> np.ndarray:
        """The ranges of all precisions."""
        return self._ranges_now.of(self.base_range, self.log_range)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            **self.scheme.to_dict(),
            "channel_axes": self.channel_axes,
        }
