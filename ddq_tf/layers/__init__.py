"""Keras layers whose weights and activations are quantized with learned parameters."""

from ddq_tf.layers.activation import ACTIVATION_KINDS, DDQActivation, DDQSoftmax
from ddq_tf.layers.fixed import (
    FIXED_GRIDS,
    TABLES,
    DDQBorderGain,
    DDQFixedGrid,
    DDQRescaling,
    activation_name,
    ceiling_of,
)
from ddq_tf.layers.normalization import DDQBatchNormalization
from ddq_tf.layers.weighted import (
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQWeightedLayer,
    activation_layers,
    operator_kind,
    weighted_layers,
)

__all__ = [
    "ACTIVATION_KINDS",
    "FIXED_GRIDS",
    "TABLES",
    "DDQActivation",
    "DDQBatchNormalization",
    "DDQBorderGain",
    "DDQConv2D",
    "DDQConv2DTranspose",
    "DDQDense",
    "DDQDepthwiseConv2D",
    "DDQFixedGrid",
    "DDQRescaling",
    "DDQSoftmax",
    "DDQWeightedLayer",
    "activation_layers",
    "activation_name",
    "ceiling_of",
    "operator_kind",
    "weighted_layers",
]
