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

from ddq_tf.graph.flatten import FlatGraph, FlatNode, flatten
from ddq_tf.layers import DDQActivation, DDQDepthwiseConv2D, DDQSoftmax, DDQWeightedLayer
from ddq_tf.layers.activation import SOFTMAX_SCALE

INT32_MAX = 2**31 - 1


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


def grid_of(graph: FlatGraph, tensor: int) -> Grid:
    """Returns the grid that a tensor of a DDQ model lies on.

    Layers that only move values (pooling, padding, reshaping) keep the grid of their input.
    """
    node = graph.producer(tensor)
    while node is not None and not isinstance(node.layer, DDQActivation | DDQSoftmax):
        node = graph.producer(node.inputs[0])
    if node is None:
        raise ValueError(f"tensor {tensor} has no quantizer before it")
    if isinstance(node.layer, DDQSoftmax):
        return Grid(scale=np.float32(SOFTMAX_SCALE), qmin=0, qmax=255)
    quantizer = node.layer.quantizer
    return Grid(scale=quantizer.export_scale(), qmin=quantizer.qmin, qmax=quantizer.qmax)


def fold(graph: FlatGraph, node: FlatNode) -> FoldedLayer:
    """Folds a weighted layer's call with the BatchNorm that alone reads it, if one does."""
    layer = node.layer
    codes, scale = layer.integer_weights()
    channels = int(np.prod(scale.shape))
    scale = scale.reshape(channels).astype(np.float64)
    bias = np.zeros(channels) if layer.bias is None else _array(layer.bias)
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
    gamma = _array(layer.gamma) if layer.scale else np.ones(channels)
    beta = _array(layer.beta) if layer.center else np.zeros(channels)
    gain = gamma / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    return gain, beta - gain * _array(layer.moving_mean)


def align_biases(model: keras.Model) -> None:
    """Moves every folded bias to the nearest value that the integer file can hold.

    A bias is an int32 in units of input scale times weight scale. Unaligned, its rounding shifts
    an accumulator by up to half a unit, which at 4 bits flips about one output code in 200. The
    shift is applied where it is free: to beta, to the moving mean of a BatchNorm without beta, or
    to the layer's own bias. Repeating it changes nothing more.
    """
    graph = flatten(model)
    done: set[int] = set()
    for node in graph.nodes:
        if isinstance(node.layer, DDQWeightedLayer) and id(node.layer) not in done:
            done.add(id(node.layer))
            _align(graph, node)


def _align(graph: FlatGraph, node: FlatNode) -> None:
    folded = fold(graph, node)
    unit = np.float64(grid_of(graph, node.inputs[0]).scale) * folded.scale.astype(np.float64)
    units = folded.bias / unit
    representable = np.abs(units) < INT32_MAX
    shift = np.where(representable, (np.rint(units) - units) * unit, 0.0)
    norm, layer = folded.batch_norm, node.layer
    if norm is not None and norm.center:
        norm.beta.assign(_array(norm.beta) + shift)
    elif norm is not None:
        gain, _ = batch_norm_affine(norm, shift.size)
        moved = np.divide(shift, gain, out=np.zeros_like(shift), where=gain != 0)
        norm.moving_mean.assign(_array(norm.moving_mean) - moved)
    elif layer.bias is not None:
        layer.bias.assign(_array(layer.bias) + shift)


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
