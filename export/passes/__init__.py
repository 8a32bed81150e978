"""Graph rewrites, one file each; every pass takes a Graph and returns a new one.

No pass changes what the graph computes: each keeps every activation's codes as they are.
"""

from __future__ import annotations

from ddq_tf.export.ir import Graph
from ddq_tf.export.passes import (
    bare_biases,
    explicit_padding,
    narrow_storage,
    pointwise_to_fully_connected,
    unit_scales,
)
from ddq_tf.targets import Target

# From the second pass on the order matters: narrow_storage asks whether a pointwise convolution has
# become a FULLY_CONNECTED, and the last two whether XNNPACK takes an op with its weights' type.
_PASSES = (
    explicit_padding.run,
    pointwise_to_fully_connected.run,
    narrow_storage.run,
    unit_scales.run,
    bare_biases.run,
)


def run_passes(graph: Graph, target: Target) -> Graph:
    """Returns the graph after all passes."""
    for run in _PASSES:
        graph = run(graph, target)
    return graph
