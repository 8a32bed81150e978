"""The DDQ twin of a float graph: same layers, quantized kernels, quantizers where tensors live.

A quantizer stands wherever the integer graph has a tensor of its own: at the input, after each
block (weighted layer or Add, with its BatchNorm and ReLU), after global pooling. Layers that only
move values keep the grid of their input; average pooling rounds to it.
"""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.layers import (
    DDQActivation,
    DDQConv2D,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQSoftmax,
    operator_kind,
)
from ddq_tf.search import DDQModel
from ddq_tf.transform.supported import ACTIVATIONS, IDENTITIES, MOVERS, WEIGHTED, activation_kind

_TWINS: dict[type, Any] = {
    keras.layers.Conv2D: DDQConv2D,
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
        self.grids: dict[int, DDQActivation] = {}
        self.twins: dict[int, Any] = {}
        self.quantizers: dict[str, DDQActivation] = {}
        self.done: set[int] = set()

    def run(self, name: str) -> DDQModel:
        """Rebuilds everything."""
        graph = self.graph
        inputs = [
            keras.Input(shape=shape[1:], name=input_name)
            for shape, input_name in zip(graph.input_shapes, graph.input_names, strict=True)
        ]
        for tensor, keras_input in zip(graph.inputs, inputs, strict=True):
            quantizer = self._quantizer(f"{keras_input.name}_quant", "linear", learned=False)
            self._put(tensor, quantizer(keras_input), quantizer)
        for index, node in enumerate(graph.nodes):
            if index not in self.done:
                self._emit(index, node)
        outputs = [self.tensors[tensor] for tensor in graph.outputs]
        model = DDQModel(
            inputs=inputs[0] if len(inputs) == 1 else inputs,
            outputs=outputs[0] if len(outputs) == 1 else outputs,
            name=name,
        )
        model.ddq_config = self.config
        return model

    def _emit(self, index: int, node: FlatNode) -> None:
        layer, reads = node.layer, [self.tensors[t] for t in node.inputs]
        grid = self.grids[node.inputs[0]]
        out = node.outputs[0]
        if isinstance(layer, (*WEIGHTED, keras.layers.Add)):
            self._emit_block(node, reads)
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D) or covers_input(node):
            quantizer = self._quantizer(f"{node.name}_quant", "linear")
            self._put(out, quantizer(self._plain(node)(reads[0])), quantizer)
        elif isinstance(layer, keras.layers.AveragePooling2D):
            self._put(out, grid(self._plain(node)(reads[0])), grid)
        elif isinstance(layer, (*MOVERS, *IDENTITIES)):
            self._put(out, self._plain(node)(reads[0]), grid)
        elif isinstance(layer, ACTIVATIONS) and activation_kind(layer) == "softmax":
            self._put(out, DDQSoftmax(name=node.name)(reads[0]), grid)
        else:
            self._put(out, reads[0], grid)

    def _emit_block(self, node: FlatNode, reads: list[Any]) -> None:
        """A weighted layer or Add, its BatchNorm, its activation, then one quantizer."""
        if isinstance(node.layer, keras.layers.Add):
            value = self._plain(node)(reads)
            kind, name = "linear", f"{node.name}_quant"
        else:
            value = self._weighted(node)(reads[0])
            kind, name = activation_kind(node.layer) or "linear", f"{node.name}_quant"
        last = node
        after = self._fused(last, (keras.layers.BatchNormalization,))
        if after is not None and isinstance(node.layer, WEIGHTED):
            value = self._batch_norm(after)(value)
            last = after
        after = self._fused(last, ACTIVATIONS)
        if kind == "linear" and after is not None and activation_kind(after.layer) != "softmax":
            kind, name = activation_kind(after.layer) or "linear", after.name
            last = after
        softmax = kind == "softmax"
        quantizer = self._quantizer(name, "linear" if softmax else kind)
        value = quantizer(value)
        if softmax:
            value = DDQSoftmax(name=f"{node.name}_softmax")(value)
        self._put(last.outputs[0], value, quantizer)

    def _fused(self, node: FlatNode, types: tuple[type, ...]) -> FlatNode | None:
        """The node that alone reads this one's output, if it is of these types; marks it done."""
        after = self.graph.sole_consumer(node.outputs[0])
        if after is None or not isinstance(after.layer, types):
            return None
        if isinstance(after.layer, ACTIVATIONS) and activation_kind(after.layer) == "softmax":
            return None
        self.done.add(self.graph.nodes.index(after))
        return after

    def _put(self, tensor: int, value: Any, grid: DDQActivation) -> None:
        self.tensors[tensor] = value
        self.grids[tensor] = grid

    def _quantizer(self, name: str, kind: str, *, learned: bool = True) -> DDQActivation:
        """A new activation quantizer; a layer called twice gets one for each call."""
        unique, count = name, 1
        while unique in self.quantizers:
            count += 1
            unique = f"{name}_{count}"
        layer = DDQActivation(kind, self.config.activation_bits, learned=learned, name=unique)
        self.quantizers[unique] = layer
        return layer

    def _weighted(self, node: FlatNode) -> Any:
        """The DDQ twin of a weighted layer, with its weights; one for all its calls."""
        layer = node.layer
        if id(layer) not in self.twins:
            fields = {**_config_of(node), "activation": "linear"}
            channels = node.shapes[0][-1] or 0
            twin = _TWINS[type(layer)](
                **fields,
                precisions=self.config.precisions_for(operator_kind(layer), channels),
                quantizer_seed=self.config.seed + len(self.twins),
            )
            self.twins[id(layer)] = _WithWeights(twin, layer)
        return self.twins[id(layer)]

    def _batch_norm(self, node: FlatNode) -> Any:
        """A copy of a BatchNorm; one that was called for inference only stays so."""
        copy = self._plain(node)
        copy.layer.trainable = node.layer.trainable and not node.inference
        return copy

    def _plain(self, node: FlatNode) -> Any:
        """A copy of a layer that stays as it is; one for all its calls."""
        layer = node.layer
        if id(layer) not in self.twins:
            self.twins[id(layer)] = _WithWeights(type(layer).from_config(_config_of(node)), layer)
        return self.twins[id(layer)]


class _WithWeights:
    """A layer that receives the original's weights when it is first called."""

    def __init__(self, layer: Any, original: Any) -> None:
        self.layer = layer
        self._original = original
        self._copied = False

    def __call__(self, inputs: Any) -> Any:
        outputs = self.layer(inputs)
        if not self._copied:
            for mine, theirs in zip(
                _own_variables(self.layer), _own_variables(self._original), strict=True
            ):
                mine.assign(theirs)
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


def covers_input(node: FlatNode) -> bool:
    """Returns whether an average pooling takes the mean of its whole input."""
    if not isinstance(node.layer, keras.layers.AveragePooling2D):
        return False
    return tuple(node.shapes[0][1:3]) == tuple(node.layer.pool_size)
