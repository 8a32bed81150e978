"""`FlatGraph`: one flat list of layer calls."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Container, Mapping, Sequence
from typing import Any

import keras

from ddq_tf.layers import DDQConstant, DDQMask

Shape = tuple[int | None, ...]


# Layers with a kernel, once SeparableConv2D and the layers on sequences are expanded. The DDQ ones
# are subclasses.
_WITH_KERNEL = (
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)


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
        place: in which of the user's layers it is called, and in which line; "" where a graph tells
            neither.
        trouble: why its layer could not be opened; "" if it was not to be.
    """

    layer: Any
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    inference: bool = False
    constants: tuple[Any, ...] = ()
    place: str = ""
    trouble: str = ""

    @property
    def has_kernel(self) -> bool:
        """Whether it is a convolution or a dense layer, float or DDQ."""
        return isinstance(self.layer, _WITH_KERNEL)

    @property
    def is_constant(self) -> bool:
        """Whether it writes the same for each example: weights or numbers."""
        return isinstance(self.layer, DDQConstant)

    @property
    def is_mask(self) -> bool:
        """Whether it hides values from the softmax behind it."""
        return isinstance(self.layer, DDQMask)

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
        if not node.has_kernel:
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
            before: the graph that this one was made of; its layers keep their names, and what was
                made in the place of one may have its name.
        """
        kept = {id(node.layer) for node in self.nodes}
        names = {id(node.layer): node.name for node in before.nodes if id(node.layer) in kept}
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


def read_by(outputs: Sequence[int], nodes: Sequence[FlatNode]) -> tuple[FlatNode, ...]:
    """Returns the nodes that outputs depend on, in their order."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.outputs):
            needed |= set(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
