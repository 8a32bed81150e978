"""Reading Keras models as flat graphs of layers."""

from ddq_tf.graph.beside import MOST_MASKED, numbers
from ddq_tf.graph.flat_graph import FlatGraph, FlatNode
from ddq_tf.graph.flatten import flatten
from ddq_tf.graph.values import as_float64

__all__ = [
    "MOST_MASKED",
    "FlatGraph",
    "FlatNode",
    "as_float64",
    "flatten",
    "numbers",
]
