"""Layers that round to a grid; they stand in DDQ models alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.rule import Family, LayerRule, Output
from ddq_tf.kinds.training_only import lower_alias
from ddq_tf.layers import DDQActivation, DDQFixedGrid, DDQSoftmax

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering


def _lower_quantizer(into: Lowering, node: FlatNode) -> None:
    """Nothing, where the operator before writes this grid already; else QUANTIZE."""
    into.requantize(node)


def _lower_softmax(into: Lowering, node: FlatNode) -> None:
    """SOFTMAX."""
    reads = into.names[node.inputs[0]]
    into.emit("SOFTMAX", (reads,), into.fixed(node), source=node.name, beta=1.0)


FAMILY = Family(
    title="",
    rules=(
        LayerRule(layers=(DDQActivation,), output=Output.GRID, lower=_lower_quantizer),
        LayerRule(layers=(DDQFixedGrid,), output=Output.GRID, lower=lower_alias),
        LayerRule(layers=(DDQSoftmax,), output=Output.GRID, lower=_lower_softmax),
    ),
)
