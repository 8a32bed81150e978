r"""The nearest-level step for arbitrary levels on the int8 grid, in O(N) memory.

Levels lie at k/127, so the middle of two neighbours is a multiple of 1/254: a table over the 508
cells between such multiples tells the nearest level exactly, and no value is ever compared with
all levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from ddq_tf.quantizers.fake_quant import sum_to_shape
from ddq_tf.quantizers.native import num_replicas

Tensor = Any

CODE_MAX = 127
CODE_STEP = float(np.float32(1 / CODE_MAX))
_CELLS = 2 * CODE_MAX
_LEAST_SHARE = 0.01


@ops.custom_gradient
def snap(levels: Tensor) -> Tensor:
    """Rounds levels to the int8 grid k/127, |k| <= 127; straight-through.

    Beyond the ends only gradients that lead back pass: a level that serves clipped values would be
    pulled outwards for ever.

    Args:
        levels: float32, any shape.
    """

    def grad(*args: Tensor, upstream: Tensor = None) -> Tensor:
        g = args[0] if upstream is None else upstream
        within = ops.less_equal(ops.abs(levels), 1.0)
        passes = ops.logical_or(within, g * levels > 0)
        return ops.where(passes, g, ops.zeros_like(g))

    codes = ops.clip(ops.round(levels * float(CODE_MAX)), -CODE_MAX, CODE_MAX)
    return ops.multiply(codes, CODE_STEP), grad


def cell_tables(levels: Tensor, block: int = 1) -> Tensor:
    """Returns what the values of each cell are rounded to.

    Args:
        levels: float32, shape (2^b,), ascending multiples of 1/127.
        block: how many neighbours closed gates have merged; a power of two.

    Returns:
        float32, shape (2, 508): the int8 code of the nearest level, and the number of that level,
        of merged ones the first.
    """
    codes: Tensor = ops.round(levels * float(CODE_MAX))
    middles = ops.cast(codes[1:] + codes[:-1] + _CELLS, "int32")
    begun = ops.segment_sum(ops.ones_like(codes[1:]), middles, 2 * _CELLS + 1)
    numbers: Tensor = ops.cumsum(begun)
    numbers = numbers[:-1]
    first: Tensor = ops.floor(numbers / block)
    return ops.stack([ops.take(codes, ops.cast(numbers, "int32")), first * block])


def nearest_level(
    x: Tensor,
    alpha: Tensor,
    levels: Tensor,
    tables: Tensor,
    block: Tensor,
    correction: float,
    inverse: Tensor = None,
) -> Tensor:
    r"""Returns alpha * q_j with j = argmin_j |x / alpha - q_j|; a tie goes to the upper level.

    Backward, with g = dL/dx_q and sums over the x that level j serves:
        dx_q/dx = 1 where q_min <= x / alpha <= q_max, else 0
        dL/dalpha = sum g (x_q / alpha - (x / alpha inside, 0 outside))
        level j receives  sum alpha (g + correction (x_q - x)) / sum alpha^2
    The first three terms are the paper's, the correction reconstructed: it pulls each level to the
    centroid of what it serves. The denominator (reconstructed) makes a level move at the pace of
    the weights: if each moved on its own, this is the least-squares fit of a common movement. It
    makes `correction` a number without unit: the pull's share of the distance per unit of learning
    rate. There, ranges below a tenth of their root mean square count as that: a level that only a
    dead channel uses would leap. Levels that closed gates have merged count as one.

    Args:
        x: float32, any shape.
        alpha: float32 > 0; broadcasts against the trailing axes of x.
        levels: float32, shape (2^b,), ascending multiples of 1/127.
        tables: of `cell_tables` for these levels and this block.
        block: float32 scalar: how many neighbours closed gates have merged; a power of two.
        correction: >= 0.
        inverse: the float32 reciprocal of alpha, where it is known.

    Returns:
        x_q: float32, the shape of x: an int8 code times float32(alpha * float32(1/127)). NaN stays
        NaN.
    """

    @ops.custom_gradient
    def step(
        x: Tensor, alpha: Tensor, inverse: Tensor, levels: Tensor, tables: Tensor, block: Tensor
    ) -> Tensor:
        units = x * inverse
        cells = _cells(units)
        codes: Tensor = ops.take(tables[0], cells)
        quantized = codes * (alpha * CODE_STEP)
        quantized = ops.where(ops.isnan(units), units, quantized)

        def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, ...]:
            g = args[0] if upstream is None else upstream
            inside = ops.logical_and(units >= levels[0], units <= levels[-1])
            dx = ops.where(inside, g, ops.zeros_like(g))
            units_q = codes * CODE_STEP
            rounding = ops.where(inside, units_q - units, units_q)
            dalpha = sum_to_shape(g * rounding, tuple(alpha.shape))
            pull = correction / num_replicas()  # all of them pull the levels that they share
            pulled = (g + pull * (quantized - x)) * alpha
            count = int(levels.shape[0])
            served = ops.cast(ops.take(tables[1], cells), "int32")
            served = ops.reshape(served, (-1,))
            total: Tensor = ops.segment_sum(ops.reshape(pulled, (-1,)), served, count)
            squares: Tensor = ops.square(alpha)
            least = ops.multiply(_LEAST_SHARE, ops.mean(squares))
            squares = ops.maximum(squares, least)
            squares = ops.reshape(ops.broadcast_to(squares, ops.shape(x)), (-1,))
            weight: Tensor = ops.segment_sum(squares, served, count)
            moved = ops.where(weight > 0, total / ops.maximum(weight, 1e-30), 0.0)
            first = ops.floor(ops.arange(count, dtype="float32") / block) * block
            dlevels = ops.take(moved, ops.cast(first, "int32"))
            none = (ops.zeros_like(constant) for constant in (inverse, tables, block))
            return dx, dalpha, next(none), dlevels, *none

        return quantized, grad

    inverse = ops.reciprocal(alpha) if inverse is None else inverse
    return step(x, alpha, inverse, levels, tables, block)


def nearest_codes(units: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns for each value in units of the range the nearest of ascending int8 codes (numpy)."""
    middles = (codes[1:] + codes[:-1]) / np.float32(_CELLS)
    return codes[np.searchsorted(middles, units, side="right")]


def _cells(units: Tensor) -> Tensor:
    """The number of the cell that a value lies in: int32, 0..507."""
    cells = ops.clip(ops.floor(units * float(_CELLS)), -_CELLS, _CELLS - 1)
    # NaN has no cell, and an index out of range would end training without naming the cause.
    return ops.maximum(ops.add(ops.cast(cells, "int32"), _CELLS), 0)
