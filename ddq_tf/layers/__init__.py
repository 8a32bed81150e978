"""Keras layers whose weights and activations are quantized with learned parameters."""

from ddq_tf.layers.activation import ACTIVATION_KINDS, DDQActivation, DDQSoftmax
from ddq_tf.layers.fixed import DDQFixedGrid
from ddq_tf.layers.weighted import (
    DDQConv2D,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQWeightedLayer,
    activation_layers,
    operator_kind,
    weighted_layers,
)

__all__ = [
    "ACTIVATION_KINDS",
    "DDQActivation",
    "DDQConv2D",
    "DDQDense",
    "DDQDepthwiseConv2D",
    "DDQFixedGrid",
    "DDQSoftmax",
    "DDQWeightedLayer",
    "activation_layers",
    "operator_kind",
    "weighted_layers",
]
