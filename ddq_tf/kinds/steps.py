"""Several layers in the place of one node."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

from ddq_tf.graph import FlatNode
from ddq_tf.graph.flat_graph import Shape
from ddq_tf.layers import DDQSlice

if TYPE_CHECKING:
    from ddq_tf.transform.canonical import Canonicalizer


_GRID = "_ddq_grid"
_MOST_ROWS = 3  # axes between the batch and the last: TensorFlow's softmax takes five in all


def on_one_grid(layer: Any, key: Any) -> Any:
    """Returns a layer, which will write on one grid with all others of the same key.

    What one of them needs to be rescaled first is rescaled before each.
    """
    object.__setattr__(layer, _GRID, key)
    return layer


def grid_key(layer: Any) -> Any:
    """Returns the key that `on_one_grid` gave a layer, or None."""
    return getattr(layer, _GRID, None)


class Value(NamedTuple):
    """A tensor of the graph.

    Attributes:
        tensor: its number.
        shape: None for the batch.
    """

    tensor: int
    shape: Shape


class Steps:
    """Calls of new layers, written down one by one.

    Args:
        to: what rewrites the graph.
        node: what they replace.

    Attributes:
        inputs: what the node reads.
        name: of the node.
    """

    def __init__(self, to: Canonicalizer, node: FlatNode) -> None:
        self._to = to
        self._node = node
        self.name = node.name
        self._nodes: list[FlatNode] = []
        self.inputs = [
            Value(tensor, shape) for tensor, shape in zip(node.inputs, node.shapes, strict=True)
        ]

    def call(
        self,
        role: str,
        make: Callable[[str], Any],
        *reads: Value,
        owner: Any = None,
        label: str | None = None,
    ) -> Value:
        """Returns what a layer makes of some values.

        Args:
            role: what the layer is for; the same layer plays it in all calls of the node's layer
                on these shapes.
            make: the layer, from its name.
            *reads: what it is called with.
            owner: what it takes the place of, if not of the node's layer: a variable, for instance,
                whose layer all calls with it share.
            label: what stands behind the node's name in the layer's, if not the role.
        """
        shapes = [value.shape for value in reads]
        parts = (self._node.name, role if label is None else label)
        name = "_".join(part for part in parts if part)
        key = f"{role} of {shapes}" if owner is None else role
        layer = self._to.layer(
            self._node.layer if owner is None else owner, key, lambda: make(name)
        )
        written = layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
        result = Value(self._to.new_tensor(), tuple(written))
        self._nodes.append(
            self._node.calling(
                layer,
                name=name,
                inputs=tuple(value.tensor for value in reads),
                outputs=(result.tensor,),
                shapes=tuple(shapes),
            )
        )
        return result

    def writer(self, value: Value) -> FlatNode | None:
        """Returns the node that writes what the node reads; None for an input of the model."""
        return self._to.graph.producer(value.tensor)

    def is_behind(self, kinds: tuple[type, ...]) -> bool:
        """Returns whether a layer or operation of these kinds writes what the node reads."""
        before = self.writer(self.inputs[0])
        return before is not None and isinstance(before.layer, kinds)

    def reshaped(self, role: str, value: Value, target: tuple[int | None, ...]) -> Value:
        """Returns a value in a shape, given without the batch; as it is, if that is its own."""
        if value.shape[1:] == tuple(target):
            return value
        return self.call(role, lambda name: keras.layers.Reshape(target, name=name), value)

    def permuted(self, role: str, value: Value, axes: tuple[int, ...]) -> Value:
        """Returns a value with its axes, all but the batch, in another order."""
        if axes == tuple(range(1, len(value.shape))):
            return value
        return self.call(role, lambda name: keras.layers.Permute(axes, name=name), value)

    def of_rows(
        self, value: Value, axis: int | Sequence[int], make: Callable[[str], Any]
    ) -> Value | None:
        """Returns what a layer that sees the last axis makes of others: put last, and joined.

        What is left of more than five axes is joined too.

        Args:
            value: the value.
            axis: which axes the layer is to see as one.
            make: the layer, from its name.

        Returns:
            A value of the same shape; None if the batch is among the axes, or sizes vary.
        """
        shape, rank = value.shape, len(value.shape)
        axes = sorted(each % rank for each in ([axis] if isinstance(axis, int) else axis))
        if 0 in axes or len(set(axes)) < len(axes) or (len(axes) > 1 and None in shape[1:]):
            return None
        others = [n for n in range(1, rank) if n not in axes]
        order = (*others, *axes)
        value = self.permuted("last", value, order)
        size = math.prod(shape[n] or 0 for n in axes) if len(axes) > 1 else shape[axes[0]]
        rows = tuple(shape[n] for n in others)
        if len(rows) > _MOST_ROWS and None not in rows:
            rows = (math.prod(n or 0 for n in rows),)
        value = self.reshaped("row", value, (*rows, size))
        value = self.call("", make, value)
        value = self.reshaped("axes", value, tuple(shape[n] for n in order))
        return self.permuted("back", value, tuple(1 + order.index(n) for n in range(1, rank)))

    def cut(self, value: Value, axis: int, start: int, size: int, role: str = "") -> Value:
        """Returns some of the values along an axis; all of them as they are."""
        begin = [0] * (len(value.shape) - 1)
        sizes = [full or 0 for full in value.shape[1:]]
        if start == 0 and size == sizes[axis - 1]:
            return value
        begin[axis - 1], sizes[axis - 1] = start, size
        return self.call(role, lambda name: DDQSlice(begin, sizes, name=name), value)

    def writing(self, *results: Value) -> list[FlatNode]:
        """Returns the nodes; they write what the replaced node wrote.

        Args:
            *results: one for each of its outputs.
        """
        numbers = {}
        for result, written in zip(results, self._node.outputs, strict=True):
            made = any(result.tensor in node.outputs for node in self._nodes)
            if not made or result.tensor in numbers:
                result = self.call(
                    f"output_{written}", lambda name: keras.layers.Identity(name=name), result
                )
            numbers[result.tensor] = written
        return [
            dataclasses.replace(
                node,
                inputs=tuple(numbers.get(tensor, tensor) for tensor in node.inputs),
                outputs=tuple(numbers.get(tensor, tensor) for tensor in node.outputs),
            )
            for node in self._nodes
        ]
