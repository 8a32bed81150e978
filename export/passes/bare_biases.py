"""Drops the scales of biases that nothing reads.

XNNPACK wants a scale for each bias; the built-in kernels of convolutions take s_x * s_w from input
and weights. The cases:

1. A bias read only by CONV_2D or DEPTHWISE_CONV_2D with narrow weights, which XNNPACK leaves to
   built-in kernels: loses its quantization, that is 4 bytes and a zero point per channel.
"""

from __future__ import annotations

import dataclasses

from ddq_tf.export.ir import Graph, Op
from ddq_tf.export.operators import takes_weights, weight_kind
from ddq_tf.targets import OpKind, Target


def run(graph: Graph, target: Target) -> Graph:
    """Returns the graph with the cases rewritten, for every target."""
    del target
    biases = {op.inputs[2] for op in graph.ops if _is_built_in(op, graph) and len(op.inputs) > 2}
    bare = {
        name: dataclasses.replace(graph.tensors[name], quantization=None)
        for name in biases
        if name and all(_is_built_in(op, graph) for op in graph.consumers(name))
    }
    return dataclasses.replace(graph, tensors={**graph.tensors, **bare})


def _is_built_in(op: Op, graph: Graph) -> bool:
    """Whether an op is a convolution that XNNPACK does not take."""
    is_convolution = weight_kind(op) in (OpKind.CONV, OpKind.DEPTHWISE)
    return is_convolution and not takes_weights(op, graph.tensors)
