"""The integer grids: which codes a precision has.

Weights and signed activations are symmetric and narrow, {-qmax..qmax} with zero point 0, so that
folding a BatchNorm with negative gamma only flips codes and the INT4 code -8 never occurs. Weights
of fewer than 8 bits may also use the whole of two's complement, {-qmax-1..qmax}.
Non-negative activations use {0..qmax}, stored as INT8 with zero point -128.
"""

from __future__ import annotations


def signed_qmax(num_bits: int) -> int:
    """Returns 2^(num_bits-1) - 1, the largest code of a symmetric narrow grid."""
    return 2 ** (num_bits - 1) - 1


def signed_qmin(num_bits: int, narrow_range: bool = True) -> int:
    """Returns the smallest code of a weight: -qmax, or -qmax - 1 on a full grid below 8 bits."""
    narrow = narrow_range or num_bits == 8  # TFLite's INT8 weights are narrow by specification
    return -signed_qmax(num_bits) - (not narrow)


def unsigned_qmax(num_bits: int) -> int:
    """Returns 2^num_bits - 1, the largest code of a grid that starts at 0."""
    return 2**num_bits - 1
