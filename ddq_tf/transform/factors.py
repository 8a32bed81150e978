"""Second factors of matrix products lie on symmetric grids of 8 bits.

XNNPACK takes no zero point there: built-in kernels would run the product, and round otherwise.
"""

from __future__ import annotations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import Output, is_activation, output_of
from ddq_tf.kinds.checks import does_linear
from ddq_tf.layers import DDQMatmul
from ddq_tf.transform.separate import separate
from ddq_tf.transform.ties import Ties


def symmetric(graph: FlatGraph, ties: Ties) -> set[int]:
    """Returns the tensors, written by blocks, that products read as their second factor.

    Of tensors that share a grid it is the one that stands for them.

    Args:
        graph: canonical.
        ties: of its tensors.
    """
    written = {_written(node, ties) for node in _products(graph)}
    return {ties.root(t) if ties.is_tied(t) else t for t in written if t is not None}


def separate_factors(graph: FlatGraph) -> FlatGraph:
    """Returns a graph where what products read second can lie on a symmetric grid.

    That is what no ReLU, input or fixed grid writes, but a block with a grid of its own.
    """
    ties = Ties(graph)
    places = [
        (node.name, 1) for node in _products(graph) if not _can_be_symmetric(graph, node, ties)
    ]
    return separate(graph, places) if places else graph


def _products(graph: FlatGraph) -> list[FlatNode]:
    return [node for node in graph.nodes if isinstance(node.layer, DDQMatmul)]


def _written(node: FlatNode, ties: Ties) -> int | None:
    return ties.written(node.inputs[1])


def _can_be_symmetric(graph: FlatGraph, node: FlatNode, ties: Ties) -> bool:
    tensor = _written(node, ties)
    writer = None if tensor is None else graph.producer(tensor)
    if tensor is None or writer is None:
        return False
    if ties.is_tied(tensor):
        return True
    clips = is_activation(writer) and output_of(writer) is not Output.OWN
    return not clips and not (writer.has_kernel and not does_linear(writer))
