"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import saturate
from ddq_tf.export.operators.operand import Kernel, Operand, require_same_grid
from ddq_tf.export.operators.operator import WINDOW, Operator, int8_is_2
from ddq_tf.export.operators.windows import Window, pad, taps


def max_pool_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MAX_POOL_2D."""
    require_same_grid(op, reads, output)
    attrs = op.attrs
    window = Window.of(attrs, (attrs["filter_height"], attrs["filter_width"]))
    lowest = int(np.iinfo(output.dtype.numpy).min)
    pixels = [x for _, _, x in taps(pad(reads[0].values, window, lowest), window)]
    return saturate(np.maximum.reduce(pixels), output, attrs["fused_activation_function"])


def average_pool_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """AVERAGE_POOL_2D by LiteRT's built-in kernel.

    The mean of the raw codes within the image, halves rounded away from zero.
    """
    require_same_grid(op, reads, output)
    attrs = op.attrs
    window = Window.of(attrs, (attrs["filter_height"], attrs["filter_width"]))
    codes = reads[0].values.astype(np.int64)
    totals = sum(x for _, _, x in taps(pad(codes, window, 0), window))
    counts = sum(x for _, _, x in taps(pad(np.ones_like(codes), window, 0), window))
    means = np.sign(totals) * ((np.abs(totals) + counts // 2) // counts)
    return saturate(means, output, attrs["fused_activation_function"])


def _pool(kind: str, kernel: Kernel) -> Operator:
    return Operator(
        kind=kind,
        kernel=kernel,
        options="Pool2DOptions",
        attrs={**WINDOW, "filter_height": 1, "filter_width": 1},
        version=int8_is_2,
        keeps_grid=True,
    )


OPERATORS = (_pool("AVERAGE_POOL_2D", average_pool_2d), _pool("MAX_POOL_2D", max_pool_2d))
