"""The kinds of weight-carrying operators (stdlib only)."""

from __future__ import annotations

import enum


class OpKind(enum.Enum):
    """The kinds of weight-carrying operators that targets tell apart."""

    POINTWISE = "pointwise convolution (1x1, stride 1)"
    DENSE = "dense"
    CONV = "convolution"
    DEPTHWISE = "depthwise convolution"
    TRANSPOSED = "transposed convolution"
