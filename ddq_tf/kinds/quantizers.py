"""Layers that round to a grid; they stand in DDQ models alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.rule import Family, LayerRule, Output, anywhere, but_the_last
from ddq_tf.kinds.training_only import lower_alias
from ddq_tf.layers import DDQActivation, DDQFixedGrid, DDQMask, DDQSoftmax
from ddq_tf.layers.formulas import softmax

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering


def _lower_quantizer(into: Lowering, node: FlatNode) -> None:
    """Nothing, where the operator before writes this grid already; else QUANTIZE."""
    into.requantize(node)


def _lower_softmax(into: Lowering, node: FlatNode) -> None:
    """SOFTMAX; or what it computes, with powers whose sum is exact, as the layer does too."""
    reads = into.names[node.inputs[0]]
    if not (into.float_islands and node.layer.rounds_powers):
        into.emit("SOFTMAX", (reads,), into.fixed(node), source=node.name, beta=1.0)
        return
    before = into.graph.producer(node.inputs[0])
    mask = None if before is None else before.layer
    below = mask.below() if isinstance(mask, DDQMask) else None
    into.island(node, lambda x: softmax(x, below), writes=into.fixed(node))


FAMILY = Family(
    title="",
    rules=(
        LayerRule(
            layers=(DDQActivation,),
            output=Output.GRID,
            lower=_lower_quantizer,
            each_alone=anywhere,
        ),
        LayerRule(
            layers=(DDQFixedGrid,), output=Output.GRID, lower=lower_alias, each_alone=anywhere
        ),
        LayerRule(
            layers=(DDQSoftmax,),
            output=Output.GRID,
            lower=_lower_softmax,
            each_alone=but_the_last,
            gives_probabilities=True,
            rounds_powers=lambda node: node.layer.rounds_powers,
        ),
    ),
)
