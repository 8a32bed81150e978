"""How often each quantizer stands in a model: its gates sum the evidence of all calls."""

from __future__ import annotations

import keras

from ddq_tf.graph import flatten
from ddq_tf.layers import activation_layers, weighted_layers


def count_calls(model: keras.Model) -> None:
    """Tells quantizers how often they stand in a model, which is about to train."""
    graph = flatten(model)
    for layer in [*weighted_layers(model), *activation_layers(model)]:
        layer.quantizer.calls = graph.calls(layer)
