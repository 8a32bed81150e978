"""Which tensors share one grid because they meet in a Concatenate, or in shared weights.

TFLite's CONCATENATION has no arithmetic: all its inputs lie on the output's grid. So whatever
writes an input writes that grid directly, and a chain of concatenations has one grid. And weights
that are used several times have one multiplier: all their inputs lie on one grid, and all their
outputs do.
"""

from __future__ import annotations

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.windows import stays_inside
from ddq_tf.layers import TABLES, DDQBorderGain, DDQRescaling, activation_name
from ddq_tf.transform.canonical import WEIGHTED
from ddq_tf.transform.supported import ACTIVATIONS, FUSED, IDENTITIES, PAIRS, fused_kind

_BLOCKS = (
    *WEIGHTED,
    *PAIRS,
    DDQBorderGain,
    DDQRescaling,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.GlobalAveragePooling2D,
)
_MOVERS = (
    *IDENTITIES,
    keras.layers.AveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)


class Ties:
    """Sets of tensors with one grid."""

    def __init__(self, graph: FlatGraph) -> None:
        self._graph = graph
        self._parents: dict[int, int] = {}
        for node in graph.nodes:
            if isinstance(node.layer, keras.layers.Concatenate):
                for tensor in (*node.inputs, *node.outputs):
                    written = self._written(tensor)
                    if written is not None:
                        self._join(written, node.outputs[0])
        for calls in shared_calls(graph):
            inputs = [self._written(node.inputs[0]) for node in calls]
            self._join_all([tensor for tensor in inputs if tensor is not None])
            self._join_all([self._end(node) for node in calls])

    def is_free(self, tensor: int) -> bool:
        """Returns whether what writes a tensor, moved or not, can write any grid."""
        return self._written(tensor) is not None

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
        written = self._written(tensor)
        return written is not None and self.root(written) == self.root(other)

    def _join_all(self, tensors: list[int]) -> None:
        for tensor in tensors:
            self._join(tensor, tensors[0])

    def _end(self, node: FlatNode) -> int:
        """The output of a weighted layer's block: of the BatchNorm and the ReLU behind it."""
        after = self._graph.sole_consumer(node.outputs[0])
        linear = fused_kind(node.layer) == "linear"
        if linear and after and isinstance(after.layer, keras.layers.BatchNormalization):
            node = after
        last = fused_activation(self._graph, node) if linear else None
        return (last or node).outputs[0]

    def _join(self, tensor: int, other: int) -> None:
        for each in (tensor, other):
            self._parents.setdefault(each, each)
        self._parents[self.root(tensor)] = self.root(other)

    def _written(self, tensor: int) -> int | None:
        """The block's output that a tensor holds the values of; None if its grid is fixed."""
        node = self._graph.producer(tensor)
        while node is not None and isinstance(node.layer, _MOVERS) and not stays_inside(node):
            tensor = node.inputs[0]
            node = self._graph.producer(tensor)
        if node is None or isinstance(node.layer, _BLOCKS) or stays_inside(node):
            return None if node is None else tensor
        if isinstance(node.layer, ACTIVATIONS):
            name = activation_name(node.layer)
            if name in TABLES:
                return tensor
            if name == "clipped_relu":
                return None  # what ends it is the range of a quantizer of its own
        before = self._graph.producer(node.inputs[0])
        fused = before is not None and fused_activation(self._graph, before) is node
        return tensor if fused else None


def shared_calls(graph: FlatGraph) -> list[list[FlatNode]]:
    """Returns the calls of each weighted layer that is called several times."""
    calls: dict[int, list[FlatNode]] = {}
    for node in graph.nodes:
        if isinstance(node.layer, WEIGHTED):
            calls.setdefault(id(node.layer), []).append(node)
    return [nodes for nodes in calls.values() if len(nodes) > 1]


def fused_activation(graph: FlatGraph, node: FlatNode) -> FlatNode | None:
    """Returns the ReLU that an operator does itself: it alone reads the operator's output."""
    after = graph.sole_consumer(node.outputs[0])
    if after is None or not isinstance(after.layer, ACTIVATIONS):
        return None
    own_grid = isinstance(node.layer, _BLOCKS) and not isinstance(
        node.layer, keras.layers.Concatenate
    )
    if not own_grid and not stays_inside(node):
        return None
    if isinstance(node.layer, WEIGHTED) and fused_kind(node.layer) != "linear":
        return None
    return after if activation_name(after.layer) in FUSED else None
