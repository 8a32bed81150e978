"""Products of two tensors of activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import F32, product_multiplier, round_to, scale
from ddq_tf.export.operators.operand import Operand, refuse
from ddq_tf.export.operators.operator import Operator, Requantization, int8_is_2


def batch_matmul(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """BATCH_MATMUL: y = rint(f32(sum (a - z_a) b) * f32(f32(s_a * s_b) / s_y)) + z_y.

    With a zero point of the second factor built-in kernels run it, which round otherwise.
    """
    left, right = reads
    if right.zero_point:
        raise refuse(op, f"the second factor's zero point must be 0. Received: {right.zero_point}")
    # float64 holds the sums exactly, and multiplies faster than integers.
    rows, columns = left.centred().astype(np.float64), right.values.astype(np.float64)
    rows = rows.swapaxes(-1, -2) if op.attrs["adj_x"] else rows
    columns = columns.swapaxes(-1, -2) if op.attrs["adj_y"] else columns
    multiplier = product_multiplier(left.scale, right.scale, scale(output))
    return round_to((rows @ columns).astype(F32) * multiplier, output)


def product_requantization(
    taken: xnnpack.Ratios,
) -> Callable[[Op, Mapping[str, Tensor]], Iterator[Requantization]]:
    """Returns what tells the multiplier of a product of two tensors.

    Args:
        taken: which multipliers XNNPACK takes there.
    """

    def found(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[Requantization]:
        left, right, output = (scale(tensors[name]) for name in (*op.inputs, *op.outputs))
        yield Requantization(
            name="product of the input scales / output scale",
            values=product_multiplier(left, right, output),
            taken=taken,
        )

    return found


OPERATORS = (
    Operator(
        kind="BATCH_MATMUL",
        kernel=batch_matmul,
        options="BatchMatMulOptions",
        attrs={"adj_x": False, "adj_y": False},
        version=int8_is_2,
        requantizations=product_requantization(xnnpack.MATRIX_PRODUCTS),
    ),
)
