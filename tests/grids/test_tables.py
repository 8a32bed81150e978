"""Powers of a softmax round to the same steps, whatever the last bits of floats are."""

import numpy as np
import pytest

from ddq_tf.grids.fold import Grid
from ddq_tf.grids.tables import MARGIN, RoundedPowers, best_factor
from ddq_tf.layers.formulas import POWER_STEP

POWERS = RoundedPowers(np.exp, POWER_STEP)


@pytest.mark.parametrize("scale", np.geomspace(2.0**-12, 100, 12))
@pytest.mark.parametrize("limits", [(-128, 127), (0, 255), (-8, 7)])
def test_powers_are_rounded_alike_by_every_kernel(scale, limits):
    grid = Grid(scale=np.float32(scale), qmin=limits[0], qmax=limits[1])
    factor = best_factor([POWERS], grid)
    assert abs(factor - 1) <= 1.001e-3
    moved = Grid(scale=np.float32(float(grid.scale) * factor), qmin=grid.qmin, qmax=grid.qmax)
    assert POWERS.margin(moved) >= MARGIN / 2
    codes = np.arange(grid.qmin, grid.qmax + 1)
    x = codes.astype(np.float32) * moved.scale
    below = codes[:, None] <= codes[None, :]
    distances = (x[:, None] - x[None, :])[below]
    exact = np.exp((codes[:, None] - codes[None, :])[below] * np.float64(moved.scale))
    wanted = np.rint(exact / POWER_STEP)
    made = np.exp(distances.astype(np.float64))
    ulps = (2 + np.abs(distances)) * 2.0**-24 * (distances < 0)
    for error in (-1, 0, 1):
        powers = (made * (1 + error * ulps)).astype(np.float32)
        np.testing.assert_array_equal(np.rint(powers / np.float32(POWER_STEP)), wanted)
