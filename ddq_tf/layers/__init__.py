"""Keras layers whose weights and activations are quantized with learned parameters."""

from ddq_tf.layers.activation import (
    ACTIVATION_KINDS,
    SOFTMAX_SCALE,
    DDQActivation,
    elu,
)
from ddq_tf.layers.constant import DDQConstant, DDQMask, constant_layers
from ddq_tf.layers.fixed import DDQBorderGain, DDQFixedGrid, DDQRescaling, DDQSlice
from ddq_tf.layers.function import DDQFunction, DDQSoftmax
from ddq_tf.layers.in_float import (
    FloatConv2D,
    FloatConv2DTranspose,
    FloatDense,
    FloatDepthwiseConv2D,
    FloatLayer,
)
from ddq_tf.layers.normalization import DDQBatchNormalization
from ddq_tf.layers.product import DDQAdd, DDQMatmul
from ddq_tf.layers.rows import (
    DDQGroupNormalization,
    DDQLayerNormalization,
    DDQRMSNormalization,
    DDQUnitNormalization,
    RowNormalization,
)
from ddq_tf.layers.state import DDQState, StateMark
from ddq_tf.layers.weighted import (
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQWeightedLayer,
    activation_layers,
    examples_at_once,
    missing_zeros,
    multiplies_codes,
    operator_kind,
    operator_shape,
    rounds_activations,
    rounds_kernel,
    weighted_layers,
)

__all__ = [
    "ACTIVATION_KINDS",
    "SOFTMAX_SCALE",
    "DDQActivation",
    "DDQAdd",
    "DDQBatchNormalization",
    "DDQBorderGain",
    "DDQConstant",
    "DDQConv2D",
    "DDQConv2DTranspose",
    "DDQDense",
    "DDQDepthwiseConv2D",
    "DDQFixedGrid",
    "DDQFunction",
    "DDQGroupNormalization",
    "DDQLayerNormalization",
    "DDQMask",
    "DDQMatmul",
    "DDQRMSNormalization",
    "DDQRescaling",
    "DDQSlice",
    "DDQSoftmax",
    "DDQState",
    "DDQUnitNormalization",
    "DDQWeightedLayer",
    "FloatConv2D",
    "FloatConv2DTranspose",
    "FloatDense",
    "FloatDepthwiseConv2D",
    "FloatLayer",
    "RowNormalization",
    "StateMark",
    "activation_layers",
    "constant_layers",
    "elu",
    "examples_at_once",
    "missing_zeros",
    "multiplies_codes",
    "operator_kind",
    "operator_shape",
    "rounds_activations",
    "rounds_kernel",
    "weighted_layers",
]
