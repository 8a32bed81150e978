"""Reading Keras models as flat graphs of layers."""

from ddq_tf.graph.align import align, align_if_needed
from ddq_tf.graph.flatten import FlatGraph, FlatNode, flatten
from ddq_tf.graph.fold import FoldedLayer, fold, grid_of

__all__ = [
    "FlatGraph",
    "FlatNode",
    "FoldedLayer",
    "align",
    "align_if_needed",
    "flatten",
    "fold",
    "grid_of",
]
