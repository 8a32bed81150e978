"""Numbers p/q with a small odd q, by which whole numbers never come near the middle of two."""

from __future__ import annotations

import numpy as np

LARGEST = 1023


def odd_fraction(values: np.ndarray) -> np.ndarray:
    """Returns the nearest fractions p/q with an odd q of at most 1023 (more for small values).

    Args:
        values: float64 > 0, any shape.

    Returns:
        float64, the same shape; within a relative 4 / (3 * 1023) = 1.3e-3, mostly far closer.
        (Worst next to 1/n with even n: p n - 1 or p n + 1 must do for the largest p that fits.)
    """
    values = np.asarray(values, np.float64)
    flat = values.reshape(-1, 1)
    limit = np.maximum(LARGEST, 3.01 / flat)  # a little more than 3: 3/q itself must stay
    largest_odd = 2 * np.floor((limit - 1) / 2) + 1
    steps = np.arange(1.0, LARGEST + 1)
    # Below 1 the numerators are few, above 1 the denominators are.
    odd = np.clip(2 * np.rint((steps / flat - 1) / 2) + 1, 1, largest_odd)
    q = np.where(flat > 1, 2 * steps - 1, odd)
    p = np.where(flat > 1, np.rint(q * flat), steps)
    errors = np.where(q <= largest_odd, np.abs(p / q / flat - 1), np.inf)
    near = errors <= errors.min(axis=1, keepdims=True) * (1 + 1e-9) + 1e-15
    best = np.argmax(near, axis=1)[:, None]  # the first: the simplest
    return np.take_along_axis(p / q, best, axis=1).reshape(values.shape)
