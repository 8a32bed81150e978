"""Collects the tensors and operators of the integer graph, whatever the layers are."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor
from ddq_tf.graph import FlatGraph, FlatNode, grid_of
from ddq_tf.graph.fold import Grid, quantizer_after
from ddq_tf.layers import DDQActivation, DDQFixedGrid

_MERGES = (
    keras.layers.Add,
    keras.layers.Concatenate,
    keras.layers.Multiply,
    keras.layers.Subtract,
)


class Lowering:
    """Collects tensors and operators while walking the flat graph."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.names: dict[int, str] = {}
        self.inputs: dict[str, str] = {}
        self._clamped: dict[str, str] = {}

    # Inputs and outputs

    def enter(self, dtype: DType) -> None:
        """Declares the model's inputs, behind a QUANTIZE unless they are int8."""
        graph = self.graph
        rows = zip(graph.inputs, graph.input_names, graph.input_shapes, strict=True)
        for tensor, name, shape in rows:
            (reader, *_) = graph.consumers(tensor)
            grid = grid_of(graph, reader.outputs[0])
            if dtype is DType.INT8:
                self.names[tensor] = self.declare(name, shape, dtype, quantization_of(grid))
            else:
                outside = _outside(dtype, quantization_of(grid))
                self.declare(name, shape, dtype, outside)
                self.names[tensor] = self.declare(
                    f"{name}_int8", shape, DType.INT8, quantization_of(grid)
                )
                self.emit("QUANTIZE", (name,), self.names[tensor], source=name)
            self.inputs[name] = name

    def leave(self, dtype: DType) -> Graph:
        """Declares the outputs and returns the graph."""
        outputs = {}
        for tensor in self.graph.outputs:
            name = self.names[tensor]
            if dtype is not DType.INT8:
                inner = self.tensors[name]
                outside = _outside(dtype, inner.quantization)
                kind = "DEQUANTIZE" if dtype is DType.FLOAT32 else "QUANTIZE"
                name = self.declare(f"{inner.name}_{dtype.value}", inner.shape, dtype, outside)
                self.emit(kind, (inner.name,), name, source=inner.name)
            outputs[self.names[tensor]] = name
        return Graph(tensors=self.tensors, ops=tuple(self.ops), inputs=self.inputs, outputs=outputs)

    # Building blocks

    def declare(
        self,
        name: str,
        shape: tuple[int | None, ...],
        dtype: DType,
        quantization: Quantization | None,
        data: np.ndarray | None = None,
    ) -> str:
        """Adds a tensor under a name that is still free; returns the name."""
        unique, count = name, 1
        while unique in self.tensors:
            count += 1
            unique = f"{name}_{count}"
        self.tensors[unique] = Tensor(
            name=unique,
            shape=tuple(-1 if d is None else int(d) for d in shape),
            dtype=dtype,
            quantization=quantization,
            data=data,
        )
        return unique

    def constant(self, name: str, values: Any) -> str:
        """Adds an int32 constant."""
        data = np.asarray(values, np.int32)
        return self.declare(name, data.shape, DType.INT32, None, data)

    def emit(
        self, kind: str, reads: tuple[str, ...], writes: str, *, source: str, **attrs: Any
    ) -> None:
        """Adds an operator, and the QUANTIZE that bounds the other end of a narrow result."""
        self.ops.append(Op(kind=kind, inputs=reads, outputs=(writes,), attrs=attrs, source=source))
        if writes in self._clamped:
            self.emit("QUANTIZE", (writes,), self._clamped.pop(writes), source=source)

    def result(self, node: FlatNode, tensor: int, *, fuses: bool = False) -> str:
        """Declares the result of an operator, on the grid of the quantizer that reads `tensor`.

        Args:
            node: what writes it.
            tensor: its output.
            fuses: whether the operator takes `fused_activation`.

        Returns:
            The tensor for the operator to write. For most narrow grids it is an inner one, from
            which `emit` goes on to the result.
        """
        quantizer = quantizer_after(self.graph, tensor)
        if quantizer is None:
            raise DDQError(f"layer {node.name!r} has no quantizer after it")
        grid = grid_of(self.graph, quantizer.outputs[0])
        label = self.label(quantizer, node.name)
        name = self.declare(label, output_shape(node), DType.INT8, quantization_of(grid))
        for written in (tensor, quantizer.inputs[0], quantizer.outputs[0]):
            self.names[written] = name
        if not grid.is_narrow or (fuses and grid.qmin == 0):
            return name
        first = dataclasses.replace(quantization_of(grid), zero_point=grid.zero_points[0])
        inner = self.declare(f"{label}/unclamped", output_shape(node), DType.INT8, first)
        self._clamped[inner] = name
        return inner

    def label(self, quantizer: FlatNode, writer: str) -> str:
        """The quantizer's name, or one made of the writing layer's where it has several calls.

        A tensor that bears a layer's name holds that layer's output.
        """
        calls = [n for n in self.graph.nodes if n.layer is quantizer.layer]
        return quantizer.name if len(calls) == 1 else f"{writer}/codes"

    def fused_activation(self, tensor: int) -> str:
        """The clamp between `tensor` and the quantizer that reads it, as TFLite spells it."""
        after = self.graph.sole_consumer(tensor)
        if after is not None and type(after.layer) is keras.layers.ReLU:
            return "RELU6" if after.layer.max_value else "RELU"
        if after is not None and isinstance(after.layer, DDQActivation):
            grid = grid_of(self.graph, after.outputs[0])
            if grid.is_narrow and grid.qmin == 0:
                return "RELU"
        return "NONE"

    def fixed(self, node: FlatNode) -> str:
        """Declares the result of an operator whose grid TFLite fixes."""
        tensor, label = node.outputs[0], node.name
        after = self.graph.sole_consumer(tensor)
        if after is not None and isinstance(after.layer, DDQFixedGrid):
            tensor = after.outputs[0]
            label = after.name
        grid = quantization_of(grid_of(self.graph, tensor))
        name = self.declare(label, output_shape(node), DType.INT8, grid)
        self.names[tensor] = self.names[node.outputs[0]] = name
        return name

    def moved(self, node: FlatNode, *, rounds: bool = False) -> tuple[str, str]:
        """The input of a node, and an output on the same grid.

        Args:
            node: what moves values, or picks among them.
            rounds: whether it computes new ones; the layer's own output is then not rounded yet.
        """
        reads = self.names[node.inputs[0]]
        grid = self.tensors[reads].quantization
        label = f"{node.name}/codes" if rounds else node.name
        writes = self.declare(label, output_shape(node), DType.INT8, grid)
        self.names[node.outputs[0]] = writes
        return reads, writes

    def scale(self, name: str) -> np.float32:
        """The scale of a tensor."""
        quantization = self.tensors[name].quantization
        if quantization is None:
            raise DDQError(f"tensor {name!r} is not quantized")
        return np.float32(quantization.scale[0])


def quantization_of(grid: Grid) -> Quantization:
    """An INT8 tensor's quantization; codes that start at 0 are stored from -128 up."""
    return Quantization(scale=np.array([grid.scale], np.float32), zero_point=grid.zero_point)


def _outside(dtype: DType, inner: Quantization | None) -> Quantization | None:
    """The quantization of an input or output that mirrors an INT8 tensor."""
    if dtype is DType.FLOAT32 or inner is None:
        return None
    return Quantization(scale=inner.scale, zero_point=inner.zero_point + 128)


def output_shape(node: FlatNode) -> tuple[int | None, ...]:
    """Returns the shape that a layer's call writes, None for what is free."""
    layer, shapes = node.layer, list(node.shapes)
    if isinstance(layer, keras.layers.Flatten):
        return (shapes[0][0], math.prod(d or 1 for d in shapes[0][1:]))
    argument = shapes if isinstance(layer, _MERGES) else shapes[0]
    return tuple(layer.compute_output_shape(argument))
