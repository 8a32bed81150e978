"""What XNNPACK, LiteRT's default kernels, takes: weight types, rows, scales, sums (stdlib only).

Each number is measured with ai-edge-litert 2.3.0, at its limit and beyond, on x86 and most of them
on ARM; tests/export/test_xnnpack.py does so again. What a new release of the runtime takes is
changed here and nowhere else.
"""

from __future__ import annotations

import dataclasses

from ddq_tf.op_kind import OpKind

IN_ROWS = (OpKind.POINTWISE, OpKind.DENSE)  # what becomes FULLY_CONNECTED


def fills_bytes(row: int, bits: int) -> bool:
    """Returns whether a row of codes ends with a byte.

    FULLY_CONNECTED takes no others: even rows of INT4 codes, multiples of 4 of INT2 codes.

    Args:
        row: weights per output channel.
        bits: of a code.
    """
    return row * bits % 8 == 0


def takes_weights(kind: OpKind, bits: int, *, row: int, per_channel: bool) -> bool:
    """Returns whether XNNPACK runs an op; built-in kernels, which round otherwise, run the rest.

    Convolutions are taken with INT8 weights only, INT2 weights only with a scale per channel.

    Args:
        kind: the operator.
        bits: of the tensor type that holds the weights.
        row: weights along their last axis; the input channels in FULLY_CONNECTED.
        per_channel: whether each output channel has a scale of its own.
    """
    if bits == 8:
        return True
    return kind in IN_ROWS and fills_bytes(row, bits) and (bits > 2 or per_channel)


def sum_limit(bits: int) -> int:
    """Returns the limit L of sums of products and bias: right in [-L, L) on every machine.

    Registers have 32 bits and wrap around. Those of INT4 weights hold all sums 16-fold on ARM and
    with AVX-512 VNNI, not with AVX2.

    Args:
        bits: of the tensor type that holds the weights.
    """
    return 1 << (27 if bits == 4 else 31)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratios:
    """Float32 numbers that a kernel takes as a factor.

    Attributes:
        least: the least of them.
        greatest: the greatest of them.
    """

    least: float
    greatest: float

    def holds(self, value: float) -> bool:
        """Returns whether a number is one of them."""
        return self.least <= value <= self.greatest


_BELOW_256 = 256 - 2.0**-16  # the greatest float32 below 256

# s_x s_w / s_y of weighted operators. From 256 on LiteRT refuses the file ("failed to create
# XNNPACK runtime"). None is too small: 2^-100 gives the simulator's codes.
PRODUCT_SUMS = Ratios(least=0.0, greatest=_BELOW_256)
# s / s_y of either input of ADD and SUB. Built-in kernels run the rest. Below, 4 of 491,520 codes
# are others; above, up to 2^10, 36 % of ADD's. From 2^19 on they abort the process.
SUMS = Ratios(least=2.0**-10, greatest=_BELOW_256)
# s_a s_b / s_y of MUL. Built-in kernels run the rest. Below, none of 163,840 codes is another;
# from 256 on 47 % are.
PRODUCTS = Ratios(least=2.0**-16, greatest=_BELOW_256)
# s_a s_b / s_y of BATCH_MATMUL: all, 2^-100 to 2^60 give the simulator's codes. Built-in kernels
# run those whose second factor has a zero point other than 0.
MATRIX_PRODUCTS = Ratios(least=0.0, greatest=2.0**60)
# s_x / s_y of QUANTIZE from INT8 to INT8, and of LEAKY_RELU above 0. Built-in kernels run the rest.
# Below, up to 1 % of the codes are others; above 2^28, 62 %.
REQUANTIZED = Ratios(least=2.0**-8, greatest=2.0**7)
# s_x / s_y times the slope, of LEAKY_RELU below 0; in absolute value it must be 2^-8 at least.
NEGATIVE_SLOPES = Ratios(least=-127.99609375, greatest=2.0**7)
# MEAN takes every s_x / s_y (2^-40 to 2^32 give the simulator's codes); LOGISTIC, TANH, ELU, GELU
# and SOFTMAX take every s_x (2^-60 to 2^60).
