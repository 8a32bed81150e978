"""Rewrites a float graph to the few layers that the rules know, before anything is checked.

1. `x + y`, `x - y`, `x * y` on tensors: the layers; with a number: DDQRescaling.
2. relu6(x + 3) / 6 written out: the activation hard_sigmoid.
3. Rescaling and Normalization: DDQRescaling; several in a row: one.
4. Convolutions and dense layers with an activation that does not fuse: an Activation behind them.
5. silu and hard_silu: x * sigmoid(x), x * hard_sigmoid(x).
6. Additions of more than two: a chain.
7. SeparableConv2D: a depthwise and a pointwise convolution.
8. AveragePooling2D whose windows reach over the border: padding, a mean, a gain at the border.
9. Leaky ReLUs, however written: LeakyReLU with a slope that is an odd multiple of 1/256.
10. Layers on sequences: on images of one row (`transform.sequences`).
11. A rescaling behind a convolution or dense layer: part of its weights.
12. The scaled sums of keras.applications' InceptionResNetV2: a rescaling and an addition.
13. keras.ops.clip to 0 and above: ReLU with a ceiling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.ops import numpy as operations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.affine import as_float64
from ddq_tf.graph.windows import same_padding, stays_inside, values_inside
from ddq_tf.layers import FIXED_GRIDS, TABLES, DDQBorderGain, DDQRescaling, activation_name
from ddq_tf.transform.sequences import is_sequence, join_reshapes, on_one_row

WEIGHTED = (
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)
_GATES = {"silu": "sigmoid", "hard_silu": "hard_sigmoid"}
_SPLIT = ("softmax", "leaky_relu", *FIXED_GRIDS, *TABLES, *_GATES)


def canonical(graph: FlatGraph) -> FlatGraph:
    """Returns an equivalent graph in which the cases of this module's text are rewritten."""
    return _Canonicalizer(graph).run()


class _Canonicalizer:
    """Expands nodes one by one; then looks at neighbours."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self.layers: dict[tuple[int, str], Any] = {}
        self.bare: set[int] = set()  # outputs of weighted layers without their activation
        tensors = [t for node in graph.nodes for t in node.outputs]
        self._count = max((*tensors, *graph.inputs), default=-1) + 1

    def run(self) -> FlatGraph:
        """Rewrites until nothing changes."""
        while True:
            nodes = [new for node in self.graph.nodes for new in self._expand(node)]
            expanded = len(nodes) != len(self.graph.nodes) or any(
                new is not old for new, old in zip(nodes, self.graph.nodes, strict=True)
            )
            self.graph = dataclasses.replace(self.graph, nodes=tuple(nodes))
            if not expanded and not self._merge():
                return self.graph

    def _expand(self, node: FlatNode) -> list[FlatNode]:
        if is_sequence(node):
            return on_one_row(self, node)
        rule = CASES.get(type(node.layer))
        return rule(self, node) if rule is not None else [node]

    def _merge(self) -> bool:
        """Joins two neighbouring nodes, or three; returns whether there were any."""
        joined = join_reshapes(self.graph)
        if joined is not None:
            self.graph = joined
            return True
        # What has parts that a later rule would take away goes first.
        for rule in (_hard_sigmoid, _two_rescalings, _scaled_kernel):
            for node in self.graph.nodes:
                found = rule(self, node)
                if found is not None:
                    gone, new = found
                    nodes = [new if n is node else n for n in self.graph.nodes if n not in gone]
                    self.graph = dataclasses.replace(self.graph, nodes=tuple(nodes))
                    return True
        return False

    def new_tensor(self) -> int:
        """Returns an unused tensor number."""
        self._count += 1
        return self._count - 1

    def layer(self, original: Any, role: str, make: Callable[[], Any]) -> Any:
        """The new layer that plays a role for an old one, for all its calls."""
        key = (id(original), role)
        if key not in self.layers:
            self.layers[key] = make()
        return self.layers[key]


_Case = Callable[[_Canonicalizer, FlatNode], list[FlatNode]]


def _replaced(node: FlatNode, layer: Any) -> list[FlatNode]:
    return [dataclasses.replace(node, layer=layer, constants=())]


def _chained(node: FlatNode, tensor: int, shape: Any, name: str, layer: Any) -> FlatNode:
    """A node that reads `tensor` and writes what `node` wrote."""
    return dataclasses.replace(
        node, layer=layer, name=name, inputs=(tensor,), shapes=(tuple(shape),), constants=()
    )


def _operation(kind: type, rescale: Callable[[float, int], tuple[float, float]]) -> _Case:
    """The case of an operator between two tensors, or a tensor and a number.

    Args:
        kind: the layer for two tensors.
        rescale: (gain, shift) for a number and the place at which it stands.
    """

    def rule(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
        if len(node.inputs) == 2:
            return _replaced(node, to.layer(node.layer, "layer", lambda: kind(name=node.name)))
        numbers = [(i, c) for i, c in enumerate(node.constants) if c is not None]
        if len(node.inputs) != 1 or len(numbers) != 1 or np.ndim(numbers[0][1]) != 0:
            return [node]
        place, number = numbers[0]
        gain, shift = rescale(float(number), place)
        return _replaced(
            node, to.layer(node.layer, "layer", lambda: DDQRescaling(gain, shift, name=node.name))
        )

    return rule


def _rescaling(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    def make() -> Any:
        layer = node.layer
        return DDQRescaling(layer.scale, layer.offset, name=node.name)

    return _replaced(node, to.layer(node.layer, "layer", make))


def _normalization(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    layer, channels = node.layer, node.shapes[0][-1]
    sizes = {int(np.size(layer.mean)), int(np.size(layer.variance))}
    if layer.mean is None or not sizes <= {1, channels}:
        return [node]

    def make() -> Any:
        mean = as_float64(layer.mean).ravel()
        variance = as_float64(layer.variance).ravel()
        deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
        if layer.invert:
            return DDQRescaling(deviation, mean, name=node.name)
        return DDQRescaling(1 / deviation, -mean / deviation, name=node.name)

    return _replaced(node, to.layer(layer, "layer", make))


def _two_rescalings(to: _Canonicalizer, node: FlatNode) -> tuple[list[FlatNode], FlatNode] | None:
    """A rescaling behind another that it alone reads."""
    before = to.graph.producer(node.inputs[0])
    if before is None or not all(isinstance(n.layer, DDQRescaling) for n in (before, node)):
        return None
    if to.graph.sole_consumer(node.inputs[0]) is not node:
        return None
    first, second = before.layer.get_config(), node.layer.get_config()
    gain = np.asarray(first["gain"]) * second["gain"]
    shift = np.asarray(first["shift"]) * second["gain"] + second["shift"]
    layer = to.layer(node.layer, f"after {before.name}", lambda: DDQRescaling(gain, shift))
    return [before], dataclasses.replace(before, layer=layer, outputs=node.outputs)


def _scaled_kernel(to: _Canonicalizer, node: FlatNode) -> tuple[list[FlatNode], FlatNode] | None:
    """A rescaling behind a convolution or dense layer that it alone reads, and that runs once."""
    before = to.graph.producer(node.inputs[0])
    if not isinstance(node.layer, DDQRescaling) or before is None:
        return None
    layer = before.layer
    fits = type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
    calls = [n for n in to.graph.nodes if n.layer is layer]
    alone = to.graph.sole_consumer(node.inputs[0]) is node and len(calls) == 1
    if not fits or not alone or activation_name(layer) != "linear":
        return None
    by = node.layer.get_config()

    def make() -> Any:
        config = {**layer.get_config(), "name": before.name, "use_bias": True}
        scaled = type(layer).from_config(config)
        scaled.build(before.shapes[0])
        gain = np.asarray(by["gain"])
        bias = 0.0 if layer.bias is None else as_float64(layer.bias)
        scaled.kernel.assign(as_float64(layer.kernel) * gain)
        scaled.bias.assign(np.broadcast_to(bias * gain + by["shift"], scaled.bias.shape))
        return scaled

    twin = to.layer(layer, f"scaled by {node.name}", make)
    return [before], dataclasses.replace(before, layer=twin, outputs=node.outputs)


def _hard_sigmoid(to: _Canonicalizer, node: FlatNode) -> tuple[list[FlatNode], FlatNode] | None:
    """relu6(x + 3) / 6."""
    middle = to.graph.producer(node.inputs[0])
    first = None if middle is None else to.graph.producer(middle.inputs[0])
    if middle is None or first is None or not isinstance(middle.layer, keras.layers.ReLU):
        return None
    alone = all(
        to.graph.sole_consumer(a.outputs[0]) is b for a, b in ((first, middle), (middle, node))
    )
    if not alone or activation_name(middle.layer) != "relu6":
        return None
    if not (_rescales(first, 1, 3) and _rescales(node, 1 / 6, 0)):
        return None
    layer = to.layer(
        node.layer, "hard", lambda: keras.layers.Activation("hard_sigmoid", name=node.name)
    )
    return [first, middle], dataclasses.replace(
        node, layer=layer, inputs=first.inputs, shapes=first.shapes
    )


def _rescales(node: FlatNode, gain: float, shift: float) -> bool:
    if not isinstance(node.layer, DDQRescaling):
        return False
    config = node.layer.get_config()
    return bool(np.allclose(config["gain"], gain)) and bool(np.allclose(config["shift"], shift))


def _with_activation(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Splits off an activation that no integer operator fuses."""
    name = activation_name(node.layer)
    if name not in _SPLIT or node.outputs[0] in to.bare:
        return [node]
    middle = to.new_tensor()
    to.bare.add(middle)
    label = f"{node.name}_{name}"
    layer = to.layer(
        node.layer, "activation", lambda: keras.layers.Activation(node.layer.activation, name=label)
    )
    shape = node.layer.compute_output_shape(node.shapes[0])
    return [
        dataclasses.replace(node, outputs=(middle,)),
        _chained(node, middle, shape, label, layer),
    ]


def _activation(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """silu, hard_silu: a gate and a product. Leaky ReLU: the layer. ELU(1): the activation."""
    name = activation_name(node.layer)
    if name == "leaky_relu":
        slope = getattr(node.layer, "negative_slope", 0.2)
        return _leaky(to, node, float(slope))
    if isinstance(node.layer, keras.layers.ELU):
        if name != "elu":
            return [node]
        return _replaced(
            node,
            to.layer(node.layer, "elu", lambda: keras.layers.Activation("elu", name=node.name)),
        )
    if name not in _GATES:
        return [node]
    gate = to.layer(
        node.layer,
        "gate",
        lambda: keras.layers.Activation(_GATES[name], name=f"{node.name}_gate"),
    )
    product = to.layer(node.layer, "product", lambda: keras.layers.Multiply(name=node.name))
    middle = to.new_tensor()
    return [
        dataclasses.replace(node, layer=gate, name=f"{node.name}_gate", outputs=(middle,)),
        dataclasses.replace(
            node, layer=product, inputs=(*node.inputs, middle), shapes=node.shapes * 2
        ),
    ]


def _leaky(to: _Canonicalizer, node: FlatNode, slope: float) -> list[FlatNode]:
    odd = float(2 * np.rint((slope * 256 - 1) / 2) + 1) / 256
    if isinstance(node.layer, keras.layers.LeakyReLU) and node.layer.negative_slope == odd:
        return [node]
    return _replaced(
        node, to.layer(node.layer, "leaky", lambda: keras.layers.LeakyReLU(odd, name=node.name))
    )


def _sum(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A + b + c + ... as a chain of pairs."""
    if len(node.inputs) <= 2:
        return [node]
    total, shape, nodes = node.inputs[0], node.shapes[0], []
    for number, tensor in enumerate(node.inputs[1:], 1):
        last = number == len(node.inputs) - 1
        name = node.name if last else f"{node.name}_{number}"
        written = node.outputs[0] if last else to.new_tensor()
        nodes.append(
            dataclasses.replace(
                node,
                layer=to.layer(node.layer, name, lambda name=name: keras.layers.Add(name=name)),
                name=name,
                inputs=(total, tensor),
                outputs=(written,),
                shapes=(shape, node.shapes[number]),
            )
        )
        total = written
    return nodes


def _separable(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A depthwise and a pointwise convolution; the activation stays with the second."""
    layer, name = node.layer, node.name
    if layer.data_format != "channels_last":
        return [node]
    spatial = to.layer(
        layer,
        "depthwise",
        lambda: keras.layers.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            name=f"{name}_depthwise",
        ),
    )
    point = to.layer(
        layer,
        "pointwise",
        lambda: keras.layers.Conv2D(
            layer.filters,
            1,
            use_bias=layer.use_bias,
            activation=layer.activation,
            name=f"{name}_pointwise",
        ),
    )
    shape = spatial.compute_output_shape(node.shapes[0])
    if not spatial.built:
        spatial.build(node.shapes[0])
        point.build(shape)
        spatial.kernel.assign(layer.depthwise_kernel)
        point.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            point.bias.assign(layer.bias)
    middle = to.new_tensor()
    return [
        dataclasses.replace(node, layer=spatial, name=spatial.name, outputs=(middle,)),
        _chained(node, middle, shape, point.name, point),
    ]


def _average(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A mean over windows that reach over the border: padding, a mean, a gain at the border."""
    layer, sizes = node.layer, [size or 0 for size in node.shapes[0][1:3]]
    if stays_inside(node) or 0 in sizes or layer.data_format != "channels_last":
        return [node]
    rows = list(zip(sizes, layer.pool_size, layer.strides, strict=True))
    gain = to.layer(
        layer,
        f"gain{sizes}",
        lambda: DDQBorderGain(
            values_inside(*rows[0]),
            values_inside(*rows[1]),
            layer.pool_size,
            name=f"{node.name}_border",
        ),
    )
    if not gain.has_codes:
        return [node]
    pad = to.layer(
        layer,
        f"pad{sizes}",
        lambda: keras.layers.ZeroPadding2D(
            tuple(same_padding(*row) for row in rows), name=f"{node.name}_pad"
        ),
    )
    mean = to.layer(
        layer,
        "mean",
        lambda: keras.layers.AveragePooling2D(layer.pool_size, layer.strides, name=node.name),
    )
    padded, summed = to.new_tensor(), to.new_tensor()
    inner = pad.compute_output_shape(node.shapes[0])
    outer = mean.compute_output_shape(inner)
    return [
        dataclasses.replace(node, layer=pad, name=pad.name, outputs=(padded,)),
        dataclasses.replace(_chained(node, padded, inner, mean.name, mean), outputs=(summed,)),
        _chained(node, summed, outer, gain.name, gain),
    ]


def _scaled_sum(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A + scale * b."""
    layer = node.layer
    rescaling = to.layer(
        layer, "rescaling", lambda: DDQRescaling(layer.scale, name=f"{node.name}_scale")
    )
    total = to.layer(layer, "sum", lambda: keras.layers.Add(name=node.name))
    scaled = to.new_tensor()
    return [
        FlatNode(
            layer=rescaling,
            name=rescaling.name,
            inputs=node.inputs[1:],
            outputs=(scaled,),
            shapes=node.shapes[1:],
        ),
        dataclasses.replace(node, layer=total, inputs=(node.inputs[0], scaled)),
    ]


def _clip(to: _Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Clip(x, 0, ceiling)."""
    low, high = node.layer.x_min, node.layer.x_max
    if not all(isinstance(end, int | float) for end in (low, high)) or low != 0 or high <= 0:
        return [node]
    relu = to.layer(node.layer, "relu", lambda: keras.layers.ReLU(high, name=node.name))
    return _replaced(node, relu)


CASES: dict[type, _Case] = {
    CustomScaleLayer: _scaled_sum,
    keras.layers.AveragePooling2D: _average,
    **dict.fromkeys(WEIGHTED, _with_activation),
    operations.Add: _operation(keras.layers.Add, lambda c, _: (1.0, c)),
    operations.Subtract: _operation(
        keras.layers.Subtract, lambda c, place: (1.0, -c) if place else (-1.0, c)
    ),
    operations.Multiply: _operation(keras.layers.Multiply, lambda c, _: (c, 0.0)),
    operations.Clip: _clip,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Normalization: _normalization,
    keras.layers.Activation: _activation,
    keras.layers.ReLU: _activation,
    keras.layers.ELU: _activation,
    keras.layers.LeakyReLU: _activation,
    keras.layers.Add: _sum,
    keras.layers.SeparableConv2D: _separable,
}
