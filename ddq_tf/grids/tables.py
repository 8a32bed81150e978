"""Functions of one code, which LiteRT looks up in tables, on grids that leave no doubt.

A table rounds f(s_x q) / s_y for each of 256 codes q. Keras evaluates f in float32 anew; the two
can only differ where a value lies within about 1e-4 of the middle of two codes. Moving one scale by
at most a thousandth keeps all 256 values away from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddq_tf.grids.fold import Grid
from ddq_tf.kinds.functions import Values

MARGIN = 1e-3
_FACTORS = 1 + np.linspace(-1e-3, 1e-3, 401)


def margin(function: Values, grid: Grid, scale: float, *, stretch: float = 1.0) -> float:
    """Returns how near a value of a table comes to the middle of two codes, in steps.

    Args:
        function: float64 to float64.
        grid: of its input.
        scale: of its output.
        stretch: what to multiply the input's scale with.
    """
    codes = np.arange(grid.qmin, grid.qmax + 1)
    values = function(codes * (float(grid.scale) * stretch)) / scale
    return float(np.abs(values - np.floor(values) - 0.5).min())


def best_factor(
    tables: Sequence[tuple[Values, float]],
    grid: Grid,
    factors: np.ndarray | None = None,
    only_down: bool = False,
    *,
    of_output: bool = False,
) -> float:
    """Returns what to multiply a scale with so that all values of tables stay away from middles.

    Args:
        tables: functions that read one tensor, and the scales of their outputs.
        grid: of the tensor.
        factors: to choose from, the preferred ones first; None for 401 within a thousandth of 1.
        only_down: whether the scale may only fall.
        of_output: whether the output's scale moves; otherwise the input's.
    """
    choices = _FACTORS if factors is None else factors
    if only_down and (choices <= 1).any():
        choices = choices[choices <= 1]

    def least(factor: float) -> float:
        """The margin of the worst value, no more than is wanted."""
        out, stretch = (factor, 1.0) if of_output else (1.0, factor)
        margins = (margin(f, grid, scale * out, stretch=stretch) for f, scale in tables)
        return min(margins, default=1.0)

    if factors is None:
        return float(max(choices, key=least))
    return float(max(choices, key=lambda factor: min(least(factor), MARGIN)))
