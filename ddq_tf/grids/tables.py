"""Functions of one code, which LiteRT looks up in tables, on grids that leave no doubt.

A table rounds f(s_x q) / s_y for each of 256 codes q. Keras evaluates f in float32 anew; the two
can only differ where a value lies within about 1e-4 of the middle of two codes. Moving one scale by
at most a thousandth keeps all 256 values away from there.
"""

from __future__ import annotations

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


def input_factor(function: Values, grid: Grid, scale: float) -> float:
    """Returns what to multiply the scale of a table's input with: 1 if its margin will do."""
    if margin(function, grid, scale) >= MARGIN:
        return 1.0
    return float(max(_FACTORS, key=lambda f: margin(function, grid, scale, stretch=f)))


def output_factor(function: Values, grid: Grid, scale: float) -> float:
    """Returns what to multiply the scale of a table's output with: 1 if its margin will do."""
    if margin(function, grid, scale) >= MARGIN:
        return 1.0
    return float(max(_FACTORS, key=lambda f: margin(function, grid, scale * f)))
