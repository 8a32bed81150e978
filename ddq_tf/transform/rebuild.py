"""The DDQ twin of a float graph: same layers, quantized kernels, quantizers where tensors live.

A quantizer stands wherever the integer graph has a tensor of its own: at the input, after each
block (weighted layer, sum, product or standalone BatchNorm, with the ReLU behind it), after
averages. Layers that only move values keep the grid of their input. All tensors that meet in a
Concatenate share one quantizer (`transform.ties`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from ddq_tf.config import MAX_BITS, DDQConfig
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.windows import covers_input, stays_inside, upsampling_fractions
from ddq_tf.layers import (
    FIXED_GRIDS,
    TABLES,
    DDQActivation,
    DDQBatchNormalization,
    DDQBorderGain,
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQFixedGrid,
    DDQRescaling,
    DDQSoftmax,
    activation_name,
    ceiling_of,
    operator_kind,
)
from ddq_tf.layers.activation import SOFTMAX_SCALE
from ddq_tf.search import DDQModel
from ddq_tf.transform.supported import ACTIVATIONS, IDENTITIES, PAIRS, WEIGHTED, fused_kind
from ddq_tf.transform.ties import Ties, fused_activation

_TWINS: dict[type, Any] = {
    keras.layers.Conv2D: DDQConv2D,
    keras.layers.Conv2DTranspose: DDQConv2DTranspose,
    keras.layers.DepthwiseConv2D: DDQDepthwiseConv2D,
    keras.layers.Dense: DDQDense,
}


def rebuild(graph: FlatGraph, config: DDQConfig, name: str) -> DDQModel:
    """Returns the uncalibrated DDQ model of a supported graph, with the float model's weights."""
    return _Rebuilder(graph, config).run(name)


class _Rebuilder:
    """Walks the float graph and calls DDQ layers on symbolic tensors."""

    def __init__(self, graph: FlatGraph, config: DDQConfig) -> None:
        self.graph = graph
        self.config = config
        self.tensors: dict[int, Any] = {}
        self.grids: dict[int, Any] = {}
        self.twins: dict[int, Any] = {}
        self._names = {node.name for node in graph.nodes if not isinstance(node.layer, ACTIVATIONS)}
        self.ties = Ties(graph)
        self._shared: dict[int, DDQActivation] = {}
        self._ends = _ends(graph)
        self.done: set[int] = set()

    def run(self, name: str) -> DDQModel:
        """Rebuilds everything."""
        graph = self.graph
        inputs = [
            keras.Input(shape=shape[1:], name=input_name)
            for shape, input_name in zip(graph.input_shapes, graph.input_names, strict=True)
        ]
        rows = zip(graph.inputs, inputs, graph.input_names, strict=True)
        for tensor, keras_input, input_name in rows:
            quantizer = self._quantizer(f"{input_name}_quant", "linear", learned=False)
            self._put(tensor, quantizer(keras_input), quantizer)
        for index, node in enumerate(graph.nodes):
            if index not in self.done:
                _RULES[type(node.layer)](self, node)
        outputs = [self.tensors[tensor] for tensor in graph.outputs]
        model = DDQModel(
            inputs=inputs[0] if len(inputs) == 1 else inputs,
            outputs=outputs[0] if len(outputs) == 1 else outputs,
            name=name,
        )
        model.ddq_config = self.config
        return model

    # Rules

    def weighted(self, node: FlatNode) -> None:
        """A convolution or dense layer with its BatchNorm and ReLU."""
        value, last = self._weighted(node)(self.tensors[node.inputs[0]]), node
        kind = fused_kind(node.layer)
        after = self.graph.sole_consumer(node.outputs[0])
        if (
            kind == "linear"
            and after is not None
            and isinstance(after.layer, keras.layers.BatchNormalization)
        ):
            value, last = self._batch_norm(after)(value), after
            self.done.add(self.graph.nodes.index(after))
        self._finish(value, node.name, last, kind)

    def block(self, node: FlatNode) -> None:
        """An operator that writes a grid of its own, with its ReLU."""
        reads = [self.tensors[tensor] for tensor in node.inputs]
        value = self._plain(node)(reads if len(reads) > 1 else reads[0])
        self._finish(value, node.name, node, "linear")

    def affine(self, node: FlatNode) -> None:
        """A BatchNorm that no weighted layer takes in."""
        value = self._batch_norm(node)(self.tensors[node.inputs[0]])
        self._finish(value, node.name, node, "linear")

    def average(self, node: FlatNode) -> None:
        """A pooling with a grid of its own; on its input's where windows reach over the border."""
        if covers_input(node) or stays_inside(node):
            self.block(node)
        else:
            self.rounding(node)

    def rounding(self, node: FlatNode) -> None:
        """A layer that rounds to the grid of its input."""
        grid = self.grids[node.inputs[0]]
        value = grid(self._plain(node)(self.tensors[node.inputs[0]]))
        self._put(node.outputs[0], value, grid)

    def leaky(self, node: FlatNode) -> None:
        """Rounds to the grid of its input, halves up; the slope is a whole number of 256ths."""
        grid = self.grids[node.inputs[0]]
        value = self._plain(node)(self.tensors[node.inputs[0]])
        self._put(node.outputs[0], grid(value, lift=0.5 / 256), grid)

    def mover(self, node: FlatNode) -> None:
        """A layer that keeps the grid of its input."""
        tensor = node.inputs[0]
        self._put(node.outputs[0], self._plain(node)(self.tensors[tensor]), self.grids[tensor])

    def upsampling(self, node: FlatNode) -> None:
        """Nearest pixels keep the grid; bilinear ones are rounded to it, halves up."""
        if node.layer.interpolation == "nearest":
            self.mover(node)
            return
        grid = self.grids[node.inputs[0]]
        value = self._plain(node)(self.tensors[node.inputs[0]])
        lift = 0.5 / (upsampling_fractions(node) or 1)
        self._put(node.outputs[0], grid(value, lift=lift), grid)

    def concatenate(self, node: FlatNode) -> None:
        """All inputs on one grid; those that others fix are rounded to it."""
        grid = self._tied(node.outputs[0], node.name)
        reads = []
        for tensor in node.inputs:
            lies_there = self.ties.same(tensor, node.outputs[0])
            value = self.tensors[tensor]
            reads.append(value if lies_there else grid(value))
        self._put(node.outputs[0], self._plain(node)(reads), grid)

    def activation(self, node: FlatNode) -> None:
        """An activation that stands alone, behind a quantizer."""
        name, tensor = activation_name(node.layer), node.inputs[0]
        value, grid = self.tensors[tensor], self.grids[tensor]
        if name == "softmax":
            fixed = DDQFixedGrid(SOFTMAX_SCALE, 0, name=self._free_name(f"{node.name}_quant"))
            self._put(node.outputs[0], DDQSoftmax(name=node.name)(value), fixed)
        elif name in FIXED_GRIDS:
            scale, qmin = FIXED_GRIDS[name]
            fixed = DDQFixedGrid(scale, qmin, name=self._free_name(f"{node.name}_quant"))
            self._put(node.outputs[0], fixed(self._plain(node)(value)), fixed)
        elif name in TABLES:
            self._finish(self._plain(node)(value), node.name, node, "linear")
        elif name == "linear":
            self._put(node.outputs[0], value, grid)
        elif name in ("relu6", "clipped_relu"):
            self._put(node.outputs[0], grid(keras.layers.ReLU(ceiling_of(node.layer))(value)), grid)
        else:
            relu = keras.layers.ReLU(name=node.name)
            self._put(node.outputs[0], relu(value), grid)

    def _finish(self, value: Any, name: str, last: FlatNode, kind: str) -> None:
        """The ReLU behind a block, then its quantizer."""
        after = fused_activation(self.graph, last) if kind == "linear" else None
        label, ceiling = f"{name}_quant", None
        if after is not None:
            kind, label, last = activation_name(after.layer) or "linear", after.name, after
            ceiling = ceiling_of(after.layer)
            self.done.add(self.graph.nodes.index(after))
        tensor = last.outputs[0]
        if self.ties.is_tied(tensor):
            if kind != "linear":
                ceiling = 6.0 if kind == "relu6" else None
                value = keras.layers.ReLU(ceiling, name=self._free_name(f"{name}_relu"))(value)
            quantizer = self._tied(tensor, label)
        else:
            precisions = None if tensor in self._ends else self.config.activation_precisions
            if kind == "clipped_relu":
                kind = "relu"
            quantizer = self._quantizer(label, kind, precisions, ceiling=ceiling)
        self._put(tensor, quantizer(value), quantizer)

    def _tied(self, tensor: int, name: str) -> DDQActivation:
        """The one quantizer of all tensors tied to this one."""
        root = self.ties.root(tensor)
        if root not in self._shared:
            precisions = self.config.activation_precisions
            self._shared[root] = self._quantizer(f"{name}_shared", "linear", precisions)
        return self._shared[root]

    def _put(self, tensor: int, value: Any, grid: Any) -> None:
        self.tensors[tensor] = value
        self.grids[tensor] = grid

    def _quantizer(
        self,
        name: str,
        kind: str,
        precisions: tuple[int, ...] | None = None,
        *,
        learned: bool = True,
        ceiling: float | None = None,
    ) -> DDQActivation:
        """A new activation quantizer, of 8 bits by default; one for each call of a layer."""
        free = self._free_name(name)
        return DDQActivation(
            kind, precisions or (MAX_BITS,), learned=learned, ceiling=ceiling, name=free
        )

    def _free_name(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return unique

    def _weighted(self, node: FlatNode) -> Any:
        """The DDQ twin of a weighted layer, with its weights; one for all its calls."""
        layer = node.layer
        if id(layer) not in self.twins:
            fields = {**_config_of(node), "activation": "linear"}
            channels = node.shapes[0][-1] or 0
            twin = _TWINS[type(layer)](
                **fields,
                precisions=self.config.precisions_for(operator_kind(layer), channels),
                per_channel=self.config.per_channel,
                channel_precision=self.config.channel_precision,
                narrow_range=self.config.narrow_range,
                levels=self.config.levels,
                level_init=self.config.level_init,
                correction=self.config.correction,
            )
            self.twins[id(layer)] = _WithWeights(twin, layer)
        return self.twins[id(layer)]

    def _batch_norm(self, node: FlatNode) -> Any:
        """A copy of a BatchNorm; one that was called for inference only stays so."""
        if id(node.layer) not in self.twins:
            twin = DDQBatchNormalization.from_config(_config_of(node))
            self.twins[id(node.layer)] = _WithWeights(twin, node.layer)
        copy = self.twins[id(node.layer)]
        copy.layer.trainable = node.layer.trainable and not node.inference
        return copy

    def _plain(self, node: FlatNode) -> Any:
        """A copy of a layer that stays as it is; one for all its calls."""
        layer = node.layer
        if id(layer) not in self.twins:
            self.twins[id(layer)] = _WithWeights(type(layer).from_config(_config_of(node)), layer)
        return self.twins[id(layer)]


def _ends(graph: FlatGraph) -> set[int]:
    """The tensors that reach an output without passing an operator that computes."""
    ends, pending = set(), list(graph.outputs)
    while pending:
        tensor = pending.pop()
        ends.add(tensor)
        node = graph.producer(tensor)
        if node is not None and _RULES[type(node.layer)] in _PASSING:
            pending += node.inputs
    return ends


class _WithWeights:
    """A layer that receives the original's weights when it is first called."""

    def __init__(self, layer: Any, original: Any) -> None:
        self.layer = layer
        self._original = original
        self._copied = False

    def __call__(self, inputs: Any) -> Any:
        outputs = self.layer(inputs)
        if not self._copied and self._original.built:
            for mine, theirs in zip(
                _own_variables(self.layer), _own_variables(self._original), strict=True
            ):
                transposed = isinstance(self.layer, DDQConv2DTranspose) and mine.name == "kernel"
                mine.assign(keras.ops.swapaxes(theirs, -1, -2) if transposed else theirs)
            self._copied = True
        return outputs


def _own_variables(layer: Any) -> list[Any]:
    """The variables of a layer's own, without those of a quantizer inside it."""
    inner = {id(v) for child in layer._layers for v in child.variables}
    return [v for v in layer.weights if id(v) not in inner]


def _config_of(node: FlatNode) -> dict[str, Any]:
    """The layer's configuration for a trainable copy in float32 under its flat name."""
    fields = dict(node.layer.get_config())
    fields.update(name=node.name, dtype="float32")
    if "trainable" in fields:  # SpatialDropout2D neither tells nor takes it
        fields["trainable"] = True
    fields.pop("batch_input_shape", None)
    return fields


_RULES: dict[type, Callable[[_Rebuilder, FlatNode], None]] = {
    **dict.fromkeys(WEIGHTED, _Rebuilder.weighted),
    **dict.fromkeys(IDENTITIES, _Rebuilder.mover),
    **dict.fromkeys(ACTIVATIONS, _Rebuilder.activation),
    **dict.fromkeys(PAIRS, _Rebuilder.block),
    DDQBorderGain: _Rebuilder.block,
    DDQRescaling: _Rebuilder.block,
    keras.layers.AveragePooling2D: _Rebuilder.average,
    keras.layers.BatchNormalization: _Rebuilder.affine,
    keras.layers.Concatenate: _Rebuilder.concatenate,
    keras.layers.Cropping2D: _Rebuilder.mover,
    keras.layers.Flatten: _Rebuilder.mover,
    keras.layers.GlobalAveragePooling2D: _Rebuilder.block,
    keras.layers.GlobalMaxPooling2D: _Rebuilder.mover,
    keras.layers.LeakyReLU: _Rebuilder.leaky,
    keras.layers.MaxPooling2D: _Rebuilder.mover,
    keras.layers.Permute: _Rebuilder.mover,
    keras.layers.Reshape: _Rebuilder.mover,
    keras.layers.UpSampling2D: _Rebuilder.upsampling,
    keras.layers.ZeroPadding2D: _Rebuilder.mover,
}
_PASSING = (_Rebuilder.activation, _Rebuilder.mover)
