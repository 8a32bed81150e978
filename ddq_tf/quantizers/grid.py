"""The integer grids: which codes a precision has.

Weights and signed activations are symmetric and narrow, {-qmax..qmax} with zero point 0, so that
folding a BatchNorm with negative gamma only flips codes and the INT4 code -8 never occurs.
Non-negative activations use {0..qmax}, stored as INT8 with zero point -128.
"""

from __future__ import annotations


def signed_qmax(num_bits: int) -> int:
    """Returns 2^(num_bits-1) - 1, the largest code of a symmetric narrow grid."""
    return 2 ** (num_bits - 1) - 1


def unsigned_qmax(num_bits: int) -> int:
    """Returns 2^num_bits - 1, the largest code of a grid that starts at 0."""
    return 2**num_bits - 1
