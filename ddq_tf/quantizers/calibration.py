"""Initial dynamic ranges by mean squared error (numpy)."""

from __future__ import annotations

import numpy as np

from ddq_tf.quantizers.grid import signed_qmax, unsigned_qmax

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


def optimal_weight_range(channels: np.ndarray, num_bits: int) -> np.ndarray:
    """Returns for each channel the range with the least mean squared quantization error.

    Searches 57 ranges between 30 % and 100 % of the largest magnitude on the symmetric grid
    (reconstructed: the paper's initialisation was not found).

    Args:
        channels: float, shape (weights_per_channel, num_channels).
        num_bits: precision, 2..8.

    Returns:
        float32, shape (num_channels,), all > 0.
    """
    weights = np.asarray(channels, np.float32)
    largest = max_weight_range(weights)
    qmax = signed_qmax(num_bits)
    best_error = np.full(largest.shape, np.inf, np.float32)
    best_range = largest.copy()
    for ratio in _RATIOS:
        candidate = largest * ratio
        error = _squared_error(weights, candidate / qmax, -qmax, qmax)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_range = np.where(better, candidate, best_range)
    return best_range


def optimal_activation_range(samples: np.ndarray, num_bits: int, *, signed: bool) -> float:
    """Returns the range of one activation tensor with the least mean squared quantization error.

    Args:
        samples: float, any shape; a random sample of the tensor's values, with its extremes.
        num_bits: precision, 2..8.
        signed: whether the grid is symmetric; otherwise it starts at 0.

    Returns:
        The range: the largest representable value, > 0.
    """
    values = np.asarray(samples, np.float32).reshape(-1)
    qmax = signed_qmax(num_bits) if signed else unsigned_qmax(num_bits)
    qmin = -qmax if signed else 0
    largest = max(float(np.max(np.abs(values), initial=0.0)), _RELATIVE_FLOOR)
    candidates = largest * _RATIOS
    errors = [_squared_error(values, np.float32(c / qmax), qmin, qmax) for c in candidates]
    return float(candidates[int(np.argmin(errors))])


def _squared_error(
    values: np.ndarray, scale: np.ndarray | np.floating, qmin: int, qmax: int
) -> np.ndarray:
    """Mean squared error over axis 0 of rounding `values` to the grid of `scale`."""
    rounded = np.clip(np.rint(values / scale), qmin, qmax) * scale
    return np.mean(np.square(values - rounded), axis=0)
