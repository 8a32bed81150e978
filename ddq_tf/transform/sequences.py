"""Layers on sequences (length, channels) as layers on images of one row (1, length, channels).

TFLite has no one-dimensional operators. Each layer on a sequence becomes its 2-D twin between two
Reshapes; of two Reshapes in a row the first goes, so that those at the ends of a chain remain.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.layers import DDQRescaling

_L = keras.layers


class Canonicalizer(Protocol):
    """What the cases need of `transform.canonical`."""

    def new_tensor(self) -> int:
        """Returns an unused tensor number."""
        ...

    def layer(self, original: Any, role: str, make: Callable[[], Any]) -> Any:
        """Returns the new layer that plays a role for an old one, for all its calls."""
        ...


_Make = Callable[[Any, str], Any]


def _common(layer: Any, name: str) -> dict[str, Any]:
    """The arguments that all layers with weights take alike."""
    return {
        "kernel_size": (1, *layer.kernel_size),
        "dilation_rate": (1, *layer.dilation_rate),
        "activation": layer.activation,
        "use_bias": layer.use_bias,
        "name": name,
    }


def _conv(layer: Any, name: str) -> Any:
    return _L.Conv2D(
        filters=layer.filters,
        strides=(1, *layer.strides),
        padding=_padding(layer),
        groups=layer.groups,
        **_common(layer, name),
    )


def _transposed(layer: Any, name: str) -> Any:
    return _L.Conv2DTranspose(
        filters=layer.filters,
        strides=(1, *layer.strides),
        padding=layer.padding,
        output_padding=None if layer.output_padding is None else (0, *layer.output_padding),
        **_common(layer, name),
    )


def _depthwise(layer: Any, name: str) -> Any:
    # TensorFlow wants equal strides; down a single row any stride is one step.
    return _L.DepthwiseConv2D(
        strides=layer.strides * 2,
        padding=_padding(layer),
        depth_multiplier=layer.depth_multiplier,
        **_common(layer, name),
    )


def _separable(layer: Any, name: str) -> Any:
    return _L.SeparableConv2D(
        filters=layer.filters,
        strides=layer.strides * 2,
        padding=_padding(layer),
        depth_multiplier=layer.depth_multiplier,
        **_common(layer, name),
    )


def _padding(layer: Any) -> str:
    """Causal padding is a ZeroPadding before the layer."""
    return "valid" if layer.padding == "causal" else layer.padding


def _pool(kind: Any) -> _Make:
    def make(layer: Any, name: str) -> Any:
        return kind((1, *layer.pool_size), (1, *layer.strides), layer.padding, name=name)

    return make


def _global(kind: Any) -> _Make:
    return lambda layer, name: kind(keepdims=layer.keepdims, name=name)


def _batch_norm(layer: Any, name: str) -> Any:
    return _L.BatchNormalization.from_config({**layer.get_config(), "axis": -1, "name": name})


def _concatenate(layer: Any, name: str) -> Any:
    axis = layer.axis if layer.axis <= 0 else layer.axis + 1
    return _L.Concatenate(axis, name=name)


_TWINS: dict[type, _Make] = {
    _L.AveragePooling1D: _pool(_L.AveragePooling2D),
    _L.BatchNormalization: _batch_norm,
    _L.Concatenate: _concatenate,
    _L.Conv1D: _conv,
    _L.Conv1DTranspose: _transposed,
    _L.Cropping1D: lambda layer, name: _L.Cropping2D(((0, 0), layer.cropping), name=name),
    _L.DepthwiseConv1D: _depthwise,
    _L.GlobalAveragePooling1D: _global(_L.GlobalAveragePooling2D),
    _L.GlobalMaxPooling1D: _global(_L.GlobalMaxPooling2D),
    _L.MaxPooling1D: _pool(_L.MaxPooling2D),
    _L.SeparableConv1D: _separable,
    _L.SpatialDropout1D: lambda layer, name: _L.SpatialDropout2D(layer.rate, name=name),
    _L.UpSampling1D: lambda layer, name: _L.UpSampling2D((1, layer.size), name=name),
    _L.ZeroPadding1D: lambda layer, name: _L.ZeroPadding2D(((0, 0), layer.padding), name=name),
}
# These compute the same whatever the rank.
_ANY_RANK = (
    _L.Activation,
    _L.ActivityRegularization,
    _L.Add,
    _L.Dense,
    _L.Dropout,
    _L.ELU,
    _L.GaussianDropout,
    _L.GaussianNoise,
    _L.Identity,
    _L.LeakyReLU,
    _L.Multiply,
    _L.ReLU,
    _L.Softmax,
    _L.Subtract,
    DDQRescaling,
)
SEQUENCE_LAYERS = tuple(kind for kind in _TWINS if kind.__name__.endswith(("1D", "1DTranspose")))


def is_sequence(node: FlatNode) -> bool:
    """Returns whether a node works on sequences of a known length and has a twin on images."""
    layer = node.layer
    known = type(layer) in _TWINS or type(layer) in _ANY_RANK
    lasting = getattr(layer, "data_format", None) in (None, "channels_last")
    sizes = [len(shape) == 3 and None not in shape[1:] for shape in node.shapes]
    return known and lasting and all(sizes) and not _joins_the_batch(node)


def _joins_the_batch(node: FlatNode) -> bool:
    return isinstance(node.layer, _L.Concatenate) and node.layer.axis in (0, -3)


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
            dataclasses.replace(
                node,
                layer=padding,
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
    image = dataclasses.replace(
        node, layer=twin, inputs=tuple(images), outputs=(middle,), shapes=tuple(shapes)
    )
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
    layer = node.layer
    make = _TWINS.get(type(layer))
    if make is None:
        return layer
    twin = make(layer, node.name)
    if layer.weights:
        twin.build(shape)
        for mine, theirs in zip(twin.weights, layer.weights, strict=True):
            mine.assign(np.asarray(keras.ops.convert_to_numpy(theirs)).reshape(mine.shape))
    return twin


def join_reshapes(graph: FlatGraph) -> FlatGraph | None:
    """Returns the graph with one Reshape less, or None if all do something.

    Behind another Reshape, one reads what that reads; one that changes nothing and one that nothing
    reads are left out.
    """
    for node in graph.nodes:
        if not isinstance(node.layer, _L.Reshape | _L.Flatten):
            continue
        if not graph.consumers(node.outputs[0]) and node.outputs[0] not in graph.outputs:
            return _without(graph, node)
        shape: Any = node.layer.compute_output_shape(node.shapes[0])
        if tuple(shape[1:]) == tuple(node.shapes[0][1:]) and node.outputs[0] not in graph.outputs:
            return _without(graph, node)
        before = graph.producer(node.inputs[0])
        if before is not None and isinstance(before.layer, _L.Reshape | _L.Flatten):
            joined = dataclasses.replace(node, inputs=before.inputs, shapes=before.shapes)
            nodes = tuple(joined if n is node else n for n in graph.nodes)
            return dataclasses.replace(graph, nodes=nodes)
    return None


def _without(graph: FlatGraph, node: FlatNode) -> FlatGraph:
    """The graph with the readers of a node's output reading its input."""
    (gone,), (kept,) = node.outputs, node.inputs
    nodes = tuple(
        dataclasses.replace(n, inputs=tuple(kept if t == gone else t for t in n.inputs))
        for n in graph.nodes
        if n is not node
    )
    return dataclasses.replace(graph, nodes=nodes)
