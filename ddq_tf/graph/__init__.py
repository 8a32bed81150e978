"""Reading Keras models as flat graphs of layers."""

from ddq_tf.graph.flatten import WEIGHTED, FlatGraph, FlatNode, flatten
from ddq_tf.graph.values import as_float64

__all__ = ["WEIGHTED", "FlatGraph", "FlatNode", "as_float64", "flatten"]
