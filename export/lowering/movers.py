"""Layers that only move values, or pick among them: the grid stays."""

from __future__ import annotations

from ddq_tf.export.ir import DType
from ddq_tf.export.lowering.builder import Lowering
from ddq_tf.export.lowering.elementwise import mean
from ddq_tf.export.lowering.weighted import average, skip
from ddq_tf.graph import FlatNode
from ddq_tf.graph.windows import covers_input, stays_inside

_MOST_INPUTS = 5  # that XNNPACK concatenates at once


def average_pool(into: Lowering, node: FlatNode) -> None:
    """MEAN, DEPTHWISE_CONV_2D, or AVERAGE_POOL_2D where windows reach over the border."""
    if covers_input(node):
        mean(into, node, keep_dims=True)
    elif stays_inside(node):
        average(into, node)
    else:
        _pool(into, node, "AVERAGE_POOL_2D")


def max_pool(into: Lowering, node: FlatNode) -> None:
    """MAX_POOL_2D; where it only skips pixels a DEPTHWISE_CONV_2D, which XNNPACK takes."""
    if tuple(node.layer.pool_size) == (1, 1):
        skip(into, node)
    else:
        _pool(into, node, "MAX_POOL_2D")


def _pool(into: Lowering, node: FlatNode, kind: str) -> None:
    layer = node.layer
    reads, writes = into.moved(node, rounds=kind == "AVERAGE_POOL_2D")
    into.emit(
        kind,
        (reads,),
        writes,
        source=node.name,
        padding=layer.padding.upper(),
        filter_height=int(layer.pool_size[0]),
        filter_width=int(layer.pool_size[1]),
        stride_h=int(layer.strides[0]),
        stride_w=int(layer.strides[1]),
    )


def global_max_pool(into: Lowering, node: FlatNode) -> None:
    """MAX_POOL_2D over the whole image, and a RESHAPE that drops its axes."""
    batch, height, width, channels = node.shapes[0]
    reads = into.names[node.inputs[0]]
    inner = into.tensors[reads]
    pooled = into.declare(
        f"{node.name}_pool", (batch, 1, 1, channels), inner.dtype, inner.quantization
    )
    size = {"filter_height": int(height or 0), "filter_width": int(width or 0)}
    into.emit("MAX_POOL_2D", (reads,), pooled, source=node.name, **size)
    into.names[node.outputs[0]] = pooled
    if not node.layer.keepdims:
        _, writes = into.moved(node)
        _reshape(into, node, pooled, writes)


def pad(into: Lowering, node: FlatNode) -> None:
    """PAD."""
    reads, writes = into.moved(node)
    (top, bottom), (left, right) = node.layer.padding
    rows = [[0, 0], [top, bottom], [left, right], [0, 0]]
    paddings = into.constant(f"{node.name}/paddings", rows)
    into.emit("PAD", (reads, paddings), writes, source=node.name)


def crop(into: Lowering, node: FlatNode) -> None:
    """STRIDED_SLICE, which leaves the batch as it is."""
    reads, writes = into.moved(node)
    (top, _), (left, _) = node.layer.cropping
    _, height, width, channels = into.tensors[writes].shape
    rows = {
        "begin": [0, top, left, 0],
        "end": [0, top + height, left + width, channels],
        "strides": [1, 1, 1, 1],
    }
    constants = [into.constant(f"{node.name}/{key}", row) for key, row in rows.items()]
    into.emit(
        "STRIDED_SLICE", (reads, *constants), writes, source=node.name, begin_mask=1, end_mask=1
    )


def permute(into: Lowering, node: FlatNode) -> None:
    """TRANSPOSE."""
    reads, writes = into.moved(node)
    order = into.constant(f"{node.name}/order", [0, *node.layer.dims])
    into.emit("TRANSPOSE", (reads, order), writes, source=node.name)


def upsample(into: Lowering, node: FlatNode) -> None:
    """RESIZE_BILINEAR; nearest: pixels, then rows, CONCATENATED with themselves.

    RESIZE_NEAREST_NEIGHBOR would do the latter, but XNNPACK leaves it to a built-in kernel.
    """
    bilinear = node.layer.interpolation == "bilinear"
    reads, writes = into.moved(node, rounds=bilinear)
    if bilinear:
        size = into.constant(f"{node.name}/size", into.tensors[writes].shape[1:3])
        into.emit(
            "RESIZE_BILINEAR", (reads, size), writes, source=node.name, half_pixel_centers=True
        )
        return
    batch, height, width, channels = into.tensors[reads].shape
    rows, columns = (int(factor) for factor in node.layer.size)
    wide = _joined(into, node, [reads] * columns, 3)
    flat = _reshaped(into, node, wide, (batch, height, 1, width * columns * channels))
    _reshape(into, node, _joined(into, node, [flat] * rows, 2), writes)


def _reshaped(into: Lowering, node: FlatNode, reads: str, shape: tuple[int, ...]) -> str:
    inner = into.tensors[reads]
    writes = into.declare(f"{node.name}/part", shape, inner.dtype, inner.quantization)
    _reshape(into, node, reads, writes)
    return writes


def reshape(into: Lowering, node: FlatNode) -> None:
    """RESHAPE."""
    reads, writes = into.moved(node)
    _reshape(into, node, reads, writes)


def _reshape(into: Lowering, node: FlatNode, reads: str, writes: str) -> None:
    shape = [-1, *into.tensors[writes].shape[1:]]
    target = into.constant(f"{node.name}/shape", shape)
    into.emit("RESHAPE", (reads, target), writes, source=node.name, new_shape=tuple(shape))


def concatenate(into: Lowering, node: FlatNode) -> None:
    """CONCATENATION; all inputs lie on the output's grid."""
    _, writes = into.moved(node)
    axis = int(node.layer.axis) % len(node.shapes[0])
    names = [into.names[tensor] for tensor in node.inputs]
    if len(names) > _MOST_INPUTS:
        names = [_joined(into, node, names[:-1], axis), names[-1]]
    into.emit("CONCATENATION", tuple(names), writes, source=node.name, axis=axis)


def _joined(into: Lowering, node: FlatNode, names: list[str], axis: int) -> str:
    """The name of a concatenation of any number of tensors, `_MOST_INPUTS` at a time."""
    while len(names) > 1:
        joined = [into.tensors[name] for name in names[:_MOST_INPUTS]]
        shape = list(joined[0].shape)
        shape[axis] = sum(tensor.shape[axis] for tensor in joined)
        grid = joined[0].quantization
        part = into.declare(f"{node.name}/part", tuple(shape), DType.INT8, grid)
        reads = tuple(tensor.name for tensor in joined)
        into.emit("CONCATENATION", reads, part, source=node.name, axis=axis)
        names = [part, *names[_MOST_INPUTS:]]
    return names[0]


def alias(into: Lowering, node: FlatNode) -> None:
    """A layer that does nothing in inference."""
    into.names[node.outputs[0]] = into.names[node.inputs[0]]
