"""Reading Keras models as flat graphs of layers."""

from ddq_tf.graph.flatten import FlatGraph, FlatNode, flatten
from ddq_tf.graph.fold import FoldedLayer, align_biases, fold, grid_of

__all__ = [
    "FlatGraph",
    "FlatNode",
    "FoldedLayer",
    "align_biases",
    "flatten",
    "fold",
    "grid_of",
]
