"""The two level families behind one interface: `uniform` grids and learned, `free` levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.config import LEVEL_INITS
from ddq_tf.errors import DDQError
from ddq_tf.quantizers.fake_quant import fake_quantize
from ddq_tf.quantizers.gates import merge_levels
from ddq_tf.quantizers.grid import signed_qmax
from ddq_tf.quantizers.initial_levels import initial_levels
from ddq_tf.quantizers.nearest import CODE_MAX, CODE_STEP, nearest_codes, nearest_level, snap
from ddq_tf.quantizers.precision import pick

Tensor = Any


class UniformLevels:
    r"""The symmetric mid-tread grid k/n, |k| <= n = 2^(b-1) - 1, at each precision b."""

    def __init__(self, precisions: Sequence[int]) -> None:
        self.qmax = np.array([signed_qmax(b) for b in precisions], np.float32)

    def build(self) -> None:
        """Nothing to create."""

    def parameters(self) -> list[Tensor]:
        """Returns the tensors that `round` takes last: none."""
        return []

    def calibrate(self, units: np.ndarray, weights: np.ndarray) -> None:
        """Nothing to set: the grid is fixed."""

    def nearest(self, units: np.ndarray, index: int) -> np.ndarray:
        """Returns the level nearest to each value in units of the range, at one precision."""
        qmax = self.qmax[index]
        return np.clip(np.rint(units * qmax), -qmax, qmax) / qmax

    def round(self, x: Tensor, alpha: Tensor, selection: Tensor) -> Tensor:
        """Returns x on the grid; see `fake_quantize`, with s = alpha / n.

        Args:
            x: float32, any shape.
            alpha: float32 > 0, the ranges; broadcasts against the trailing axes of x.
            selection: float32, shape (num_precisions,), one-hot.
        """
        qmax = pick(selection, ops.convert_to_tensor(self.qmax))
        return fake_quantize(x, self.scale(alpha, selection), ops.negative(qmax), qmax)

    def scale(self, alpha: Tensor, selection: Tensor) -> Tensor:
        """Returns the step of the integer codes."""
        reciprocal = ops.convert_to_tensor(np.reciprocal(self.qmax))
        return alpha * pick(selection, reciprocal)


class FreeLevels(keras.layers.Layer):
    r"""Learned levels q of length 2^b, b the highest precision, in units of the range (paper).

    Forward: sort, merge by the gates of the precision in force (`gates.merge_levels`), snap to the
    int8 grid k/127 (straight-through), so that codes are int8 whatever the levels learn; then
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
        if init not in LEVEL_INITS:
            raise DDQError(f"level_init must be one of {list(LEVEL_INITS)}. Received: {init!r}")
        self.precisions = tuple(precisions)
        self.init = init
        self.correction = correction
        self.highest = self.precisions[-1]
        gates = np.arange(self.highest)[None, :] < np.array(self.precisions)[:, None]
        self._gates = gates.astype(np.float32)

    def build(self, input_shape: Any = None) -> None:
        """Creates the levels, as a uniform grid."""
        start = initial_levels("uniform", self.highest)
        self.levels = self.add_weight(
            name="levels",
            shape=start.shape,
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(start, dtype),
        )
        self.built = True

    def parameters(self) -> list[Tensor]:
        """Returns the tensors that `round` takes last: the learned levels."""
        return [ops.copy(self.levels)]

    def calibrate(self, units: np.ndarray, weights: np.ndarray) -> None:
        """Sets the levels for values in units of the range; see `initial_levels`."""
        self.levels.assign(initial_levels(self.init, self.highest, units, weights))

    def nearest(self, units: np.ndarray, index: int) -> np.ndarray:
        """Returns the level nearest to each value in units of the range, at one precision."""
        levels = np.sort(np.asarray(ops.convert_to_numpy(self.levels)))
        merged = levels.reshape(2 ** self.precisions[index], -1).mean(axis=1)
        codes = np.rint(np.clip(merged, -1, 1) * CODE_MAX)
        return nearest_codes(units, codes) / np.float32(CODE_MAX)

    def in_force(self, learned: Tensor, selection: Tensor) -> Tensor:
        """Returns the sorted, merged and snapped levels at one precision; float32, (2^b,)."""
        return snap(merge_levels(ops.sort(learned), self.gates(selection)))

    def gates(self, selection: Tensor) -> Tensor:
        """Returns the gates of the selected precision: float32, shape (b,)."""
        return pick(selection, ops.convert_to_tensor(self._gates))

    def round(self, x: Tensor, alpha: Tensor, selection: Tensor, learned: Tensor) -> Tensor:
        """Returns alpha times the level nearest to x / alpha; see `nearest_level`.

        Args:
            x: float32, any shape.
            alpha: float32 > 0, the ranges; broadcasts against the trailing axes of x.
            selection: float32, shape (num_precisions,), one-hot.
            learned: of `parameters`.
        """
        gates, levels = self.gates(selection), self.in_force(learned, selection)
        return nearest_level(x, alpha, levels, gates, self.correction)

    def scale(self, alpha: Tensor, selection: Tensor) -> Tensor:
        """Returns the step of the integer codes: alpha / 127."""
        return alpha * CODE_STEP
