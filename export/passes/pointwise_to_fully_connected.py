"""Turns pointwise convolutions into fully connected operators.

XNNPACK takes INT4 weights in FULLY_CONNECTED only, and computes the same codes from it. The cases:

1. CONV_2D with a constant 1x1 kernel, strides 1, dilations 1 and one group, whatever its padding
   (a 1x1 window never reaches outside): becomes FULLY_CONNECTED that keeps its dimensions, its
   weights reshaped from (O, 1, 1, I) to (O, I).
"""

from __future__ import annotations

import dataclasses

from ddq_tf.export.ir import Graph, Op, Tensor, prune
from ddq_tf.export.operators import attributes, weight_kind
from ddq_tf.targets import OpKind, Target

_UNIT = ("stride_h", "stride_w", "dilation_h_factor", "dilation_w_factor")


def run(graph: Graph, target: Target) -> Graph:
    """Returns the graph with the cases rewritten, if the target wants them."""
    if not target.fully_connected_pointwise:
        return graph
    tensors = dict(graph.tensors)
    ops: list[Op] = []
    for op in graph.ops:
        if _is_pointwise(op, graph):
            matrix = _as_matrix(graph.tensors[op.inputs[1]])
            tensors[matrix.name] = matrix
            op = _fully_connected(op, matrix.name)
        ops.append(op)
    return prune(dataclasses.replace(graph, tensors=tensors, ops=tuple(ops)))


def _is_pointwise(op: Op, graph: Graph) -> bool:
    """Whether an op is case 1."""
    if weight_kind(op) is not OpKind.CONV:
        return False
    image, weights = (graph.tensors[name] for name in op.inputs[:2])
    attrs = attributes(op)
    return (
        weights.is_constant
        and weights.quantization is not None
        and weights.shape[1:3] == (1, 1)
        and weights.shape[3] == image.shape[-1]
        and all(attrs[name] == 1 for name in _UNIT)
    )


def _as_matrix(weights: Tensor) -> Tensor:
    """Returns (O, 1, 1, I) weights as (O, I), under a name of their own."""
    shape = (weights.shape[0], weights.shape[3])
    data = None if weights.data is None else weights.data.reshape(shape)
    return dataclasses.replace(weights, name=f"{weights.name}/matrix", shape=shape, data=data)


def _fully_connected(op: Op, weights: str) -> Op:
    """Returns the FULLY_CONNECTED that computes what a pointwise convolution does."""
    return dataclasses.replace(
        op,
        kind="FULLY_CONNECTED",
        inputs=(op.inputs[0], weights, *op.inputs[2:]),
        attrs={
            "fused_activation_function": attributes(op)["fused_activation_function"],
            "keep_num_dims": True,
        },
    )
