"""The two level families behind one interface: `uniform` grids and learned, `free` levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.quantizers.fake_quant import fake_quantize
from ddq_tf.quantizers.gates import merge_levels
from ddq_tf.quantizers.grid import signed_qmax, signed_qmin
from ddq_tf.quantizers.initial_levels import initial_levels
from ddq_tf.quantizers.native import compiled, has_native_kernels
from ddq_tf.quantizers.nearest import (
    CODE_MAX,
    CODE_STEP,
    cell_tables,
    nearest_codes,
    nearest_level,
    snap,
)
from ddq_tf.quantizers.selection import pick

Tensor = Any


@dataclasses.dataclass(frozen=True)
class UniformLevels:
    r"""The mid-tread grid k/n, |k| <= n = 2^(b-1) - 1, at each precision b.

    Args:
        precisions: ascending.
        narrow_range: False to add k = -n - 1 below 8 bits.
    """

    precisions: tuple[int, ...]
    narrow_range: bool = True

    @property
    def qmax(self) -> np.ndarray:
        """The largest code of each precision: float32."""
        return np.array([signed_qmax(b) for b in self.precisions], np.float32)

    @property
    def qmin(self) -> np.ndarray:
        """The smallest code of each precision: float32."""
        return np.array([signed_qmin(b, self.narrow_range) for b in self.precisions], np.float32)

    @property
    def largest_code(self) -> int:
        """The greatest magnitude of a code at any precision."""
        return int(-self.qmin[-1])

    @property
    def units(self) -> np.ndarray:
        """The step of the integer codes at each precision, in units of the range: float32."""
        return np.reciprocal(self.qmax)

    @property
    def rounding(self) -> UniformLevels:
        """What has `round` and `scale`: itself, since nothing is learned."""
        return self

    def build(self) -> None:
        """Nothing to create."""

    def parameters(self, training: bool | None = False) -> list[Tensor]:
        """Returns the tensors that `round` takes last: none."""
        return []

    def calibrate(self, units: np.ndarray, weights: np.ndarray) -> None:
        """Nothing to set: the grid is fixed."""

    def nearest(self, units: np.ndarray, index: int | np.ndarray) -> np.ndarray:
        """Returns the level nearest to each value in units of the range, at one precision.

        With one index for each channel, channels are the last axes of `units`.
        """
        qmin, qmax = self.qmin[index], self.qmax[index]
        return np.clip(np.rint(units * qmax), qmin, qmax) / qmax

    def round(self, x: Tensor, alpha: Tensor, selection: Tensor, inverse: Tensor = None) -> Tensor:
        """Returns x on the grid; see `fake_quantize`, with s = alpha / n.

        Args:
            x: float32, any shape.
            alpha: float32 > 0, the ranges; broadcasts against the trailing axes of x.
            selection: float32, (num_precisions,) or (num_precisions, *channels), one-hot.
            inverse: of `inverses` at that precision, where it is known.
        """
        qmin, qmax = (pick(selection, ops.convert_to_tensor(q)) for q in (self.qmin, self.qmax))
        return fake_quantize(x, self.scale(alpha, selection), qmin, qmax, inverse)

    def inverses(self, ranges: Tensor) -> Tensor:
        """Returns what `round` multiplies by at all precisions, (num_precisions, ...)."""
        column = (-1,) + (1,) * (len(ranges.shape) - 1)
        return ops.reciprocal(ranges * np.reshape(self.units, column))

    def scale(self, alpha: Tensor, selection: Tensor) -> Tensor:
        """Returns the step of the integer codes."""
        return alpha * pick(selection, ops.convert_to_tensor(self.units))


@dataclasses.dataclass(frozen=True)
class FreeRounding:
    """Rounding to learned levels, as functions of tensors alone.

    Args:
        precisions: ascending.
        correction: coefficient of the gradient correction; see `nearest_level`.
    """

    precisions: tuple[int, ...]
    correction: float

    def round(
        self,
        x: Tensor,
        alpha: Tensor,
        selection: Tensor,
        levels: Tensor,
        tables: Tensor,
        inverse: Tensor = None,
    ) -> Tensor:
        """Returns alpha times the level nearest to x / alpha; see `nearest_level`.

        Args:
            x: float32, any shape.
            alpha: float32 > 0, the ranges; broadcasts against the trailing axes of x.
            selection: float32, shape (num_precisions,), one-hot.
            levels: of `LevelsInForce`.
            tables: likewise.
            inverse: of `inverses` at that precision, where it is known.
        """
        blocks = np.array([2.0 ** (self.precisions[-1] - b) for b in self.precisions], np.float32)
        block, level, table = (
            pick(selection, ops.convert_to_tensor(rows)) for rows in (blocks, levels, tables)
        )
        return nearest_level(x, alpha, level, table, block, self.correction, inverse)

    def inverses(self, ranges: Tensor) -> Tensor:
        """Returns what `round` multiplies by at all precisions, (num_precisions, ...)."""
        return ops.reciprocal(ranges)

    def scale(self, alpha: Tensor, selection: Tensor) -> Tensor:
        """Returns the step of the integer codes: alpha / 127."""
        return alpha * CODE_STEP


@dataclasses.dataclass(frozen=True)
class LevelsInForce:
    """From learned levels to those in force, as a function of tensors alone.

    Args:
        precisions: ascending.
    """

    precisions: tuple[int, ...]

    def __call__(self, learned: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sorted, merged and snapped levels, and the `cell_tables` of each precision.

        Args:
            learned: float32, shape (2^b,).

        Returns:
            levels: float32, (num_precisions, 2^b).
            tables: float32, (num_precisions, 2, 508), without gradient.
        """
        ascending = ops.sort(learned)
        highest = np.arange(self.precisions[-1])
        levels = snap(ops.stack([merge_levels(ascending, highest < b) for b in self.precisions]))
        fixed: Tensor = ops.stop_gradient(levels)
        blocks = [2 ** (len(highest) - b) for b in self.precisions]
        return levels, ops.stack([cell_tables(fixed[i], n) for i, n in enumerate(blocks)])


class FreeLevels(keras.layers.Layer):
    r"""Learned levels q of length 2^b, b the highest precision, in units of the range (paper).

    Forward: sort, merge by the gates of each precision (`gates.merge_levels`), snap to the int8
    grid k/127 (straight-through), so that codes are int8 whatever the levels learn; then
    `nearest_level`.

    Variable: `levels`, trainable, (2^b,).

    Args:
        precisions: ascending.
        init: "uniform", "power_of_two" or "kmeans"; see `quantizers.initial_levels`.
        correction: coefficient of the gradient correction; see `nearest_level`.
    """

    def __init__(
        self, precisions: Sequence[int], init: str, correction: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.precisions = tuple(precisions)
        self.init = init
        self.rounding = FreeRounding(self.precisions, float(correction))
        self.highest = self.precisions[-1]
        self.units = np.full(len(self.precisions), CODE_STEP, np.float32)
        self.largest_code = CODE_MAX

    def build(self, input_shape: Any = None) -> None:
        """Creates the levels, as a uniform grid."""
        start = initial_levels("uniform", self.highest)
        self.levels = self.add_weight(
            name="levels",
            shape=start.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype),
        )
        self.built = True

    def parameters(self, training: bool | None = False) -> list[Tensor]:
        """Returns the tensors that `round` takes last; see `LevelsInForce`."""
        in_force, learned = LevelsInForce(self.precisions), ops.copy(self.levels)
        if training and has_native_kernels():
            return [*compiled(in_force)(learned)]
        return [*in_force(learned)]

    def calibrate(self, units: np.ndarray, weights: np.ndarray) -> None:
        """Sets the levels for values in units of the range; see `initial_levels`."""
        self.levels.assign(initial_levels(self.init, self.highest, units, weights))

    def nearest(self, units: np.ndarray, index: int) -> np.ndarray:
        """Returns the level nearest to each value in units of the range, at one precision."""
        levels = np.sort(np.asarray(ops.convert_to_numpy(self.levels)))
        merged = levels.reshape(2 ** self.precisions[index], -1).mean(axis=1)
        codes = np.rint(np.clip(merged, -1, 1) * CODE_MAX)
        return nearest_codes(units, codes) / np.float32(CODE_MAX)
