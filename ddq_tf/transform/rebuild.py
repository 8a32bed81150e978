"""The DDQ twin of a float graph: same layers, quantized kernels, quantizers where tensors live.

A quantizer stands wherever the integer graph has a tensor of its own: at the input, after each
block (weighted layer, sum, product or standalone BatchNorm, with the ReLU behind it), after
averages. Layers that only move values keep the grid of their input. All tensors that meet in a
Concatenate share one quantizer (`transform.ties`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.graph.flat_graph import unused
from ddq_tf.graph.functional import functional_of, output_names
from ddq_tf.graph.inputs import input_structure
from ddq_tf.kinds import (
    FUNCTIONS,
    Output,
    activation_name,
    ceiling_of,
    function_of,
    is_activation,
    output_of,
    rule_of,
)
from ddq_tf.kinds.checks import does_linear
from ddq_tf.layers import (
    DDQActivation,
    DDQConv2DTranspose,
    DDQFixedGrid,
    rounds_kernel,
)
from ddq_tf.scheme import MAX_BITS
from ddq_tf.search import DDQModel, own_class
from ddq_tf.transform.factors import symmetric
from ddq_tf.transform.ties import Ties, block, fused_activation

# An input may be called anything; a layer made for it may not.
_OTHER_LETTERS = re.compile(r"^[^A-Za-z0-9.]|[^A-Za-z0-9_.\\/>-]")


class Rebuilt(NamedTuple):
    """A DDQ model, and what lies where in it.

    Attributes:
        model: uncalibrated.
        grids: for each tensor of the float graph that has a grid, the layer that it lies on.
    """

    model: DDQModel
    grids: dict[int, Any]


def rebuild(graph: FlatGraph, config: DDQConfig, model: keras.Model) -> Rebuilt:
    """Returns the uncalibrated DDQ model of a supported graph, with the float model's weights.

    Args:
        graph: canonical.
        config: of the DDQ model.
        model: the float model, for its class, the structure and the names of inputs and outputs.
    """
    walk = _Rebuilder(graph, config)
    return Rebuilt(walk.run(model), walk.grids)


class _Rebuilder:
    """Walks the float graph and calls DDQ layers on symbolic tensors."""

    def __init__(self, graph: FlatGraph, config: DDQConfig) -> None:
        self.graph = graph
        self.config = config
        self.tensors: dict[int, Any] = {}
        self.grids: dict[int, Any] = {}
        self.twins: dict[int, Any] = {}
        self._names = {node.name for node in graph.nodes if not is_activation(node)}
        self.ties = Ties(graph)
        self._shared: dict[int, DDQActivation] = {}
        self._ends = _ends(graph)
        self._symmetric = symmetric(graph, self.ties)
        self.done: set[int] = set()

    def run(self, float_model: keras.Model) -> DDQModel:
        """Rebuilds everything; inputs and outputs are structured as in the float model."""
        graph, functional = self.graph, functional_of(float_model)
        inputs = [
            keras.Input(shape=shape[1:], name=input_name)
            for shape, input_name in zip(graph.input_shapes, graph.input_names, strict=True)
        ]
        rows = zip(graph.inputs, inputs, graph.input_names, strict=True)
        for tensor, keras_input, input_name in rows:
            quantizer = self._quantizer(f"{input_name}_quant", "linear", learned=False)
            self._put(tensor, quantizer(keras_input), quantizer)
        for node in graph.nodes:
            if id(node) not in self.done:
                _BEHIND[output_of(node)](self, node)
        outputs = [self.tensors[tensor] for tensor in graph.outputs]
        model = DDQModel.trained_as(own_class(float_model))(
            inputs=keras.tree.pack_sequence_as(input_structure(functional), inputs),
            outputs=keras.tree.pack_sequence_as(functional.output, outputs),
            name=float_model.name,
        )
        model.configure(self.config, output_names(functional), functional.output_names)
        return model

    # What stands behind a layer, by how the integer graph sees what it writes

    def own(self, node: FlatNode) -> None:
        """An operator that writes a grid of its own, with its BatchNorm and ReLU."""
        value, last, kind = self._called(node), node, "linear"
        norm = self.graph.norm_of(node)
        if norm is not None:
            value, last = self._twin(norm)(value), norm
            self.done.add(id(norm))
        if node.has_kernel and not does_linear(node):
            kind = activation_name(node.layer) or "linear"
        after = fused_activation(self.graph, node) if kind == "linear" else None
        self._finish(value, node.name, last, kind, after)

    def keeps(self, node: FlatNode) -> None:
        """A layer that keeps the grid of its input."""
        tensor = node.inputs[0]
        nothing = is_activation(node) and function_of(node.layer) is FUNCTIONS["linear"]
        nothing |= node.inference and rule_of(node.layer).has_two_modes
        value = self.tensors[tensor] if nothing else self._called(node)
        self._put(node.outputs[0], value, self.grids[tensor])

    def rounds(self, node: FlatNode) -> None:
        """A layer that rounds to the grid of its input; with a lift, halves up."""
        grid, lift = self.grids[node.inputs[0]], rule_of(node.layer).lift(node)
        value = self._called(node)
        self._put(node.outputs[0], grid(value, lift=lift) if lift else grid(value), grid)

    def fixed(self, node: FlatNode) -> None:
        """A function whose grid TFLite fixes."""
        function, value = function_of(node.layer), self._called(node)
        if function is None or function.grid is None:
            raise DDQError(f"layer {node.name!r}: needs a function with a grid")
        grid = DDQFixedGrid(*function.grid, name=self._free_name(f"{node.name}_quant"))
        # DDQSoftmax rounds by itself, in inference.
        rounds = rule_of(self._twin(node).layer).output is Output.GRID
        self._put(node.outputs[0], value if rounds else grid(value), grid)

    def shared(self, node: FlatNode) -> None:
        """All inputs on one grid; those that others fix are rounded to it."""
        grid = self._tied(node.outputs[0], node.name)
        reads = []
        for tensor in node.inputs:
            lies_there = self.ties.same(tensor, node.outputs[0])
            value = self.tensors[tensor]
            reads.append(value if lies_there else grid(value))
        self._put(node.outputs[0], self._twin(node)(reads), grid)

    def _called(self, node: FlatNode) -> Any:
        """What the twin of a node's layer makes of its inputs."""
        reads = [self.tensors[tensor] for tensor in node.inputs]
        return self._twin(node)(reads if len(reads) > 1 else reads[0])

    def _finish(
        self, value: Any, name: str, last: FlatNode, kind: str, after: FlatNode | None
    ) -> None:
        """The ReLU behind a block, then its quantizer."""
        label, ceiling = f"{name}_quant", None
        if after is not None:
            kind, label, last = activation_name(after.layer) or "linear", after.name, after
            ceiling = ceiling_of(after.layer)
            self.done.add(id(after))
        tensor = last.outputs[0]
        if self.ties.is_tied(tensor):
            if kind != "linear":
                ceiling = 6.0 if kind == "relu6" else None
                value = keras.layers.ReLU(ceiling, name=self._free_name(f"{name}_relu"))(value)
            quantizer = self._tied(tensor, label)
        else:
            precisions = self.config.activation_precisions_of([name])
            is_symmetric = tensor in self._symmetric
            is_wide = tensor in self._ends or is_symmetric or is_constant(self.graph, tensor)
            precisions = (MAX_BITS,) if is_wide else precisions
            if kind == "clipped_relu":
                kind = "relu"
            quantizer = self._quantizer(
                label, kind, precisions, ceiling=ceiling, symmetric=is_symmetric
            )
        self._put(tensor, quantizer(value), quantizer)

    def _tied(self, tensor: int, name: str) -> DDQActivation:
        """The one quantizer of all tensors tied to this one."""
        root = self.ties.root(tensor)
        if root not in self._shared:
            precisions = self.config.activation_precisions_of(self._writers(root))
            is_symmetric = root in self._symmetric
            self._shared[root] = self._quantizer(
                f"{name}_shared",
                "linear",
                (MAX_BITS,) if is_symmetric else precisions,
                symmetric=is_symmetric,
            )
        return self._shared[root]

    def _writers(self, root: int) -> list[str]:
        """The names of the blocks that write on the grid of tied tensors."""
        return [
            node.name
            for node in self.graph.nodes
            for tensor in (block(self.graph, node)[-1].outputs[0],)
            if self.ties.is_tied(tensor) and self.ties.root(tensor) == root
        ]

    def _put(self, tensor: int, value: Any, grid: Any) -> None:
        self.tensors[tensor] = value
        self.grids[tensor] = grid

    def _quantizer(
        self,
        name: str,
        kind: str,
        precisions: tuple[int, ...] = (MAX_BITS,),
        *,
        learned: bool = True,
        ceiling: float | None = None,
        symmetric: bool = False,
    ) -> DDQActivation:
        """A new activation quantizer, of 8 bits by default; one for each call of a layer."""
        return DDQActivation(
            kind,
            precisions,
            learned=learned,
            ceiling=ceiling,
            symmetric=symmetric,
            name=self._free_name(name),
        )

    def _free_name(self, name: str) -> str:
        """A name that no layer has, of letters that TensorFlow allows in the scope of a layer."""
        unique = unused(_OTHER_LETTERS.sub("_", name), self._names)
        self._names.add(unique)
        return unique

    def _twin(self, node: FlatNode) -> _WithWeights:
        """The copy of a layer for all its calls, with its weights."""
        layer = node.layer
        if id(layer) not in self.twins:
            # A quantizer may have the name of an activation, from another call.
            name = self._free_name(node.name) if is_activation(node) else node.name
            twin = rule_of(layer).twin(self.config, node, name)
            twin.trainable = getattr(layer, "trainable", True)  # operations have none
            self.twins[id(layer)] = _WithWeights(twin, layer)
        copy = self.twins[id(layer)]
        if rule_of(layer).has_two_modes:
            # A BatchNorm that was called for inference only stays so.
            copy.layer.trainable = layer.trainable and not node.inference
        if self.config.freeze_quantizers_of_frozen and node.has_kernel:
            copy.layer.quantizer.trainable = layer.trainable
        return copy


def _ends(graph: FlatGraph) -> set[int]:
    """The tensors that reach an output without passing an operator that computes."""
    ends, pending = set(), list(graph.outputs)
    while pending:
        tensor = pending.pop()
        ends.add(tensor)
        node = graph.producer(tensor)
        if node is not None and _passes(node):
            pending += node.inputs
    return ends


def is_constant(graph: FlatGraph, tensor: int) -> bool:
    """Returns whether a tensor is the same for each example; a file holds it as INT8."""
    node = graph.producer(tensor)
    return node is not None and node.is_constant


def blocks_of_own_precision(graph: FlatGraph) -> list[list[FlatNode]]:
    """Returns the nodes that compute each activation whose precision may be chosen.

    Those of inputs and outputs may not, nor those of grids that TFLite fixes, nor second factors.

    Args:
        graph: canonical, and supported.
    """
    ends, done, found, ties = _ends(graph), set(), [], Ties(graph)
    fixed = symmetric(graph, ties)
    for node in graph.nodes:
        if id(node) in done or output_of(node) not in (Output.OWN, Output.SHARED):
            continue
        nodes = block(graph, node)
        done.update(id(each) for each in nodes)
        written = nodes[-1].outputs[0]
        grid = ties.root(written) if ties.is_tied(written) else written
        if written not in ends and grid not in fixed and not is_constant(graph, written):
            found.append(nodes)
    return found


def _passes(node: FlatNode) -> bool:
    """Whether a layer's output is its input, moved or put through an activation."""
    return is_activation(node) or output_of(node) is Output.KEEPS


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
                # Copied: JAX's trainer gives away what it trains, also a buffer that two share.
                values = np.array(keras.ops.convert_to_numpy(theirs))
                mine.assign(np.swapaxes(values, -1, -2) if transposed else values)
            if rounds_kernel(self.layer):
                self.layer.float_zeros = float(np.mean(as_float64(self.layer.kernel) == 0))
            self._copied = True
        return outputs


def _own_variables(layer: Any) -> list[Any]:
    """The variables of a layer's own, without those of a quantizer inside it."""
    inner = {id(v) for child in layer._layers for v in child.variables}
    return [v for v in layer.weights if id(v) not in inner]


_BEHIND: dict[Output, Callable[[_Rebuilder, FlatNode], None]] = {
    Output.OWN: _Rebuilder.own,
    Output.KEEPS: _Rebuilder.keeps,
    Output.ROUNDS: _Rebuilder.rounds,
    Output.FIXED: _Rebuilder.fixed,
    Output.SHARED: _Rebuilder.shared,
}
