"""Layers that move values: other shapes, borders, cuts and joins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import checks
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering

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
            output=Output.KEEPS,
            lower=_lower_reshape,
            examples=(Example(build=lambda x: L.Flatten()(x)),),
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
