"""Layers that round to a grid; they stand in DDQ models alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.rule import Family, LayerRule, Output
from ddq_tf.kinds.training_only import lower_alias
from ddq_tf.layers import MOST_POWERS, DDQActivation, DDQFixedGrid, DDQSoftmax
from ddq_tf.layers.formulas import Step

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering


def _lower_quantizer(into: Lowering, node: FlatNode) -> None:
    """Nothing, where the operator before writes this grid already; else QUANTIZE."""
    into.requantize(node)


def _lower_softmax(into: Lowering, node: FlatNode) -> None:
    """SOFTMAX; or what it computes, with powers whose sum is exact."""
    reads = into.names[node.inputs[0]]
    if not into.float_islands:
        into.emit("SOFTMAX", (reads,), into.fixed(node), source=node.name, beta=1.0)
        return
    below = into.below_peak(node)
    shape = into.tensors[below].shape
    last, one = len(shape) - 1, (*shape[:-1], 1)

    def formula(step: Step, x: Any) -> Any:
        # Adding and taking away 1.5 * 2^23 steps rounds to whole steps.
        large = 1.5 * 2.0**23 * node.layer.power_step
        powers = step("SUB", step("ADD", step("EXP", x), large), large)
        total = None
        for start in range(0, shape[-1], MOST_POWERS):
            end, part = min(start + MOST_POWERS, shape[-1]), powers
            if end - start < shape[-1]:
                rows = [0] * last + [start], [0, *shape[1:last], end], [1] * len(shape)
                cut = (*shape[:-1], end - start)
                part = step("STRIDED_SLICE", powers, *rows, shape=cut, begin_mask=1, end_mask=1)
            added = step("SUM", part, [last], shape=one, keep_dims=True)
            total = added if total is None else step("ADD", total, added)
        return step("DIV", powers, total)

    into.island(node, formula, reads=below, writes=into.fixed(node))


FAMILY = Family(
    title="",
    rules=(
        LayerRule(layers=(DDQActivation,), output=Output.GRID, lower=_lower_quantizer),
        LayerRule(layers=(DDQFixedGrid,), output=Output.GRID, lower=lower_alias),
        LayerRule(layers=(DDQSoftmax,), output=Output.GRID, lower=_lower_softmax),
    ),
)
