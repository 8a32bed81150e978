"""Layers on sequences (length, channels) as layers on images of one row (1, length, channels).

TFLite has no one-dimensional operators. Each layer on a sequence becomes its 2-D twin between two
Reshapes; of two Reshapes in a row the first goes, so that those at the ends of a chain remain.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import Output, find_rule, rule_of

if TYPE_CHECKING:
    from ddq_tf.transform.canonical import Canonicalizer

_L = keras.layers


def is_sequence(node: FlatNode) -> bool:
    """Returns whether a node works on sequences of a known length and has a twin on images."""
    rule = find_rule(node.layer)
    lasting = getattr(node.layer, "data_format", None) in (None, "channels_last")
    sizes = [len(shape) == 3 and None not in shape[1:] for shape in node.shapes]
    known = rule is not None and rule.on_row is not None
    return known and lasting and all(sizes) and _is_along_rows(node)


def _is_along_rows(node: FlatNode) -> bool:
    """Whether a layer's axis, if it has one, is that of its twin: the channels; or joins rows."""
    axis = getattr(node.layer, "axis", -1)
    if rule_of(node.layer).output is Output.SHARED:
        return axis not in (0, -3)
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    return axes in ([-1], [2])


def on_one_row(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Returns a node's twin on images of one row, between Reshapes."""
    layer, before, images = node.layer, [], []
    for place, (tensor, shape) in enumerate(zip(node.inputs, node.shapes, strict=True)):
        row = (shape[0], 1, *shape[1:])
        images.append(to.new_tensor())
        name = f"{node.name}_row" if place == 0 else f"{node.name}_row_{place}"
        before.append(_reshape(to, node, tensor, shape, images[-1], row[1:], name))
    shapes = [(shape[0], 1, *shape[1:]) for shape in node.shapes]
    if getattr(layer, "padding", None) == "causal":
        reach = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        border = ((0, 0), (reach, 0))
        padding = to.layer(
            layer, "causal", lambda: _L.ZeroPadding2D(border, name=f"{node.name}_pad")
        )
        padded = to.new_tensor()
        before.append(
            node.calling(
                padding,
                name=padding.name,
                inputs=tuple(images),
                outputs=(padded,),
                shapes=tuple(shapes),
            )
        )
        images, shapes = [padded], [padding.compute_output_shape(shapes[0])]
    twin = to.layer(layer, "on one row", lambda: _twin(node, shapes[0]))
    written = twin.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
    flat = len(written) == 2
    middle = node.outputs[0] if flat else to.new_tensor()
    image = node.calling(twin, inputs=tuple(images), outputs=(middle,), shapes=tuple(shapes))
    if flat:
        return [*before, image]
    name = f"{node.name}_sequence"
    target = tuple(written[2:])
    after = _reshape(to, node, middle, tuple(written), node.outputs[0], target, name)
    return [*before, image, after]


def _reshape(
    to: Canonicalizer,
    node: FlatNode,
    reads: int,
    shape: tuple[int | None, ...],
    writes: int,
    target: tuple[int | None, ...],
    name: str,
) -> FlatNode:
    layer = to.layer(node.layer, f"{name} {target}", lambda: _L.Reshape(target, name=name))
    return FlatNode(
        layer=layer, name=name, inputs=(reads,), outputs=(writes,), shapes=(tuple(shape),)
    )


def _twin(node: FlatNode, shape: Any) -> Any:
    """The layer that does on images what a node's does on sequences, with its weights."""
    layer, make = node.layer, rule_of(node.layer).on_row
    twin = layer if make is None else make(layer, node.name)
    if layer.weights and twin is not layer:
        twin.build(shape)
        for mine, theirs in zip(twin.weights, layer.weights, strict=True):
            mine.assign(np.asarray(keras.ops.convert_to_numpy(theirs)).reshape(mine.shape))
    return twin


def _reshapes(node: FlatNode) -> bool:
    return isinstance(node.layer, _L.Reshape | _L.Flatten)


def join_reshapes(to: Canonicalizer, node: FlatNode) -> FlatGraph | None:
    """Returns the graph with one Reshape less, or None if a node is none or does something.

    Behind another Reshape, one reads what that reads; one that changes nothing and one that nothing
    reads are left out.
    """
    graph = to.graph
    if not _reshapes(node):
        return None
    is_output = node.outputs[0] in graph.outputs
    if not graph.consumers(node.outputs[0]) and not is_output:
        return graph.without(node)
    shape: Any = node.layer.compute_output_shape(node.shapes[0])
    if tuple(shape[1:]) == tuple(node.shapes[0][1:]) and not is_output:
        return graph.without(node)
    before = graph.producer(node.inputs[0])
    if before is None or not _reshapes(before):
        return None
    joined = dataclasses.replace(node, inputs=before.inputs, shapes=before.shapes)
    return graph.replaced({node.outputs[0]: [joined]})
