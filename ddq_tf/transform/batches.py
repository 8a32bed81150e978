"""Graphs whose tensors all have the batch as their first axis, alone.

Attention in windows, as of Swin, joins windows to the batch: (B, rows, n, columns, n, C) becomes
(B * rows * columns, n, n, C). And queries, keys and values are often cut apart along a first axis
before the batch: (3, B, heads, length, dim). In a file the batch stays first and free, so such
tensors are kept as (B, windows, n, n, C) and (B, 3, heads, length, dim), from the operation that
makes them to the one that brings them back.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.ops import core, nn
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.flat_graph import Shape
from ddq_tf.graph.tracing import TRIED_BATCH
from ddq_tf.kinds import TRAINING_ONLY, find_rule
from ddq_tf.kinds.operations import activations
from ddq_tf.layers import DDQConstant, DDQMask, DDQRescaling

L = keras.layers


class _Layout(NamedTuple):
    """Where the batch stands in a tensor as the user sees it.

    Attributes:
        place: its axis.
        windows: how many there are for each example in that axis.
        rank: of the tensor.
    """

    place: int
    windows: int
    rank: int

    @property
    def is_plain(self) -> bool:
        """Whether the batch is first, and alone."""
        return self.place == 0 and self.windows == 1

    @property
    def first(self) -> int:
        """The kept tensor's first axis that is neither the batch nor the windows."""
        return 1 + (self.windows > 1)

    def kept(self, axis: int) -> int | None:
        """The kept tensor's axis for one of the user's; None for the batch."""
        axis %= self.rank
        if axis == self.place:
            return None
        return self.first + axis - (axis > self.place)


class _UnreadableError(Exception):
    """An operation on such a tensor that is none of those below, or not in that way."""


class _Kept(NamedTuple):
    """A node on tensors as they are kept, and the layout of each output."""

    node: FlatNode
    layouts: list[_Layout]


def moves_batch(graph: FlatGraph) -> bool:
    """Returns whether an operation puts the batch elsewhere, or joins windows to it."""
    return not all(_is_plain(node) for node in graph.nodes)


def batch_first(graph: FlatGraph) -> FlatGraph:
    """Returns the graph with the batch first in all tensors; as it is if that cannot be.

    Then the layer that is in the way has that for a trouble.

    Args:
        graph: as flattened, but for `EXPANDED_FIRST`.
    """
    return _Walk(graph).run() if moves_batch(graph) else graph


def _is_plain(node: FlatNode) -> bool:
    """Whether an operation leaves the batch where it is."""
    if isinstance(node.layer, op.Transpose):
        axes = node.layer.axes
        return axes is not None and axes[0] == 0
    if not isinstance(node.layer, op.Reshape) or None in node.shapes[0][1:]:
        return True
    rest = list(node.layer.newshape[1:])
    return -1 in rest or math.prod(rest) == math.prod(n or 0 for n in node.shapes[0][1:])


class _Walk:
    """Rewrites node by node."""

    def __init__(self, graph: FlatGraph) -> None:
        self._graph = graph
        self._layouts: dict[int, _Layout] = {}
        self._shapes: dict[int, Shape] = {}

    def run(self) -> FlatGraph:
        """Returns the graph."""
        graph, nodes = self._graph, []
        for node in graph.nodes:
            try:
                nodes.append(self._rewritten(node))
            except _UnreadableError:
                told = dataclasses.replace(node, trouble=node.trouble or _TROUBLE)
                return graph.replaced({node.outputs[0]: [told]})
        plain = all(self._layout(tensor).is_plain for tensor in graph.outputs)
        return dataclasses.replace(graph, nodes=tuple(nodes)) if plain else graph

    def _layout(self, tensor: int, rank: int = 0) -> _Layout:
        return self._layouts.get(tensor, _Layout(0, 1, rank))

    def _rewritten(self, node: FlatNode) -> FlatNode:
        layouts = [
            self._layout(tensor, len(shape))
            for tensor, shape in zip(node.inputs, node.shapes, strict=True)
        ]
        shapes = tuple(
            self._shapes.get(tensor, shape)
            for tensor, shape in zip(node.inputs, node.shapes, strict=True)
        )
        changed = dataclasses.replace(node, shapes=shapes)
        moves = type(node.layer) in (op.Reshape, op.Transpose)
        if all(layout.is_plain for layout in layouts) and (not moves or _is_plain(node)):
            return node if shapes == node.shapes else changed
        changed = _as_operation(changed, node)
        rule = _RULES.get(type(changed.layer))
        if rule is None:
            raise _UnreadableError
        found = rule(changed, layouts, node)
        for tensor, layout in zip(node.outputs, found.layouts, strict=True):
            self._layouts[tensor] = layout
        self._note_shapes(found.node)
        return found.node

    def _note_shapes(self, node: FlatNode) -> None:
        """The shapes of what a node writes, as it is kept."""
        tensors: list[Any] = [keras.KerasTensor(shape) for shape in node.shapes]
        if isinstance(node.layer, L.Layer):
            shapes: Any = node.shapes
            written: Any = node.layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
            found = [tuple(written)]
        else:
            given = iter(tensors)
            args = [next(given) if c is None else c for c in node.constants] or tensors
            args = [args] if isinstance(node.layer, op.Concatenate) else args
            spec: Any = node.layer.compute_output_spec(*args)
            found = [tuple(each.shape) for each in keras.tree.flatten(spec)]
        self._shapes.update(zip(node.outputs, found, strict=True))


def _of_kept(operation: Any, **changes: Any) -> Any:
    """A copy of an operation with other attributes."""
    made = copy.copy(operation)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def _as_operation(node: FlatNode, given: FlatNode) -> FlatNode:
    """A node on kept tensors; layers that move values, or see the last axis, as operations."""
    rule = find_rule(node.layer)
    if rule is None or rule.operation is None:
        return node
    return node.calling(rule.operation(node.layer, given.shapes[0]))


def _reshape(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """Row by row: where the batch is first, windows are what the first axis has beside it."""
    (layout,), target = layouts, list(node.layer.newshape)
    sizes = [size or 0 for size in node.shapes[0][1:]]
    if layout.place != 0 or 0 in sizes or not all(isinstance(n, int) for n in target[1:]):
        raise _UnreadableError
    total, first = math.prod(sizes), target[0]
    if -1 in target[1:]:
        batch = given.shapes[0][0]
        batch = TRIED_BATCH if batch is None else batch // layout.windows
        if not isinstance(first, int) or first % batch:
            raise _UnreadableError
        known = math.prod(n for n in target[1:] if n != -1) * (first // batch)
        target[1 + target[1:].index(-1)] = total // known
    windows, rest = divmod(total, math.prod(target[1:]))
    if rest or windows < 1:
        raise _UnreadableError
    inner = [windows] if windows > 1 else []
    operation = _of_kept(node.layer, newshape=(-1, *inner, *target[1:]))
    kept = dataclasses.replace(node, layer=operation)
    return _Kept(kept, [_Layout(0, windows, len(target))])


def _transpose(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    (layout,) = layouts
    axes = list(node.layer.axes or reversed(range(layout.rank)))
    others = [layout.kept(axis) for axis in axes if axis % layout.rank != layout.place]
    operation = _of_kept(node.layer, axes=(*range(layout.first), *others))
    kept = dataclasses.replace(node, layer=operation)
    return _Kept(kept, [layout._replace(place=axes.index(layout.place))])


def _swapped(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    (layout,) = layouts
    first, second = layout.kept(node.layer.axis1), layout.kept(node.layer.axis2)
    if first is None or second is None:
        raise _UnreadableError
    return _Kept(
        dataclasses.replace(node, layer=_of_kept(node.layer, axis1=first, axis2=second)), [layout]
    )


def _along(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """Cut along one axis, which stays (Split) or goes (Unstack)."""
    (layout,) = layouts
    axis = node.layer.axis % layout.rank
    kept = layout.kept(axis)
    if kept is None:
        raise _UnreadableError
    if isinstance(node.layer, core.Unstack):
        layout = layout._replace(place=layout.place - (axis < layout.place), rank=layout.rank - 1)
    changed = dataclasses.replace(node, layer=_of_kept(node.layer, axis=kept))
    return _Kept(changed, [layout] * len(node.outputs))


def _item(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """`x[0]`, `x[:, :, 1:3]`."""
    (layout,), key = layouts, node.constants[-1]
    entries = list(key) if isinstance(key, tuple) else [key]
    plain = (slice, int, np.integer)
    if len(entries) > layout.rank or not all(isinstance(e, plain) for e in entries):
        raise _UnreadableError
    entries += [slice(None)] * (layout.rank - len(entries))
    if entries.pop(layout.place) != slice(None):
        raise _UnreadableError
    dropped = [axis for axis, entry in enumerate(entries) if not isinstance(entry, slice)]
    before = sum(axis < layout.place for axis in dropped)
    changed = (*[slice(None)] * layout.first, *entries)
    return _Kept(
        dataclasses.replace(node, constants=(*node.constants[:-1], changed)),
        [layout._replace(place=layout.place - before, rank=layout.rank - len(dropped))],
    )


def _together(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """Two tensors, value by value or as matrices of the last two axes; or one and numbers."""
    first, *others = layouts
    is_product = isinstance(node.layer, op.Matmul)
    if any(other != first for other in others) or first.place >= first.rank - (
        2 if is_product else 1
    ):
        raise _UnreadableError
    return _Kept(node, [first])


def _joined(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """Tensors one after the other along an axis."""
    first, *others = layouts
    axis = first.kept(node.layer.axis)
    if any(other != first for other in others) or axis is None:
        raise _UnreadableError
    return _Kept(node.calling(op.Concatenate(axis=axis)), [first])


def _of_values(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """An operation on single values, or along axes."""
    (layout,) = layouts
    axis = getattr(node.layer, "axis", None)
    if axis is None:
        return _Kept(node, [layout])
    kept = [layout.kept(each) for each in ([axis] if isinstance(axis, int) else axis)]
    if None in kept:
        raise _UnreadableError
    changed = _of_kept(node.layer, axis=kept[0] if isinstance(axis, int) else tuple(kept))
    return _Kept(dataclasses.replace(node, layer=changed), [layout])


def _of_rows(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """A layer that sees the last axis alone, or single values."""
    (layout,) = layouts
    axis = getattr(node.layer, "axis", -1)
    if layout.place == layout.rank - 1 or axis not in (-1, [-1]):
        raise _UnreadableError
    return _Kept(node, [layout])


def _mask(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """A mask, the same for all windows."""
    kept = np.asarray(keras.ops.convert_to_numpy(node.layer.kept))
    return _alike(node, layouts, DDQMask.keeping(kept[None], node.name))


def _constant(node: FlatNode, layouts: Sequence[_Layout], given: FlatNode) -> _Kept:
    """Numbers beside a tensor, the same for all windows."""
    values = np.asarray(keras.ops.convert_to_numpy(node.layer.value))
    trained = node.layer.trainable
    return _alike(node, layouts, DDQConstant.holding(values[None], node.name, trainable=trained))


def _alike(node: FlatNode, layouts: Sequence[_Layout], layer: Any) -> _Kept:
    (layout,) = layouts
    if layout.place != 0:
        raise _UnreadableError
    return _Kept(dataclasses.replace(node, layer=layer), [layout])


_Rule = Callable[[FlatNode, Sequence[_Layout], FlatNode], _Kept]
_FUNCTIONS = [kind for rule in activations.RULES for kind in rule.layers]
_RULES: dict[type, _Rule] = {
    op.Reshape: _reshape,
    op.Transpose: _transpose,
    op.Swapaxes: _swapped,
    op.Split: _along,
    core.Unstack: _along,
    op.GetItem: _item,
    op.Concatenate: _joined,
    L.Concatenate: _joined,
    **dict.fromkeys((op.Add, op.Subtract, op.Multiply, op.TrueDivide, op.Matmul), _together),
    **dict.fromkeys((L.Add, L.Subtract, L.Multiply), _together),
    **dict.fromkeys((*_FUNCTIONS, core.Cast, core.StopGradient), _of_values),
    **dict.fromkeys((L.Dense, L.LayerNormalization, L.RMSNormalization, DDQRescaling), _of_rows),
    **dict.fromkeys((L.Activation, L.ReLU, L.LeakyReLU, L.ELU, *TRAINING_ONLY), _of_rows),
    DDQConstant: _constant,
    DDQMask: _mask,
}
# Products that name the batch in an equation or in their axes: what they are made of does not.
EXPANDED_FIRST = (L.EinsumDense, L.Dot, op.Einsum, nn.DotProductAttention)
_TROUBLE = (
    "reads a tensor whose first axis is not the batch alone, as where windows are joined to it. "
    "Until they are brought back, needs to be a dense layer, product, sum, activation, "
    "normalization over the last axis, or what moves or cuts values"
)
