"""Initial dynamic ranges by mean squared error (numpy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_PERCENTILE = 99.99
_RATIOS = np.linspace(0.3, 1.0, 57, dtype=np.float32)
_RELATIVE_FLOOR = 1e-6
_ABSOLUTE_FLOOR = 1e-12


def max_weight_range(channels: np.ndarray) -> np.ndarray:
    """Returns the largest magnitude of each column, kept above zero.

    Args:
        channels: float, shape (weights_per_channel, num_channels).

    Returns:
        float32, shape (num_channels,). An all-zero channel gets a millionth of the tensor's
        largest magnitude, so that scales stay invertible.
    """
    largest = np.max(np.abs(channels), axis=0).astype(np.float32)
    floor = max(float(largest.max(initial=0.0)) * _RELATIVE_FLOOR, _ABSOLUTE_FLOOR)
    return np.maximum(largest, np.float32(floor))


def optimal_weight_range(
    channels: np.ndarray,
    nearest: Callable[[np.ndarray], np.ndarray],
    importance: np.ndarray | None = None,
) -> np.ndarray:
    """Returns for each channel the range with the least mean squared quantization error.

    Searches 57 ranges between 30 % and 100 % of the largest magnitude (reconstructed: the paper's
    initialisation was not found).

    Args:
        channels: float, shape (weights_per_channel, num_channels).
        nearest: from values in units of the range to the nearest levels.
        importance: of each squared error, float, broadcasts against `channels`; None for equal.

    Returns:
        float32, shape (num_channels,), all > 0.
    """
    weights = np.asarray(channels, np.float32)
    largest = max_weight_range(weights)
    best_error = np.full(largest.shape, np.inf, np.float32)
    best_range = largest.copy()
    for ratio in _RATIOS:
        candidate = largest * ratio
        rounded = nearest(weights / candidate) * candidate
        error = np.square(weights - rounded)
        error = np.mean(error if importance is None else error * importance, axis=0)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_range = np.where(better, candidate, best_range)
    return best_range


def optimal_activation_range(samples: np.ndarray, qmin: int, qmax: int) -> float:
    """Returns the range of one activation tensor with the least mean squared quantization error.

    Args:
        samples: float, any shape; a random sample of the tensor's values, with its extremes.
        qmin: smallest code.
        qmax: largest code, which the range falls on.

    Returns:
        The range: the largest representable value, > 0.
    """
    values = np.asarray(samples, np.float32).reshape(-1)
    largest = float(np.max(np.abs(values), initial=0.0)) or _RELATIVE_FLOOR
    candidates = largest * _RATIOS
    errors = []
    for candidate in candidates:
        scale = np.float32(candidate / qmax)
        rounded = np.clip(np.rint(values / scale), qmin, qmax) * scale
        errors.append(np.mean(np.square(values - rounded)))
    return float(candidates[int(np.argmin(errors))])


def percentile_activation_range(samples: np.ndarray) -> float:
    """Returns the magnitude that 99.99 % of the samples stay below, > 0.

    Where those are all 0, the greatest magnitude.
    """
    magnitudes = np.abs(np.asarray(samples, np.float32)).reshape(-1)
    percentile = float(np.percentile(magnitudes, _PERCENTILE))
    return percentile or float(magnitudes.max()) or _RELATIVE_FLOOR
