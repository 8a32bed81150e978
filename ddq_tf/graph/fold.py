"""BatchNorm folding: a weighted layer and its BatchNorm as one integer operator.

    y = gamma' * (conv(x, s*k) + b) + beta - gamma' * mean,   gamma' = gamma / sqrt(var + eps)
      = conv(x, (s*|gamma'|) * (sign(gamma')*k)) + (beta + gamma' * (b - mean))

so codes k keep their magnitude, and only scale and bias change.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from ddq_tf.graph.flatten import FlatGraph, FlatNode
from ddq_tf.layers import DDQActivation, DDQDepthwiseConv2D, DDQSoftmax
from ddq_tf.layers.activation import SOFTMAX_SCALE

# XNNPACK holds INT4 weights 16-fold, so its INT4 sums wrap at 28 bits; half of that for the bias.
BIAS_MAX = 2**26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The uniform grid of an activation tensor: real = scale * code, codes qmin..qmax."""

    scale: np.float32
    qmin: int
    qmax: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldedLayer:
    """A weighted layer with its BatchNorm folded in.

    Attributes:
        node: the weighted layer's call.
        batch_norm: the BatchNormalization folded, or None.
        output: the tensor that carries the folded result.
        codes: int8, the kernel's shape, signs flipped where gamma is negative.
        scale: float32, (channels,), > 0, of the folded weights.
        bias: float64, (channels,), of the folded layer.
    """

    node: FlatNode
    batch_norm: keras.layers.BatchNormalization | None
    output: int
    codes: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def source_of(graph: FlatGraph, tensor: int) -> DDQActivation | DDQSoftmax:
    """Returns the layer whose grid a tensor of a DDQ model lies on.

    Layers that only move values (pooling, padding, reshaping) keep the grid of their input.
    """
    node = graph.producer(tensor)
    while node is not None and not isinstance(node.layer, DDQActivation | DDQSoftmax):
        node = graph.producer(node.inputs[0])
    if node is None:
        raise ValueError(f"tensor {tensor} has no quantizer before it")
    return node.layer


def grid_of(graph: FlatGraph, tensor: int) -> Grid:
    """Returns the grid that a tensor of a DDQ model lies on."""
    layer = source_of(graph, tensor)
    if isinstance(layer, DDQSoftmax):
        return Grid(scale=np.float32(SOFTMAX_SCALE), qmin=0, qmax=255)
    quantizer = layer.quantizer
    return Grid(scale=quantizer.export_scale(), qmin=quantizer.qmin, qmax=quantizer.qmax)


def fold(graph: FlatGraph, node: FlatNode) -> FoldedLayer:
    """Folds a weighted layer's call with the BatchNorm that alone reads it, if one does."""
    layer = node.layer
    codes, scale = layer.integer_weights()
    channels = int(np.prod(scale.shape))
    scale = scale.reshape(channels).astype(np.float64)
    bias = np.zeros(channels) if layer.bias is None else as_float64(layer.bias)
    after = graph.sole_consumer(node.outputs[0])
    if after is None or not isinstance(after.layer, keras.layers.BatchNormalization):
        return FoldedLayer(
            node=node,
            batch_norm=None,
            output=node.outputs[0],
            codes=codes,
            scale=scale.astype(np.float32),
            bias=bias,
        )
    gain, shift = batch_norm_affine(after.layer, channels)
    signs = np.where(gain < 0, -1, 1).astype(np.int8)
    if isinstance(layer, DDQDepthwiseConv2D):
        signs = signs.reshape(codes.shape[2:])
    tiny = np.finfo(np.float32).tiny
    return FoldedLayer(
        node=node,
        batch_norm=after.layer,
        output=after.outputs[0],
        codes=codes * signs,
        scale=np.maximum(scale * np.abs(gain), tiny).astype(np.float32),
        bias=gain * bias + shift,
    )


def batch_norm_affine(layer: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (gain, shift), float64, of a BatchNorm in inference: y = gain * x + shift."""
    gamma = as_float64(layer.gamma) if layer.scale else np.ones(channels)
    beta = as_float64(layer.beta) if layer.center else np.zeros(channels)
    gain = gamma / np.sqrt(as_float64(layer.moving_variance) + layer.epsilon)
    return gain, beta - gain * as_float64(layer.moving_mean)


def is_finite(layer: keras.layers.Layer) -> bool:
    """Returns whether all that a layer computes with is finite."""
    used = [variable for variable in layer.weights if variable.name != "evidence"]
    return all(np.isfinite(as_float64(variable)).all() for variable in used)


def as_float64(variable: Any) -> np.ndarray:
    """Returns a Keras variable's values."""
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
