"""Layers that move values: other shapes, borders, cuts and joins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
from keras.src.ops import numpy as operations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import checks
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output, as_layer

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


# Operations


def _reshape(node: FlatNode) -> Any | None:
    """A Reshape that leaves the batch as it is."""
    first, *target = node.layer.newshape
    sizes = [size for size in node.shapes[0][1:] if size is not None]
    known = len(sizes) + 1 == len(node.shapes[0]) and all(isinstance(n, int) for n in target)
    if not known or first not in (-1, None):
        return None
    same = first is None if -1 in target else math.prod(sizes) == math.prod(target)
    return L.Reshape(target, name=node.name) if same else None


def _concatenate(node: FlatNode) -> Any:
    return L.Concatenate(node.layer.axis, name=node.name)


def _permute(node: FlatNode) -> Any | None:
    axes = node.layer.axes
    return None if not axes or axes[0] != 0 else L.Permute(tuple(axes[1:]), name=node.name)


def _other_rank(node: FlatNode) -> Any | None:
    """A Reshape that adds or drops axes of one value."""
    written = node.layer.compute_output_spec(keras.KerasTensor(node.shapes[0])).shape
    if None in written[1:] or written[:1] != node.shapes[0][:1]:
        return None
    return L.Reshape(tuple(written[1:]), name=node.name)


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


# Integer operators


def _lower_pad(into: Lowering, node: FlatNode) -> None:
    """PAD."""
    reads, writes = into.moved(node)
    (top, bottom), (left, right) = node.layer.padding
    rows = [[0, 0], [top, bottom], [left, right], [0, 0]]
    paddings = into.constant(f"{node.name}/paddings", rows)
    into.emit("PAD", (reads, paddings), writes, source=node.name)


def _lower_crop(into: Lowering, node: FlatNode) -> None:
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


def _lower_permute(into: Lowering, node: FlatNode) -> None:
    """TRANSPOSE."""
    reads, writes = into.moved(node)
    order = into.constant(f"{node.name}/order", [0, *node.layer.dims])
    into.emit("TRANSPOSE", (reads, order), writes, source=node.name)


def _lower_reshape(into: Lowering, node: FlatNode) -> None:
    """RESHAPE."""
    reads, writes = into.moved(node)
    into.reshape(node, reads, writes)


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
            examples=(Example(build=lambda x: L.Reshape((4, -1, 4))(x)),),
        ),
        LayerRule(
            layers=(L.Permute,),
            words="Permute",
            output=Output.KEEPS,
            lower=_lower_permute,
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
            on_row=_concatenate_row,
            problem=_check_concatenate,
            output=Output.SHARED,
            lower=_lower_concatenate,
            examples=(
                Example(build=lambda x: L.Concatenate()([x, L.Conv2D(3, 1)(x)])),
                Example(build=lambda x: L.Concatenate(1)([x, x, x, x, x, x, x])),
            ),
        ),
        as_layer(
            _reshape,
            operations.Reshape,
            needs="a shape that leaves the batch as it is, as (-1, 10, 3)",
            examples=(Example(build=lambda x: keras.ops.reshape(x, (-1, 4, 16, 4))),),
        ),
        as_layer(
            _concatenate,
            operations.Concatenate,
            needs="another axis than the batch",
            examples=(Example(build=lambda x: keras.ops.concatenate([x, x * 0.5], -1)),),
        ),
        as_layer(
            _permute,
            operations.Transpose,
            needs="axes that leave the batch first",
            examples=(Example(build=lambda x: keras.ops.transpose(x, (0, 3, 1, 2))),),
        ),
        as_layer(
            _other_rank,
            operations.ExpandDims,
            operations.Squeeze,
            needs="another axis than the batch, and a fixed size",
            examples=(
                Example(build=lambda x: keras.ops.expand_dims(L.GlobalMaxPooling2D()(x), 1)),
                Example(
                    build=lambda x: keras.ops.squeeze(
                        L.GlobalMaxPooling2D(keepdims=True)(x), (1, 2)
                    )
                ),
            ),
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
