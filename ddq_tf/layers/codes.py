"""Sums of products of codes, which float32, TF32 and bfloat16 factors give exactly in any order.

Codes have at most 8 bits, so all three hold them; and float32 holds whole sums up to 2^24. So

    sum x w = (s_x s_w) * sum c k,   x = s_x c,   w = s_w k

comes out the same from every backend, compiled or not, and the scales are applied once. Where a sum
may become larger, it is made of parts that cannot.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from ddq_tf.layers.native import float64_allowed

Tensor = Any
Multiply = Callable[[Tensor, Tensor], Tensor]

LARGEST_CODE = 255
"""The greatest magnitude of an activation's code: 8 bits without sign."""

_EXACT = 1 << 24


@dataclasses.dataclass(frozen=True)
class Grids:
    """The layers on whose grids a layer's inputs lie; in a list, Keras would make them its own.

    Attributes:
        layers: one for each input, each with `current_step`.
    """

    layers: tuple[Any, ...]

    @property
    def hold(self) -> bool:
        """Whether values are rounded to them: not while a model computes in float."""
        return all(getattr(layer, "observer", None) is None for layer in self.layers)

    def steps(self) -> list[Tensor]:
        """Returns each grid's step, a float32 scalar tensor."""
        return [layer.current_step() for layer in self.layers]


def sums_of_codes(
    multiply: Multiply,
    left: Tensor,
    right: Tensor,
    *,
    largest: int,
    terms: int,
    splits: bool = True,
) -> Tensor:
    """Returns multiply(left, right): exact where float32 holds it, else rounded once for each part.

    Args:
        multiply: makes sums of products.
        left: whole numbers in float32.
        right: likewise.
        largest: magnitude that a product can have.
        terms: how many products a sum has.
        splits: whether sums run over the last axis of `left` and the last but one of `right`, so
            that parts of both give parts of them. Sums too large that do not are float64.
    """
    most = _EXACT // largest
    if terms <= most:
        return multiply(left, right)
    size = left.shape[-1]
    width = most * size // terms
    if not splits or not width:
        return wide(multiply, left, right)
    parts = (slice(start, start + width) for start in range(0, size, width))
    sums = (multiply(left[..., part], right[..., part, :]) for part in parts)
    return functools.reduce(ops.add, sums)


def wide(multiply: Multiply, left: Tensor, right: Tensor) -> Tensor:
    """Returns multiply(left, right), summed up in float64, as float32."""
    with float64_allowed():
        sums = multiply(ops.cast(left, "float64"), ops.cast(right, "float64"))
        return ops.cast(sums, "float32")
