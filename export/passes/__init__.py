"""Graph rewrites, one file each; every pass takes a Graph and returns a new one.

No pass changes what the graph computes: each keeps every activation's codes as they are.
"""

from __future__ import annotations

from ddq_tf.export.ir import Graph
from ddq_tf.export.passes import (
    explicit_padding,
    narrow_storage,
    pointwise_to_fully_connected,
)
from ddq_tf.targets import Target

# The order matters only for the last two: narrow_storage asks whether a pointwise convolution
# has become a FULLY_CONNECTED.
_PASSES = (
    explicit_padding.run,
    pointwise_to_fully_connected.run,
    narrow_storage.run,
)


def run_passes(graph: Graph, target: Target) -> Graph:
    """Returns the graph after all passes."""
    for run in _PASSES:
        graph = run(graph, target)
    return graph
