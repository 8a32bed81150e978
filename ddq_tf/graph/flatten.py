"""One flat list of layer calls for any Sequential, Functional or nested Keras model.

The only file that reads Keras's private graph (`_nodes_by_depth`).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import keras

from ddq_tf.errors import DDQError

# Layers with a kernel, once SeparableConv2D and the layers on sequences are expanded. The DDQ ones
# are subclasses.
WEIGHTED = (
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)


Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatNode:
    """One call of one layer.

    Attributes:
        layer: the Keras layer (or operation) called.
        name: the layer's name, unique in the flat graph: prefixed with its model's where needed.
        inputs: numbers of the tensors that it reads.
        outputs: numbers of the tensors that it writes.
        shapes: shapes of its inputs, None for the batch.
        inference: whether an enclosing call said training=False.
        constants: of an operation as in `x * 0.5`: the arguments that are no tensors, in order,
            with None where a tensor stands.
    """

    layer: Any
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    inference: bool = False
    constants: tuple[Any, ...] = ()

    def calling(self, layer: Any, **changes: Any) -> FlatNode:
        """Returns the node with another layer, called with tensors alone."""
        return dataclasses.replace(self, layer=layer, constants=(), **changes)

    def reading(self, tensor: int, shape: Any, layer: Any, name: str = "") -> FlatNode:
        """Returns a node that reads one tensor of this shape and writes what this one wrote."""
        return self.calling(
            layer, name=name or layer.name, inputs=(tensor,), shapes=(tuple(shape),)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlatGraph:
    """A model without nesting; nodes in an order in which they can run."""

    nodes: tuple[FlatNode, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    input_shapes: tuple[tuple[int | None, ...], ...]

    @functools.cached_property
    def _readers(self) -> Mapping[int, list[FlatNode]]:
        found: dict[int, list[FlatNode]] = collections.defaultdict(list)
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                found[tensor].append(node)
        return dict(found)

    @functools.cached_property
    def _writers(self) -> Mapping[int, FlatNode]:
        return {tensor: node for node in self.nodes for tensor in node.outputs}

    @functools.cached_property
    def _calls(self) -> collections.Counter[int]:
        return collections.Counter(id(node.layer) for node in self.nodes)

    def consumers(self, tensor: int) -> list[FlatNode]:
        """Returns the nodes that read a tensor."""
        return list(self._readers.get(tensor, ()))

    def producer(self, tensor: int) -> FlatNode | None:
        """Returns the node that writes a tensor; None for a model input."""
        return self._writers.get(tensor)

    def sole_consumer(self, tensor: int) -> FlatNode | None:
        """Returns the only reader of a tensor; None if it has several or is an output."""
        readers = self.consumers(tensor)
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def calls(self, layer: Any) -> int:
        """Returns how often a layer stands in the graph."""
        return self._calls[id(layer)]

    def norm_of(self, node: FlatNode) -> FlatNode | None:
        """Returns the BatchNormalization that folds into a node, or None.

        It alone reads a convolution or dense layer, float or DDQ, that has no activation itself.
        The BatchNormalization, or the layer, may stand elsewhere too: see `calls`.
        """
        if not isinstance(node.layer, WEIGHTED):
            return None
        after = self.sole_consumer(node.outputs[0])
        if after is None or not isinstance(after.layer, keras.layers.BatchNormalization):
            return None
        return after if node.layer.activation in (None, keras.activations.linear) else None

    def replaced(self, changes: Mapping[int, Sequence[FlatNode]]) -> FlatGraph:
        """Returns the graph with nodes, given by the tensor that they write first, replaced."""
        nodes = [new for node in self.nodes for new in changes.get(node.outputs[0], (node,))]
        return dataclasses.replace(self, nodes=tuple(nodes))

    def named_apart(self, before: FlatGraph) -> FlatGraph:
        """Returns the graph with no name used by two layers.

        Args:
            before: the graph that this one was made of; its layers keep their names.
        """
        names = {id(node.layer): node.name for node in before.nodes}
        taken = {*names.values(), *self.input_names}
        for node in self.nodes:
            if id(node.layer) not in names:
                names[id(node.layer)] = unused(node.name, taken)
                taken.add(names[id(node.layer)])
        nodes = tuple(
            node
            if node.name == names[id(node.layer)]
            else dataclasses.replace(node, name=names[id(node.layer)])
            for node in self.nodes
        )
        return dataclasses.replace(self, nodes=nodes)

    def without(self, node: FlatNode) -> FlatGraph:
        """Returns the graph with the readers of a node's output reading its input."""
        (gone,), (kept,) = node.outputs, node.inputs
        nodes = tuple(
            dataclasses.replace(n, inputs=tuple(kept if t == gone else t for t in n.inputs))
            if gone in n.inputs
            else n
            for n in self.nodes
            if n is not node
        )
        outputs = tuple(kept if t == gone else t for t in self.outputs)
        return dataclasses.replace(self, nodes=nodes, outputs=outputs)


def unused(name: str, taken: Container[str]) -> str:
    """Returns the name, numbered where it is taken."""
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique


def functional_of(model: Any) -> Any:
    """Returns the Functional model behind a Sequential or Functional one.

    Raises:
        DDQError: if the model is subclassed, unbuilt, or no Keras 3 model.
    """
    if not isinstance(model, keras.Model):
        raise DDQError(
            "model must be a Keras 3 model (keras.Model; tf_keras models must be re-saved with "
            f"Keras 3). Received: {type(model).__module__}.{type(model).__name__}"
        )
    if isinstance(model, keras.Sequential):
        inner = getattr(model, "_functional", None)
        if inner is None:
            raise DDQError(
                f"model {model.name!r} is not built: its input shape is unknown. Start it with "
                "keras.Input(shape) or call model.build(input_shape)."
            )
        return inner
    if not hasattr(model, "_nodes_by_depth"):
        raise DDQError(
            f"model {model.name!r} ({type(model).__name__}) is subclassed: its graph cannot be "
            "read. Express it as keras.Model(inputs, outputs) or keras.Sequential."
        )
    if defines(type(model), "call"):
        raise DDQError(
            f"model {model.name!r} ({type(model).__name__}) has a call() of its own, which may "
            "compute something else than its graph. Make what it computes the graph: "
            "keras.Model(inputs, outputs)"
        )
    return model


def is_keras(kind: type) -> bool:
    """Returns whether a class is one of Keras's own."""
    return kind.__module__.split(".")[0] == "keras"


def defines(kind: type, name: str) -> bool:
    """Returns whether a user's class, not Keras, says what a method of a model does."""
    definer = next((base for base in kind.__mro__ if name in vars(base)), None)
    return definer is not None and not is_keras(definer)


class _Flattener:
    """Numbers tensors and collects nodes while walking nested models."""

    def __init__(self) -> None:
        self.nodes: list[FlatNode] = []
        self._names: dict[int, str] = {}
        self._shapes: list[Shape] = []

    def new_tensor(self, shape: Shape) -> int:
        """Returns an unused tensor number, of a tensor of this shape."""
        self._shapes.append(tuple(shape))
        return len(self._shapes) - 1

    def walk(
        self, functional: Any, inputs: Sequence[int], prefix: str, inference: bool
    ) -> list[int]:
        """Appends the nodes of a model; returns the numbers of its outputs."""
        numbers = {id(t): n for t, n in zip(functional.inputs, inputs, strict=True)}
        for depth in sorted(functional._nodes_by_depth, reverse=True):
            for node in functional._nodes_by_depth[depth]:
                if not node.is_input:
                    self._visit(node, numbers, prefix, inference)
        return [numbers[id(tensor)] for tensor in functional.outputs]

    def _visit(self, node: Any, numbers: dict[int, int], prefix: str, inference: bool) -> None:
        layer = node.operation
        reads = [numbers[id(tensor)] for tensor in node.arguments.keras_tensors]
        fixed = inference or _says_inference(node.arguments.kwargs)
        if isinstance(layer, keras.Model):
            inner = functional_of(layer)
            reads = [numbers[id(tensor)] for tensor in _in_order(inner, node)]
            _check_fits(layer, inner, [self._shapes[number] for number in reads])
            writes = self.walk(inner, reads, f"{prefix}{layer.name}_", fixed)
        else:
            shapes = tuple(self._shapes[number] for number in reads)
            name = self._unique(layer, prefix)
            writes = [self.new_tensor(shape) for shape in _written_shapes(node, shapes, name)]
            self.nodes.append(
                FlatNode(
                    layer=layer,
                    name=name,
                    inputs=tuple(reads),
                    outputs=tuple(writes),
                    shapes=shapes,
                    inference=fixed,
                    constants=_constants(node),
                )
            )
        numbers.update({id(t): n for t, n in zip(node.outputs, writes, strict=True)})

    def _unique(self, layer: Any, prefix: str) -> str:
        """The layer's own name; prefixed, then numbered, where another layer has it already."""
        if id(layer) not in self._names:
            name, count = layer.name, 1
            while name in self._names.values():
                name = f"{prefix}{layer.name}" if count == 1 else f"{prefix}{layer.name}_{count}"
                count += 1
            self._names[id(layer)] = name
        return self._names[id(layer)]


def _in_order(inner: Any, node: Any) -> list[Any]:
    """The tensors that an inner model is called with, in the order of its inputs.

    A dictionary goes by the keys of the inner model's own dictionary, or by its inputs' names.
    """
    values = (*node.arguments.args, *node.arguments.kwargs.values())
    given = next((value for value in values if isinstance(value, dict)), None)
    if given is None:
        return list(node.arguments.keras_tensors)
    if isinstance(inner.input, dict):
        return keras.tree.flatten({key: given[key] for key in inner.input})
    return [given[tensor.name] for tensor in inner.inputs]


def _check_fits(model: Any, functional: Any, shapes: Sequence[Shape]) -> None:
    """Raises DDQError if an inner model is called on shapes that it does not take.

    Keras builds such a model and cannot run it.
    """
    for tensor, shape in zip(functional.inputs, shapes, strict=True):
        declared = tuple(tensor.shape)
        fits = len(declared) == len(shape) and all(
            None in (wanted, given) or wanted == given
            for wanted, given in zip(declared[1:], shape[1:], strict=True)
        )
        if not fits:
            raise DDQError(
                f"the inner model {model.name!r} takes inputs of shape {declared}. "
                f"Received: it is called on shape {shape}"
            )


def _written_shapes(node: Any, shapes: tuple[Shape, ...], name: str) -> list[Shape]:
    """What a node writes where it reads these shapes; an inner model may leave sizes open."""
    tensors = node.arguments.keras_tensors
    if shapes == tuple(tuple(tensor.shape) for tensor in tensors):
        return [tuple(tensor.shape) for tensor in node.outputs]
    known = {
        id(tensor): keras.KerasTensor(shape, dtype=tensor.dtype)
        for tensor, shape in zip(tensors, shapes, strict=True)
    }
    args, kwargs = node.arguments.fill_in(known)
    try:
        written = node.operation.compute_output_spec(*args, **kwargs)
    except ValueError as error:
        raise DDQError(
            f"layer {name!r} ({type(node.operation).__name__}): cannot read {shapes}. {error}"
        ) from error
    return [tuple(tensor.shape) for tensor in keras.tree.flatten(written)]


def output_names(functional: Any) -> tuple[str, ...]:
    """Returns what a Functional model calls its outputs, in order, each name once.

    The keys of a dictionary; otherwise the names of the layers that write them.
    """
    names: list[str] = []
    rows = zip(
        keras.tree.flatten_with_path(functional.output), functional.output_names, strict=True
    )
    for (path, _), layer in rows:
        by_key = bool(path) and all(isinstance(step, str) for step in path)
        names.append(unused("_".join(path) if by_key else layer, names))
    return tuple(names)


def _constants(node: Any) -> tuple[Any, ...]:
    """What an operation, not a layer, was called with beside tensors."""
    if isinstance(node.operation, keras.layers.Layer):
        return ()
    values = (*node.arguments.args, *node.arguments.kwargs.values())
    return tuple(None if isinstance(v, keras.KerasTensor) else v for v in values)


def _says_inference(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("training") is False


def _read_by(outputs: Sequence[int], nodes: Sequence[FlatNode]) -> tuple[FlatNode, ...]:
    """The nodes that outputs depend on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def flatten(model: Any) -> FlatGraph:
    """Returns the flat graph of a Sequential, Functional or nested model, of what outputs need.

    Raises:
        DDQError: if the model is subclassed, unbuilt, or no Keras 3 model, or calls an inner model
            on shapes that it does not take.
    """
    functional = functional_of(model)
    flattener = _Flattener()
    inputs = [flattener.new_tensor(tensor.shape) for tensor in functional.inputs]
    outputs = flattener.walk(functional, inputs, "", False)
    return FlatGraph(
        nodes=_read_by(outputs, flattener.nodes),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        input_names=tuple(t._keras_history.operation.name for t in functional.inputs),
        input_shapes=tuple(tuple(tensor.shape) for tensor in functional.inputs),
    )
