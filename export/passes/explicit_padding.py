"""Folds explicit padding into the convolution behind it.

A PAD costs a copy of the whole image. Its border holds the code of zero, as SAME padding does; so
the two agree wherever every window covers the same pixels. The cases:

1. PAD of height and width, read only by CONV_2D or DEPTHWISE_CONV_2D with VALID padding, where
   SAME puts equally many rows above and columns to the left and yields equally many windows
   (more rows below or to the right than a window reaches make no difference): the PAD goes, the
   convolutions become SAME. For example, keras.applications' MobileNetV2 pads ((0, 1), (0, 1))
   before 3x3 kernels of stride 2: SAME on even sizes, not on odd ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ddq_tf.export.ir import Graph, Op, prune
from ddq_tf.export.operators import attributes, weight_kind
from ddq_tf.export.operators.windows import same_padding
from ddq_tf.targets import OpKind, Target


def run(graph: Graph, target: Target) -> Graph:
    """Returns the graph with the cases rewritten, for every target."""
    del target
    folded = {op.outputs[0]: op.inputs[0] for op in graph.ops if _is_case(op, graph)}
    ops = [
        _with_same_padding(op, folded[op.inputs[0]]) if op.inputs[0] in folded else op
        for op in graph.ops
        if op.outputs[0] not in folded
    ]
    return prune(dataclasses.replace(graph, ops=tuple(ops)))


def _is_case(op: Op, graph: Graph) -> bool:
    """Whether an op is a PAD that case 1 removes."""
    if op.kind != "PAD" or op.outputs[0] in graph.outputs.values():
        return False
    image, padded = graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]
    paddings = graph.tensors[op.inputs[1]].data
    if paddings is None or paddings.shape != (4, 2) or paddings[[0, 3]].any():
        return False
    readers = graph.consumers(padded.name)
    return (
        image.quantization == padded.quantization
        and image.dtype is padded.dtype
        and bool(readers)
        and all(_equals_same(reader, padded.name, paddings, graph) for reader in readers)
    )


def _equals_same(op: Op, padded: str, paddings: np.ndarray, graph: Graph) -> bool:
    """Whether SAME padding gives an op what the padding before it gives."""
    is_convolution = weight_kind(op) in (OpKind.CONV, OpKind.DEPTHWISE)
    if not is_convolution or op.inputs[0] != padded:
        return False
    attrs = attributes(op)
    # In both operators' weights the kernel's height and width are axes 1 and 2.
    kernel = graph.tensors[op.inputs[1]].shape[1:3]
    sizes = graph.tensors[padded].shape[1:3]
    strides = attrs["stride_h"], attrs["stride_w"]
    dilations = attrs["dilation_h_factor"], attrs["dilation_w_factor"]
    return attrs["padding"] == "VALID" and all(
        _axis_equals_same(size, int(before), int(after), (width - 1) * dilation + 1, stride)
        for size, (before, after), width, dilation, stride in zip(
            sizes, paddings[1:3], kernel, dilations, strides, strict=True
        )
    )


def _axis_equals_same(padded: int, before: int, after: int, window: int, stride: int) -> bool:
    """Whether padding by hand equals SAME along one axis.

    Args:
        padded: the size with the padding.
        before: how much of it is padding at the start.
        after: how much of it is padding at the end.
        window: the dilated kernel's size.
        stride: of the window.
    """
    size = padded - before - after
    if size < 1 or padded < window:
        return False
    valid_windows = (padded - window) // stride + 1
    same_windows = -(-size // stride)
    return before == same_padding(size, window, stride)[0] and valid_windows == same_windows


def _with_same_padding(op: Op, image: str) -> Op:
    """Returns a convolution that pads `image` itself."""
    return dataclasses.replace(
        op, inputs=(image, *op.inputs[1:]), attrs={**op.attrs, "padding": "SAME"}
    )
