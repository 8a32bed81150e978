"""Writes the steps of `ddq_tf.layers.formulas` as operators on floats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddq_tf.export.ir import DType
from ddq_tf.graph import FlatNode
from ddq_tf.layers.formulas import MOST_POWERS

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering

_LARGE = 2.0**60  # that many times the least distance of two floats near 1e-10 is more than 1


class Steps:
    """Does steps for one layer; see `ddq_tf.layers.formulas.Step`.

    Args:
        into: takes the operators.
        node: what they belong to.
    """

    def __init__(self, into: Lowering, node: FlatNode) -> None:
        self._into = into
        self._node = node

    def __call__(
        self, kind: str, *operands: Any, shape: tuple[int | None, ...] | None = None, **attrs: Any
    ) -> str:
        """Writes one step; returns the tensor that it makes.

        Args:
            kind: of the operator.
            *operands: tensors by name; numbers and arrays become constants.
            shape: of the result; None for that of the first tensor.
            **attrs: of the operator.
        """
        several = {
            "ABOVE": self._above,
            "PEAK": self._peak,
            "ROUND": self._round,
            "TOTAL": self._total,
            "VIEW": self._view,
        }
        if kind in several:
            return several[kind](*operands)
        into, name = self._into, self._node.name
        reads = tuple(
            operand if isinstance(operand, str) else into.number(f"{name}/number", operand)
            for operand in operands
        )
        if shape is None:
            first = next(operand for operand in operands if isinstance(operand, str))
            shape = into.tensors[first].shape
        made = into.declare(f"{name}/{kind.lower()}", shape, DType.FLOAT32, None)
        into.emit(kind, reads, made, source=name, **attrs)
        return made

    def _above(self, x: str, threshold: float) -> str:
        """(x - threshold) * 2^60 within [0, 1]: a difference is 0 only of equal floats."""
        large = self("MUL", self("SUB", x, threshold), _LARGE)
        return self("MINIMUM", self("MAXIMUM", large, 0.0), 1.0)

    def _round(self, x: str, step: float) -> str:
        """Adding and taking away 1.5 * 2^23 steps rounds to whole steps, halves to even."""
        large = 1.5 * 2.0**23 * step
        return self("SUB", self("ADD", x, large), large)

    def _view(self, x: str, target: tuple[int, ...]) -> str:
        shape = (self._into.tensors[x].shape[0], *target)
        return self("RESHAPE", x, [-1, *target], shape=shape, new_shape=(-1, *target))

    def _peak(self, x: str) -> str:
        return self._along("REDUCE_MAX", x)

    def _total(self, x: str) -> str:
        """Exact sums of parts of a row, added one by one."""
        shape = self._into.tensors[x].shape
        size, total = shape[-1], ""
        for start in range(0, size, MOST_POWERS):
            end, part = min(start + MOST_POWERS, size), x
            if end - start < size:
                rank = len(shape)
                rows = [0] * (rank - 1) + [start], [0, *shape[1:-1], end], [1] * rank
                cut = (*shape[:-1], end - start)
                part = self("STRIDED_SLICE", x, *rows, shape=cut, begin_mask=1, end_mask=1)
            added = self._along("SUM", part)
            total = self("ADD", total, added) if total else added
        return total

    def _along(self, kind: str, x: str) -> str:
        shape = self._into.tensors[x].shape
        return self(kind, x, [len(shape) - 1], shape=(*shape[:-1], 1), keep_dims=True)
