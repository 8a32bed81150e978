"""Sums, products, means, activations and changes of grid."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from ddq_tf.export.ir import DType, Quantization
from ddq_tf.export.lowering.builder import Lowering, quantization_of
from ddq_tf.export.lowering.weighted import hard_sigmoid
from ddq_tf.graph import FlatNode, grid_of
from ddq_tf.layers import activation_name

_BINARY = {
    keras.layers.Add: "ADD",
    keras.layers.Multiply: "MUL",
    keras.layers.Subtract: "SUB",
}


def binary(into: Lowering, node: FlatNode) -> None:
    """ADD, SUB or MUL."""
    reads = tuple(into.names[tensor] for tensor in node.inputs)
    clamp = into.fused_activation(node.outputs[0])
    writes = into.result(node, node.outputs[0], fuses=True)
    kind = _BINARY[type(node.layer)]
    into.emit(kind, reads, writes, source=node.name, fused_activation_function=clamp)


def border_gain(into: Lowering, node: FlatNode) -> None:
    """MUL with a constant image of one channel."""
    layer = node.layer
    reads = into.names[node.inputs[0]]
    clamp = into.fused_activation(node.outputs[0])
    writes = into.result(node, node.outputs[0], fuses=True)
    grid = Quantization(scale=np.array([layer.scale], np.float32))
    codes = layer.codes.astype(np.int8)
    gains = into.declare(f"{node.name}/gains", codes.shape, DType.INT8, grid, codes)
    into.emit("MUL", (reads, gains), writes, source=node.name, fused_activation_function=clamp)


def global_average(into: Lowering, node: FlatNode) -> None:
    """MEAN over height and width."""
    mean(into, node, keep_dims=bool(node.layer.keepdims))


def mean(into: Lowering, node: FlatNode, *, keep_dims: bool) -> None:
    """MEAN over height and width."""
    reads = into.names[node.inputs[0]]
    writes = into.result(node, node.outputs[0])
    axes = into.constant(f"{node.name}/axes", [1, 2])
    into.emit("MEAN", (reads, axes), writes, source=node.name, keep_dims=keep_dims)


def quantizer(into: Lowering, node: FlatNode) -> None:
    """Nothing, where the operator before writes this grid already; else QUANTIZE."""
    if node.outputs[0] not in into.names:
        grid = grid_of(into.graph, node.outputs[0])
        name = into.names[node.inputs[0]]
        if into.tensors[name].quantization != quantization_of(grid):
            *inner, _ = grid.zero_points
            for zero_point in inner:
                step = dataclasses.replace(quantization_of(grid), zero_point=zero_point)
                name = requantized(into, node, name, step, is_inner=True)
            name = requantized(into, node, name, quantization_of(grid))
        into.names[node.outputs[0]] = name


def requantized(
    into: Lowering, node: FlatNode, reads: str, grid: Quantization, *, is_inner: bool = False
) -> str:
    """The name of a tensor's values on a grid; the tensor's own if it lies there.

    Args:
        into: where to emit QUANTIZE.
        node: what computes the values.
        reads: the tensor.
        grid: where the values belong.
        is_inner: whether more steps lead to the layer's output.
    """
    if into.tensors[reads].quantization == grid:
        return reads
    label = f"{node.name}/unclamped" if is_inner else into.label(node, node.name)
    name = into.declare(label, into.tensors[reads].shape, DType.INT8, grid)
    into.emit("QUANTIZE", (reads,), name, source=node.name)
    return name


def relu(into: Lowering, node: FlatNode) -> None:
    """Nothing where a quantizer's saturation does it; else a QUANTIZE from which codes saturate.

    The grid keeps its step. With zero point -128 all below 0 saturates; with the zero point that
    puts 6 at code 127, all above 6.
    """
    if node.outputs[0] in into.names:
        return
    name = into.names[node.inputs[0]]
    grid = quantization_of(grid_of(into.graph, node.outputs[0]))
    if node.layer.max_value:
        highest = int(np.rint(node.layer.max_value / float(grid.scale[0])))
        if highest < 255:
            above = Quantization(scale=grid.scale, zero_point=max(127 - highest, -128))
            name = requantized(into, node, name, above, is_inner=True)
    into.names[node.outputs[0]] = requantized(into, node, name, grid)


_TABLES = {"sigmoid": "LOGISTIC", "tanh": "TANH"}
_FREE_TABLES = {"elu": "ELU", "gelu": "GELU"}


def activation(into: Lowering, node: FlatNode) -> None:
    """LOGISTIC, TANH or hard sigmoid on a fixed grid; ELU, GELU; the others are no operators."""
    name = activation_name(node.layer)
    if name == "hard_sigmoid":
        hard_sigmoid(into, node)
    elif name in _TABLES:
        reads = into.names[node.inputs[0]]
        into.emit(_TABLES[name], (reads,), into.fixed(node), source=node.name)
    elif name in _FREE_TABLES:
        reads = into.names[node.inputs[0]]
        writes = into.result(node, node.outputs[0])
        into.emit(_FREE_TABLES[name], (reads,), writes, source=node.name)
    else:
        into.names[node.outputs[0]] = into.names[node.inputs[0]]


def leaky_relu(into: Lowering, node: FlatNode) -> None:
    """LEAKY_RELU on its input's grid; its slope is a multiple of 1/256."""
    reads, writes = into.moved(node, rounds=True)
    alpha = float(node.layer.negative_slope)
    into.emit("LEAKY_RELU", (reads,), writes, source=node.name, alpha=alpha)


def softmax(into: Lowering, node: FlatNode) -> None:
    """SOFTMAX."""
    into.emit(
        "SOFTMAX", (into.names[node.inputs[0]],), into.fixed(node), source=node.name, beta=1.0
    )
