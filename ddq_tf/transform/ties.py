"""Which tensors share one grid because they meet in a Concatenate, or in shared weights.

TFLite's CONCATENATION has no arithmetic: all its inputs lie on the output's grid. So whatever
writes an input writes that grid directly, and a chain of concatenations has one grid. And weights
or gains that are used several times have one multiplier: all their inputs lie on one grid, and all
their outputs do.
"""

from __future__ import annotations

from typing import Any

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.grids.affine import is_affine
from ddq_tf.kinds import Output, function_of, is_activation, output_of
from ddq_tf.kinds.checks import does_linear
from ddq_tf.kinds.steps import grid_key

_PASSED = (Output.KEEPS, Output.ROUNDS)


class Ties:
    """Sets of tensors with one grid."""

    def __init__(self, graph: FlatGraph) -> None:
        self._graph = graph
        self._parents: dict[int, int] = {}
        for node in graph.nodes:
            if output_of(node) is Output.SHARED:
                for tensor in (*node.inputs, *node.outputs):
                    written = self.written(tensor)
                    if written is not None:
                        self._join(written, node.outputs[0])
        for calls in shared_calls(graph):
            inputs = [self.written(node.inputs[0]) for node in calls]
            self._join_all([tensor for tensor in inputs if tensor is not None])
            self._join_all([block(graph, node)[-1].outputs[0] for node in calls])
        for nodes in alike(graph):
            self._join_all([block(graph, node)[-1].outputs[0] for node in nodes])

    def is_free(self, tensor: int) -> bool:
        """Returns whether what writes a tensor, moved or not, can write any grid."""
        return self.written(tensor) is not None

    def is_tied(self, tensor: int) -> bool:
        """Returns whether a block's output shares its grid with others."""
        return tensor in self._parents

    def root(self, tensor: int) -> int:
        """Returns the tensor that stands for the set."""
        while self._parents[tensor] != tensor:
            tensor = self._parents[tensor]
        return tensor

    def same(self, tensor: int, other: int) -> bool:
        """Returns whether a tensor, moved or not, lies on another's grid."""
        written = self.written(tensor)
        return written is not None and self.root(written) == self.root(other)

    def _join_all(self, tensors: list[int]) -> None:
        for tensor in tensors:
            self._join(tensor, tensors[0])

    def _join(self, tensor: int, other: int) -> None:
        for each in (tensor, other):
            self._parents.setdefault(each, each)
        self._parents[self.root(tensor)] = self.root(other)

    def written(self, tensor: int) -> int | None:
        """Returns the block's output whose values a tensor holds; None if its grid is fixed."""
        node = self._graph.producer(tensor)
        while node is not None and output_of(node) in _PASSED and not is_activation(node):
            tensor = node.inputs[0]
            node = self._graph.producer(tensor)
        if node is None:
            return None
        if is_activation(node) and output_of(node) is not Output.OWN:
            return tensor if self._is_fused(node) else None
        return tensor if output_of(node) in (Output.OWN, Output.SHARED) else None

    def _is_fused(self, node: FlatNode) -> bool:
        """Whether an operator does this ReLU itself, on any grid."""
        function, before = function_of(node.layer), self._graph.producer(node.inputs[0])
        if function is None or function.name == "clipped_relu":
            return False  # what ends it is the range of a quantizer of its own
        if before is None:
            return False
        producer = self._graph.producer(before.inputs[0])
        if producer is not None and self._graph.norm_of(producer) is before:
            before = producer
        return fused_activation(self._graph, before) is node


def alike(graph: FlatGraph) -> list[list[FlatNode]]:
    """Returns the operators whose outputs lie on one grid, as `kinds.steps` says."""
    nodes: dict[Any, list[FlatNode]] = {}
    for node in graph.nodes:
        key = grid_key(node.layer)
        if key is not None and output_of(node) is Output.OWN:
            nodes.setdefault(key, []).append(node)
    return [found for found in nodes.values() if len(found) > 1]


def shared_calls(graph: FlatGraph) -> list[list[FlatNode]]:
    """Returns the calls of each layer with weights or gains that is called several times.

    A BatchNormalization that folds into what it follows has no multiplier of its own.
    """
    calls: dict[int, list[FlatNode]] = {}
    for node in graph.nodes:
        if node.has_kernel or is_affine(graph, node):
            calls.setdefault(id(node.layer), []).append(node)
    return [nodes for nodes in calls.values() if len(nodes) > 1]


def block(graph: FlatGraph, node: FlatNode) -> list[FlatNode]:
    """Returns an operator's node, the BatchNorm that folds into it, and the ReLU that it does."""
    norm = graph.norm_of(node)
    after = fused_activation(graph, node)
    return [node, *(each for each in (norm, after) if each is not None)]


def fused_activation(graph: FlatGraph, node: FlatNode) -> FlatNode | None:
    """Returns the ReLU that an operator does itself, behind the BatchNorm that folds into it.

    It alone reads what the operator writes. A ceiling other than 6 is the end of a grid, which an
    operator that is called several times, or is one of a key, shares with others: such a ReLU
    stands alone.
    """
    if is_activation(node) or (node.has_kernel and not does_linear(node)):
        return None
    end = graph.norm_of(node) or node
    after = graph.sole_consumer(end.outputs[0])
    if after is None or not is_activation(after) or output_of(end) is not Output.OWN:
        return None
    function = function_of(after.layer)
    if function is None or not function.is_fused:
        return None
    is_shared = graph.calls(node.layer) > 1 or grid_key(node.layer) is not None
    return None if is_shared and function.name == "clipped_relu" else after
