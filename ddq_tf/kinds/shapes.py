"""Layers that move values: other shapes, borders, cuts and joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.ops import numpy as ops

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds import checks
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQConstant, DDQSlice

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers


def _check_concatenate(graph: FlatGraph, node: FlatNode) -> str | None:
    if node.layer.axis in (0, -len(node.shapes[0])):
        return f"needs another axis than the batch. Received: axis={node.layer.axis}"
    return None


def _padding_row(layer: Any, name: str) -> Any:
    return L.ZeroPadding2D(((0, 0), layer.padding), name=name)


def _cropping_row(layer: Any, name: str) -> Any:
    return L.Cropping2D(((0, 0), layer.cropping), name=name)


def _concatenate_row(layer: Any, name: str) -> Any:
    axis = layer.axis if layer.axis <= 0 else layer.axis + 1
    return L.Concatenate(axis, name=name)


# Rewriting


def _flatten(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """One that takes the channels for the first axis puts it last before."""
    layer, rank = node.layer, len(node.shapes[0])
    if layer.data_format != "channels_first" or rank < 3:
        return [node]
    axes, moved = (*range(2, rank), 1), to.new_tensor()
    permute = to.layer(layer, "permute", lambda: L.Permute(axes, name=f"{node.name}_permute"))
    plain = to.layer(layer, "flat", lambda: L.Flatten("channels_last", name=node.name))
    shape = permute.compute_output_shape(node.shapes[0])
    return [
        node.calling(permute, name=permute.name, outputs=(moved,)),
        node.reading(moved, shape, plain, node.name),
    ]


def _center_crop(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A Cropping2D, where the image is large enough."""
    layer, (_, height, width, _) = node.layer, node.shapes[0]
    spare = ((height or 0) - layer.height, (width or 0) - layer.width)
    if layer.data_format != "channels_last" or min(spare) < 0:
        return [node]
    cut = tuple((int(size / 2), size - int(size / 2)) for size in spare)
    return [node.calling(to.layer(layer, "crop", lambda: L.Cropping2D(cut, name=node.name)))]


def _check_center_crop(graph: FlatGraph, node: FlatNode) -> str | None:
    wanted = (node.layer.height, node.layer.width)
    return f"needs images of {wanted} px at least, channels last. Received: {node.shapes[0]}"


def _concatenate(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Tensors of weights between others: zeros in their place, and a sum. One tensor: itself."""
    if len(node.inputs) == 1:  # XNNPACK takes two at least
        same = to.layer(node.layer, "alone", lambda: L.Identity(name=node.name))
        return [node.calling(same)]
    axis = node.layer.axis % len(node.shapes[0])
    held = [_held_by(to.graph, tensor) for tensor in node.inputs]
    if not any(held) or all(held) or axis == 0 or len(node.shapes[0]) not in (3, 4):
        return [node]
    steps = Steps(to, node)
    parts: list[Value] = []
    values, before = [], 0
    for place, (value, layer) in enumerate(zip(steps.inputs, held, strict=True)):
        size = value.shape[axis] or 0
        if layer is not None:
            values.append(as_float64(layer.value))
            before += size
            continue
        values.append(np.zeros([size or 0 for size in value.shape[1:]]))
        is_last = not any(each is None for each in held[place + 1 :])
        behind = [shape[axis] or 0 for shape in node.shapes[place + 1 :]] if is_last else []
        border = [(0, 0)] * len(value.shape)
        border[axis] = before, sum(behind)
        parts.append(zero_padded(steps, value, border) if any(border[axis]) else value)
        before = 0
    joined = parts[0]
    if len(parts) > 1:
        joined = steps.call("tensors", lambda name: L.Concatenate(axis, name=name), *parts)
    owner = next(layer for layer in held if layer is not None)
    constant = steps.call(
        f"{node.name} between zeros",
        lambda name: DDQConstant.holding(np.concatenate(values, axis - 1), name),
        joined,
        owner=owner,
        label=owner.name,
    )
    return steps.writing(steps.call("", lambda name: L.Add(name=name), joined, constant))


def _held_by(graph: FlatGraph, tensor: int) -> DDQConstant | None:
    before = graph.producer(tensor)
    return before.layer if before is not None and before.is_constant else None


def zero_padded(steps: Steps, value: Value, rows: Sequence[tuple[int, int]]) -> Value:
    """Returns a value of rank 3 or 4 with zeros before and behind it along each axis.

    Args:
        steps: where it is written down.
        value: the value.
        rows: how many, for each axis; none for the batch.
    """
    rank, inner, channels = len(value.shape), rows[1:-1], rows[-1]
    is_last = not any(channels)
    if any(map(any, inner)) or is_last:
        role = "" if is_last else "pixels"
        label = role or "zeros"
        value = steps.call(f"{role}{inner}", lambda name: _zeros(inner, name), value, label=label)
    if is_last:
        return value
    # Channels in the place of rows.
    value = steps.permuted("first", value, (rank - 1, *range(1, rank - 1)))
    border = [channels, *([(0, 0)] * (rank - 3))]
    value = steps.call(
        f"channels {border}", lambda name: _zeros(border, name), value, label="channels"
    )
    return steps.permuted("last", value, (*range(2, rank), 1))


def _zeros(border: Sequence[Any], name: str) -> Any:
    if len(border) == 1:
        return L.ZeroPadding1D(border[0], name=name)
    return L.ZeroPadding2D(tuple(border), name=name)


def _reshape_operation(layer: Any, shape: Sequence[int | None]) -> keras.Operation:
    return ops.Reshape((-1, *layer.compute_output_shape((None, *shape[1:]))[1:]))


def _reshaped(layer: Any, values: np.ndarray) -> np.ndarray:
    return values.reshape(layer.compute_output_shape((None, *values.shape))[1:])


def _permuted(layer: Any, values: np.ndarray) -> np.ndarray:
    return values.transpose([axis - 1 for axis in layer.dims])


# Integer operators


def _lower_pad(into: Lowering, node: FlatNode) -> None:
    """PAD."""
    reads, writes = into.moved(node)
    (top, bottom), (left, right) = node.layer.padding
    rows = [[0, 0], [top, bottom], [left, right], [0, 0]]
    paddings = into.constant(f"{node.name}/paddings", rows)
    into.emit("PAD", (reads, paddings), writes, source=node.name)


def _lower_crop(into: Lowering, node: FlatNode) -> None:
    """STRIDED_SLICE."""
    (top, _), (left, _) = node.layer.cropping
    _cut(into, node, [top, left, 0])


def _lower_slice(into: Lowering, node: FlatNode) -> None:
    """STRIDED_SLICE."""
    _cut(into, node, node.layer.begin)


def _cut(into: Lowering, node: FlatNode, begin: Sequence[int]) -> None:
    """STRIDED_SLICE, which leaves the batch as it is."""
    reads, writes = into.moved(node)
    sizes = into.tensors[writes].shape[1:]
    ends = [first + (size or 0) for first, size in zip(begin, sizes, strict=True)]
    rows = {"begin": [0, *begin], "end": [0, *ends], "strides": [1] * (len(ends) + 1)}
    constants = [into.constant(f"{node.name}/{key}", row) for key, row in rows.items()]
    into.emit(
        "STRIDED_SLICE", (reads, *constants), writes, source=node.name, begin_mask=1, end_mask=1
    )


def _lower_permute(into: Lowering, node: FlatNode) -> None:
    """TRANSPOSE."""
    reads, writes = into.moved(node)
    order = into.constant(f"{node.name}/order", [0, *node.layer.dims])
    into.emit("TRANSPOSE", (reads, order), writes, source=node.name)


def _lower_reshape(into: Lowering, node: FlatNode) -> None:
    """RESHAPE."""
    reads, writes = into.moved(node)
    into.reshape(node, reads, writes)


def _joins_others(node: FlatNode, axis: int) -> bool:
    """Whether a Concatenate joins along another axis."""
    return node.layer.axis % len(node.shapes[0]) != axis


def _lower_concatenate(into: Lowering, node: FlatNode) -> None:
    """CONCATENATION; all inputs lie on the output's grid."""
    _, writes = into.moved(node)
    names = [into.names[tensor] for tensor in node.inputs]
    axis = int(node.layer.axis) % len(node.shapes[0])
    into.concatenate(node, names, axis, writes)


FAMILY = Family(
    title="shapes",
    rules=(
        LayerRule(
            layers=(L.Flatten,),
            words="Flatten",
            expand=_flatten,
            output=Output.KEEPS,
            lower=_lower_reshape,
            operation=_reshape_operation,
            examples=(
                Example(build=lambda x: L.Flatten()(x)),
                Example(build=lambda x: L.Flatten("channels_first")(x)),
                Example(build=lambda x: L.Flatten("channels_first")(x), shape=(12, 4)),
            ),
        ),
        LayerRule(
            layers=(L.Reshape,),
            words="Reshape",
            output=Output.KEEPS,
            lower=_lower_reshape,
            move=_reshaped,
            operation=_reshape_operation,
            examples=(Example(build=lambda x: L.Reshape((4, -1, 4))(x)),),
        ),
        LayerRule(
            layers=(L.Permute,),
            words="Permute",
            output=Output.KEEPS,
            lower=_lower_permute,
            operator="TRANSPOSE",
            move=_permuted,
            operation=lambda layer, shape: ops.Transpose((0, *layer.dims)),
            examples=(Example(build=lambda x: L.Permute((3, 1, 2))(x)),),
        ),
        LayerRule(
            layers=(L.ZeroPadding2D,),
            words="ZeroPadding2D",
            problem=checks.channels_last,
            output=Output.KEEPS,
            lower=_lower_pad,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.ZeroPadding2D(((1, 0), (2, 1)))(x)),
                Example(
                    build=lambda x: L.DepthwiseConv2D(3, 2)(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
                ),
            ),
        ),
        LayerRule(
            layers=(L.Cropping2D,),
            words="Cropping2D",
            problem=checks.fixed_size,
            output=Output.KEEPS,
            lower=_lower_crop,
            is_homogeneous=True,
            examples=(Example(build=lambda x: L.Cropping2D(((1, 2), (0, 3)))(x)),),
        ),
        LayerRule(
            layers=(L.Concatenate,),
            words="Concatenate",
            expand=_concatenate,
            on_row=_concatenate_row,
            problem=_check_concatenate,
            output=Output.SHARED,
            lower=_lower_concatenate,
            each_alone=_joins_others,
            examples=(
                Example(build=lambda x: L.Concatenate()([x, L.Conv2D(3, 1)(x)])),
                Example(build=lambda x: L.Concatenate(1)([x, x, x, x, x, x, x])),
                Example(build=lambda x: L.Concatenate()([L.Conv2D(3, 1)(x)])),
            ),
        ),
        LayerRule(
            layers=(DDQSlice,),
            operator="STRIDED_SLICE",
            output=Output.KEEPS,
            lower=_lower_slice,
        ),
        LayerRule(
            layers=(L.CenterCrop,),
            words="CenterCrop",
            expand=_center_crop,
            problem=_check_center_crop,
            examples=(Example(build=lambda x: L.CenterCrop(5, 4)(x)),),
        ),
        LayerRule(
            layers=(L.ZeroPadding1D,),
            on_row=_padding_row,
            problem=checks.on_sequences,
            examples=(Example(build=lambda x: L.ZeroPadding1D(2)(x), shape=(12, 4)),),
        ),
        LayerRule(
            layers=(L.Cropping1D,),
            on_row=_cropping_row,
            problem=checks.on_sequences,
            examples=(Example(build=lambda x: L.Cropping1D(2)(x), shape=(12, 4)),),
        ),
    ),
)
