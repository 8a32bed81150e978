"""Functions of one code, which LiteRT looks up in tables, on grids that leave no doubt.

A table rounds f(s_x q) / s_y for each of 256 codes q. Keras evaluates f in float32 anew; the two
can only differ where a value lies within about 1e-4 of the middle of two codes. Moving one scale by
at most a thousandth keeps all 256 values away from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ddq_tf.grids.fold import Grid
from ddq_tf.kinds.functions import Values

MARGIN = 1e-3
_FACTORS = 1 + np.linspace(-1e-3, 1e-3, 401)
_ULP = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A function of one code, and the step that its values are rounded to.

    Attributes:
        values: float64 to float64.
        scale: the step.
    """

    values: Values
    scale: float

    def margin(self, grid: Grid, *, stretch: float = 1.0) -> float:
        """Returns how near a value comes to the middle of two steps, in steps.

        Args:
            grid: of its input.
            stretch: what to multiply the input's scale with.
        """
        step = float(grid.scale) * stretch
        codes = self._codes(grid)
        values = self.values(codes * step) / self.scale
        away = np.abs(values - np.floor(values) - 0.5)
        return float((away - values * self._error(codes, grid, step)).min())

    def _codes(self, grid: Grid) -> np.ndarray:
        return np.arange(grid.qmin, grid.qmax + 1)

    def _error(self, codes: np.ndarray, grid: Grid, step: float) -> np.ndarray | float:
        """The relative error of float32, beyond what `MARGIN` allows for."""
        del codes, grid, step
        return 0.0


class RoundedPowers(Rounded):
    """e^(x - max x) of a softmax: of the distances between two codes.

    Their steps are so small that errors of float32 count: both x are rounded to 24 bits, and so is
    their difference; kernels of EXP err by up to 2 + |x - max x| such units. e^0 is 1 for all.
    """

    def _codes(self, grid: Grid) -> np.ndarray:
        return np.arange(grid.qmin - grid.qmax, 0)

    def _error(self, codes: np.ndarray, grid: Grid, step: float) -> np.ndarray:
        largest = max(abs(grid.qmin), abs(grid.qmax)) * step
        return (2 * largest + 2 * np.abs(codes) * step + 4) * _ULP


def best_factor(
    tables: Sequence[Rounded],
    grid: Grid,
    factors: np.ndarray | None = None,
    only_down: bool = False,
    *,
    of_output: bool = False,
) -> float:
    """Returns what to multiply a scale with so that all values of tables stay away from middles.

    Args:
        tables: functions that read one tensor.
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
        scaled = (dataclasses.replace(table, scale=table.scale * out) for table in tables)
        margins = (table.margin(grid, stretch=stretch) for table in scaled)
        return min(margins, default=1.0)

    if factors is None:
        return float(max(choices, key=least))
    return float(max(choices, key=lambda factor: min(least(factor), MARGIN)))
