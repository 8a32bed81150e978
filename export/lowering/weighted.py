"""Operators with weights: convolutions, dense layers, and what becomes a depthwise convolution."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ddq_tf.export.ir import DType, Quantization
from ddq_tf.export.lowering.builder import Lowering
from ddq_tf.graph import FlatNode, FoldedLayer, fold
from ddq_tf.graph.affine import continues_chain, is_affine
from ddq_tf.graph.fold import BIAS_MAX
from ddq_tf.layers import DDQConv2D, DDQConv2DTranspose, DDQDense


def weighted(into: Lowering, node: FlatNode) -> None:
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED, with the BatchNorm behind it."""
    layer, folded = node.layer, fold(into.graph, node)
    reads = into.names[node.inputs[0]]
    writes = into.result(node, folded.output, fuses=True)
    weights, bias = _constants(into, node, folded, into.scale(reads))
    clamp = into.fused_activation(folded.output)
    if isinstance(layer, DDQDense):
        into.emit(
            "FULLY_CONNECTED",
            (reads, weights, bias),
            writes,
            source=node.name,
            keep_num_dims=len(node.shapes[0]) > 2,
            fused_activation_function=clamp,
        )
        return
    attrs = {
        "padding": layer.padding.upper(),
        "stride_h": int(layer.strides[0]),
        "stride_w": int(layer.strides[1]),
        "dilation_h_factor": int(layer.dilation_rate[0]),
        "dilation_w_factor": int(layer.dilation_rate[1]),
        "fused_activation_function": clamp,
    }
    kind = "CONV_2D"
    if not isinstance(layer, DDQConv2D):
        kind, attrs["depth_multiplier"] = "DEPTHWISE_CONV_2D", int(layer.depth_multiplier)
    into.emit(kind, (reads, weights, bias), writes, source=node.name, **attrs)


def transposed(into: Lowering, node: FlatNode) -> None:
    """TRANSPOSE_CONV, with the BatchNorm behind it.

    With SAME padding, kernels shorter than the stride get zeros at their ends, which change nothing
    but make XNNPACK take the operator.
    """
    layer, folded = node.layer, fold(into.graph, node)
    reads = into.names[node.inputs[0]]
    short = [max(s - k, 0) for s, k in zip(layer.strides, layer.kernel_size, strict=True)]
    if layer.padding == "same" and any(short):
        codes = np.pad(folded.codes, [*((0, n) for n in short), (0, 0), (0, 0)])
        folded = dataclasses.replace(folded, codes=codes)
    clamp = into.fused_activation(folded.output)
    writes = into.result(node, folded.output, fuses=True)
    weights, bias = _constants(into, node, folded, into.scale(reads))
    shape = into.constant(f"{node.name}/shape", [1, *into.tensors[writes].shape[1:]])
    into.emit(
        "TRANSPOSE_CONV",
        (shape, weights, reads, bias),
        writes,
        source=node.name,
        padding=layer.padding.upper(),
        stride_h=int(layer.strides[0]),
        stride_w=int(layer.strides[1]),
        fused_activation_function=clamp,
    )


def affine(into: Lowering, node: FlatNode) -> None:
    """A chain of layers that multiply and shift each channel: DEPTHWISE_CONV_2D 1x1."""
    if not is_affine(into.graph, node) or continues_chain(into.graph, node):
        return
    folded = fold(into.graph, node)
    reads = into.names[node.inputs[0]]
    writes = into.result(node, folded.output, fuses=True)
    weights, bias = _constants(into, node, folded, into.scale(reads))
    clamp = into.fused_activation(folded.output)
    _depthwise(into, node, (reads, weights, bias), writes, fused_activation_function=clamp)


def average(into: Lowering, node: FlatNode) -> None:
    """A pooling whose windows stay within the image: DEPTHWISE_CONV_2D of code 1.

    Unlike AVERAGE_POOL_2D it is delegated, rounds as Keras does and writes a grid of its own.
    """
    _window_mean(into, node, into.result(node, node.outputs[0], fuses=True))


def skip(into: Lowering, node: FlatNode) -> None:
    """A 1x1 window with strides: DEPTHWISE_CONV_2D of code 1 on one grid, which is exact."""
    _, writes = into.moved(node)
    _window_mean(into, node, writes)


def _window_mean(into: Lowering, node: FlatNode, writes: str) -> None:
    layer, channels = node.layer, node.shapes[0][-1] or 0
    height, width = layer.pool_size
    reads = into.names[node.inputs[0]]
    folded = FoldedLayer(
        node=node,
        batch_norm=None,
        output=node.outputs[0],
        codes=np.ones((height, width, channels, 1), np.int8),
        scale=np.full(channels, 1 / (height * width), np.float32),
        bias=np.zeros(channels),
    )
    weights, bias = _constants(into, node, folded, into.scale(reads))
    strides = {"stride_h": int(layer.strides[0]), "stride_w": int(layer.strides[1])}
    clamp = into.fused_activation(node.outputs[0])
    _depthwise(
        into, node, (reads, weights, bias), writes, fused_activation_function=clamp, **strides
    )


_HARD_SIGMOID_CODE = 64


def hard_sigmoid(into: Lowering, node: FlatNode) -> None:
    """X / 6 + 1/2 within [0, 1]: DEPTHWISE_CONV_2D 1x1, clamped by RELU_N1_TO_1 and code -128."""
    channels = node.shapes[0][-1] or 0
    folded = FoldedLayer(
        node=node,
        batch_norm=None,
        output=node.outputs[0],
        codes=np.full((1, 1, channels, 1), _HARD_SIGMOID_CODE, np.int8),
        scale=np.full(channels, 1 / (6 * _HARD_SIGMOID_CODE), np.float32),
        bias=np.full(channels, 0.5),
    )
    reads, writes = into.names[node.inputs[0]], into.fixed(node)
    weights, bias = _constants(into, node, folded, into.scale(reads))
    clamp = "RELU_N1_TO_1"
    _depthwise(into, node, (reads, weights, bias), writes, fused_activation_function=clamp)


def _depthwise(
    into: Lowering, node: FlatNode, reads: tuple[str, ...], writes: str, **attrs: Any
) -> None:
    into.emit(
        "DEPTHWISE_CONV_2D",
        reads,
        writes,
        source=node.name,
        **{"padding": "VALID", "depth_multiplier": 1, **attrs},
    )


def _constants(
    into: Lowering, node: FlatNode, folded: FoldedLayer, input_scale: np.float32
) -> tuple[str, str]:
    """Declares the INT8 weights and the INT32 bias of a weighted layer."""
    codes, scale = fit_bias(folded, input_scale)
    data, axis = _tflite_layout(node.layer, codes)
    grid = Quantization(scale=scale, axis=axis)
    weights = into.declare(f"{node.name}/kernel", data.shape, DType.INT8, grid, data)
    unit = np.float32(input_scale) * scale
    bias = np.clip(np.rint(folded.bias / unit.astype(np.float64)), -BIAS_MAX, BIAS_MAX)
    name = into.declare(
        f"{node.name}/bias",
        bias.shape,
        DType.INT32,
        Quantization(scale=unit),
        bias.astype(np.int32),
    )
    return weights, name


def fit_bias(folded: FoldedLayer, input_scale: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes and scales with which every bias fits into int32.

    A channel whose weights are all but dead has steps so fine that its bias overflows. Such a
    channel gets the finest scale at which the bias fits, and its codes are rounded to it (mostly
    to 0). All other channels stay exactly as trained.

    Args:
        folded: the layer; its `codes` have the shape of the Keras kernel.
        input_scale: of the activations that it reads.

    Returns:
        codes: int8, the kernel's shape; scale: float32, (channels,).
    """
    finest = np.abs(folded.bias) / (float(input_scale) * BIAS_MAX)
    scale = folded.scale.astype(np.float64)
    if not (finest >= scale).any():
        return folded.codes, folded.scale
    fitted = np.where(finest >= scale, finest * 1.001, scale)
    channels_last = folded.codes.reshape(-1, scale.size)
    codes = np.rint(channels_last * (scale / fitted)).astype(np.int8)
    return codes.reshape(folded.codes.shape), fitted.astype(np.float32)


def _tflite_layout(layer: Any, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns codes in TFLite's axis order, and the channel axis."""
    if isinstance(layer, DDQDense):
        return np.ascontiguousarray(codes.T), 0
    if isinstance(layer, DDQConv2D | DDQConv2DTranspose):
        return np.ascontiguousarray(codes.transpose(3, 0, 1, 2)), 0
    height, width = codes.shape[:2]
    return np.ascontiguousarray(codes.reshape(1, height, width, -1)), 3
