"""Where free levels start from (numpy)."""

from __future__ import annotations

import numpy as np

from ddq_tf.errors import DDQError

_MOST_POWER_OF_TWO_BITS = 4
_ROUNDS = 50
_BINS = 64


def initial_levels(
    init: str,
    num_bits: int,
    units: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Returns 2^num_bits ascending levels within [-1, 1] (reconstructed).

    Args:
        init: "uniform", equal steps from -1 to 1; "power_of_two", 0 and +-2^-i, one power more
            above 0 than below, up to 4 bits (finer ones fall together on the int8 grid);
            "kmeans", the centroids of `units`, each value counting `weights`.
        num_bits: highest precision.
        units: values in units of their range, for "kmeans"; any shape.
        weights: >= 0, the same shape.

    Returns:
        float32, shape (2^num_bits,).

    Raises:
        DDQError: for powers of two of more than 4 bits.
    """
    count = 2**num_bits
    if init == "power_of_two":
        if num_bits > _MOST_POWER_OF_TWO_BITS:
            raise DDQError(
                "level_init='power_of_two' takes precisions up to 4 bits: finer powers fall "
                f"together on the int8 grid. Received: {num_bits} bits"
            )
        above = 2.0 ** -np.arange(count // 2)
        return np.sort(np.concatenate([[0.0], above, -above[:-1]])).astype(np.float32)
    uniform = np.linspace(-1, 1, count, dtype=np.float32)
    if init == "uniform" or units is None or weights is None:
        return uniform
    return _kmeans(units.ravel(), weights.ravel(), count)


def _kmeans(values: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm in one dimension; empty clusters stay.

    Starts as densely as the cube root of the values' density, which serves the squared error best
    (Panter and Dite); from quantiles, many levels would never get to the tails.
    """
    order = np.argsort(values)
    values = np.clip(values[order].astype(np.float64), -1, 1)
    weights = weights[order].astype(np.float64)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * values)])
    if mass[-1] <= 0:
        return np.linspace(-1, 1, count, dtype=np.float32)
    density, edges = np.histogram(values, _BINS, (-1, 1), weights=weights)
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centres = np.interp((np.arange(count) + 0.5) / count * share[-1], share, edges)
    centres = np.clip(centres, values[0], values[-1])
    for _ in range(_ROUNDS):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(values)]])
        total, sums = np.diff(mass[edges]), np.diff(moment[edges])
        moved = np.where(total > 0, sums / np.where(total > 0, total, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = np.sort(moved)
    return centres.astype(np.float32)
