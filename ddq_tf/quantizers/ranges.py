r"""Learned dynamic ranges: alpha = base * exp(bounded(log_range)).

`base` is the calibrated range; `log_range` learns from 0. So a range stays positive, an Adam step
is a relative step, and weight decay pulls towards calibration instead of 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

Tensor = Any

_BOUND = 2.0
_SMALLEST = 1e-2


def range_value(base: Tensor, log_range: Tensor) -> Tensor:
    """Returns alpha = base * exp(2 tanh(log_range / 2)), without gradient; see `learned_range`."""
    return ops.stop_gradient(base) * _factor(ops.stop_gradient(log_range))


def _factor(log_range: Tensor) -> Tensor:
    return ops.exp(ops.multiply(ops.tanh(log_range * (1.0 / _BOUND)), _BOUND))


class RangesNow:
    """The ranges that two variables hold, in numpy, with the bits that the forward pass computes.

    Exporting and aligning ask for them thousands of times. The backend is asked only for
    exp(2 tanh(log_range / 2)), and only when `log_range` has changed.
    """

    def __init__(self) -> None:
        self._log = self._factor = np.ones(0, np.float32)

    def of(self, base: Any, log_range: Any) -> np.ndarray:
        """Returns alpha: float32, the variables' shape.

        Args:
            base: the variable.
            log_range: likewise.
        """
        log = np.asarray(ops.convert_to_numpy(log_range))
        if not np.array_equal(log, self._log):
            self._log, self._factor = log.copy(), _factor_of(log)
        return np.asarray(ops.convert_to_numpy(base)) * self._factor


def _factor_of(log: np.ndarray) -> np.ndarray:
    if not log.any():
        return np.ones_like(log)
    return np.array(ops.convert_to_numpy(_factor(ops.convert_to_tensor(log))))


def learned_range(
    base: Tensor, log_range: Tensor, speed: Tensor | float = 1.0, value: Tensor = None
) -> Tensor:
    r"""Returns alpha = base * exp(2 tanh(log_range / 2)); reconstructed.

    The bound keeps a range within a factor e^2 = 7.4 of its calibration: before a BatchNorm the
    loss is indifferent to a channel's scale, and nothing else would stop its range from wandering.

    The gradient of `log_range` is multiplied by speed / base^2, so that at speed 1 plain SGD moves
    alpha as if alpha were the parameter: d alpha = base * d log_range = -lr * dL/d alpha. Ranges
    below 0.01 (dead channels) count as 0.01 there.

    Args:
        base: float32 > 0, any shape; a tensor or variable.
        log_range: float32, the same shape; likewise.
        speed: broadcasts against base.
        value: alpha, where it is known: `range_value(base, log_range)`.

    Returns:
        alpha: float32, the same shape.
    """
    base, log_range = ops.copy(base), ops.copy(log_range)
    speed = ops.convert_to_tensor(speed, "float32")
    value = range_value(base, log_range) if value is None else value
    return _learned_range(value, base, log_range, speed)


@ops.custom_gradient
def _learned_range(value: Tensor, base: Tensor, log_range: Tensor, speed: Tensor) -> Tensor:
    """`learned_range` with its gradient by hand: far fewer operations than composed ones."""

    def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, ...]:
        g = args[0] if upstream is None else upstream
        factor = speed / ops.maximum(ops.square(base), _SMALLEST**2)
        bounded = ops.tanh(log_range * (1.0 / _BOUND))
        dlog_range = g * value * ops.subtract(1.0, ops.square(bounded)) * factor
        return ops.zeros_like(value), ops.zeros_like(base), dlog_range, ops.zeros_like(speed)

    return ops.copy(value), grad
