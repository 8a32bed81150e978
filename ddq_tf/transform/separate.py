"""Grids of their own, by a multiplication with a number near 1.

A tensor often lies on a grid that others fix: a sigmoid's 256ths, a model's input, what a leaky
ReLU keeps. Where a Concatenate or shared weights want it on another, or where scales would have to
meet more wishes than they can (`grids.relations`), a `DDQRescaling` by 1 goes between. In integers
that is a 1x1 depthwise convolution, which takes any step to any other; `grids.align` moves its gain
by no more than about a thousandth, to a multiplier that leaves no doubt.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import Output, output_of
from ddq_tf.kinds.steps import grid_key, on_one_grid
from ddq_tf.layers import DDQRescaling
from ddq_tf.transform.ties import Ties, shared_calls


def separate_tied(graph: FlatGraph) -> FlatGraph:
    """Returns a graph where what a Concatenate or shared weights read is written on one grid."""
    ties, by = Ties(graph), _Separator(graph)
    for node in graph.nodes:
        if output_of(node) is Output.SHARED:
            for place, tensor in enumerate(node.inputs):
                if not ties.same(tensor, node.outputs[0]):
                    by.before(node, place)
    for calls in shared_calls(graph):
        if len({node.inputs[0] for node in calls}) > 1:
            for node in calls:
                if not ties.is_free(node.inputs[0]):
                    by.before(node, 0)
    return by.graph()


def separate(graph: FlatGraph, places: Iterable[tuple[str, int | None]]) -> FlatGraph:
    """Returns a graph with grids of their own at some places.

    Args:
        graph: a canonical graph.
        places: (name, number) of nodes and their inputs; None stands for the output.
    """
    by, wanted = _Separator(graph), set(places)
    keys = {node.name: grid_key(node.layer) for node in graph.nodes}
    alike = {(keys.get(name), place) for name, place in wanted if keys.get(name) is not None}
    for node in graph.nodes:
        for place in (*range(len(node.inputs)), None):
            if (node.name, place) in wanted or (grid_key(node.layer), place) in alike:
                by.after(node) if place is None else by.before(*_reached(graph, node, place))
    return by.graph()


def _reached(graph: FlatGraph, node: FlatNode, place: int) -> tuple[FlatNode, int]:
    """An input of a node, before the mask of a softmax, which no grid holds."""
    before = graph.producer(node.inputs[place])
    return (before, 0) if before is not None and before.is_mask else (node, place)


class _Separator:
    """Collects what goes before and behind nodes."""

    def __init__(self, graph: FlatGraph) -> None:
        self._graph = graph
        self._inputs: dict[int, dict[int, int]] = {}
        self._before: dict[int, list[FlatNode]] = {}
        self._after: dict[int, tuple[int, list[FlatNode]]] = {}
        self._shared: dict[tuple[Any, int | None], DDQRescaling] = {}
        tensors = [t for node in graph.nodes for t in (*node.inputs, *node.outputs)]
        self._count = max((*tensors, *graph.inputs), default=-1) + 1

    def before(self, node: FlatNode, place: int) -> None:
        """Rescales an input of a node."""
        known = self._inputs.setdefault(id(node), {})
        tensor = node.inputs[place]
        if tensor not in known:
            known[tensor] = self._new()
            label, shape = f"{node.name}_input_{place}", node.shapes[place]
            layer = self._rescaling(node, place, label)
            new = self._rescaled(layer, label, tensor, known[tensor], shape)
            self._before.setdefault(id(node), []).extend(new)

    def after(self, node: FlatNode) -> None:
        """Rescales the output of a node; numbers beside others of a key go to the new grid."""
        key = grid_key(node.layer)
        if key is not None and node.is_constant:
            on_one_grid(node.layer, (key, None))
        elif id(node) not in self._after:
            inner = self._new()
            merges = len(node.inputs) > 1
            shape = node.layer.compute_output_shape(node.shapes if merges else node.shapes[0])
            label = f"{node.name}_output"
            layer = self._rescaling(node, None, label)
            self._after[id(node)] = (
                inner,
                self._rescaled(layer, label, inner, node.outputs[0], tuple(shape)),
            )

    def graph(self) -> FlatGraph:
        """Returns the graph with all of it."""
        nodes: list[FlatNode] = []
        for node in self._graph.nodes:
            known = self._inputs.get(id(node), {})
            inner, behind = self._after.get(id(node), (None, []))
            inputs = tuple(known.get(tensor, tensor) for tensor in node.inputs)
            outputs = node.outputs if inner is None else (inner,)
            changed = dataclasses.replace(node, inputs=inputs, outputs=outputs)
            same = inputs == node.inputs and inner is None
            nodes += [*self._before.get(id(node), []), node if same else changed, *behind]
        graph = dataclasses.replace(self._graph, nodes=tuple(nodes))
        return graph.named_apart(self._graph)

    def _new(self) -> int:
        self._count += 1
        return self._count - 1

    def _rescaling(self, node: FlatNode, place: int | None, label: str) -> DDQRescaling:
        """The rescaling of an input, None for the output; one for all layers of a key."""
        key = grid_key(node.layer)
        if key is None:
            return DDQRescaling(1.0, name=label)
        new = on_one_grid(DDQRescaling(1.0, name=label), (key, place))
        return self._shared.setdefault((key, place), new)

    def _rescaled(
        self,
        layer: DDQRescaling,
        label: str,
        reads: int,
        writes: int,
        shape: tuple[int | None, ...],
    ) -> list[FlatNode]:
        """A rescaling by 1; of what is no image, between two reshapes."""
        if len(shape) == 4:
            return [_node(layer, reads, writes, shape)]
        column = (1, math.prod(size or 1 for size in shape[1:]), 1)
        there, back = self._new(), self._new()
        return [
            _node(keras.layers.Reshape(column, name=f"{label}_column"), reads, there, shape),
            _node(layer, there, back, (shape[0], *column)),
            _node(
                keras.layers.Reshape(shape[1:], name=f"{label}_shape"),
                back,
                writes,
                (shape[0], *column),
            ),
        ]


def _node(
    layer: keras.layers.Layer, reads: int, writes: int, shape: tuple[int | None, ...]
) -> FlatNode:
    return FlatNode(
        layer=layer, name=layer.name, inputs=(reads,), outputs=(writes,), shapes=(shape,)
    )
