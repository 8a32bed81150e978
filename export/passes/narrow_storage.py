"""Stores weights in the narrowest type that holds their codes and that the target runs.

The codes stay as they are; only the tensor's type changes. The cases:

1. INT8 weights of CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with codes in [-2, 1]: INT2.
2. The same with codes in [-8, 7]: INT4.

A width is passed over where the target does not store it for one of the operators that read the
weights, and in FULLY_CONNECTED where XNNPACK does not take it (`ddq_tf.xnnpack`): leaving the
delegate costs more than the bytes. So it is in DEPTHWISE_CONV_2D of one weight per channel, as a
rescaling becomes: there is nothing to save, and built-in kernels round otherwise.
"""

from __future__ import annotations

import dataclasses

from ddq_tf import xnnpack
from ddq_tf.export.ir import DType, Graph, Op, Tensor
from ddq_tf.export.operators import weight_kind
from ddq_tf.targets import OpKind, Target

_NARROW = {2: DType.INT2, 4: DType.INT4}


def run(graph: Graph, target: Target) -> Graph:
    """Returns the graph with the cases rewritten."""
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    tensors = {
        name: _narrowed(tensor, readers.get(name, []), target)
        for name, tensor in graph.tensors.items()
    }
    return dataclasses.replace(graph, tensors=tensors)


def _narrowed(tensor: Tensor, readers: list[Op], target: Target) -> Tensor:
    """Returns the tensor, its type changed if it is one of the cases."""
    if tensor.dtype is not DType.INT8 or not readers:
        return tensor
    if not all(op.inputs[1:2] == (tensor.name,) for op in readers):
        return tensor
    for bits, dtype in sorted(_NARROW.items()):
        if _holds(tensor, bits) and all(_takes(op, tensor, bits, target) for op in readers):
            return dataclasses.replace(tensor, dtype=dtype)
    return tensor


def _holds(tensor: Tensor, bits: int) -> bool:
    """Whether `bits` bits hold every code; TFLite wants their zero point to be 0."""
    if tensor.data is None or tensor.quantization is None or tensor.quantization.zero_point != 0:
        return False
    limit = 1 << (bits - 1)
    return -limit <= int(tensor.data.min()) and int(tensor.data.max()) < limit


def _takes(op: Op, weights: Tensor, bits: int, target: Target) -> bool:
    """Whether the target runs an op with its weights in `bits` bits."""
    kind = weight_kind(op)
    if kind is None or bits not in target.storage_bits[kind]:
        return False
    if kind is OpKind.DEPTHWISE and weights.shape[:3] == (1, 1, 1):
        return False
    if kind not in xnnpack.IN_ROWS:
        return True
    per_channel = weights.quantization is not None and (
        weights.quantization.scale.size == weights.shape[0]
    )
    return xnnpack.takes_weights(kind, bits, row=weights.shape[-1], per_channel=per_channel)
