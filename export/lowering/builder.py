"""Collects the tensors and operators of the integer graph, whatever the layers are.

The rules of `ddq_tf.kinds` say what each layer is in terms of what stands here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor
from ddq_tf.export.lowering.floats import Steps
from ddq_tf.export.lowering.kernels import fit_bias, integer_bias
from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.graph.flatten import unused
from ddq_tf.grids import FoldedLayer, Grid, fold, grid_of
from ddq_tf.grids.affine import continues_chain, is_affine
from ddq_tf.grids.fold import fixed_grid_after, fold_in_float, quantizer_after
from ddq_tf.kinds import Output, output_of, rule_of
from ddq_tf.layers import FloatLayer, rounds_activations
from ddq_tf.layers.formulas import Formula, Value

_MOST_INPUTS = 5  # that XNNPACK concatenates at once
_MOST_CODE = 2.0**30

# Of an input that nothing reads.
_UNIT = Quantization(scale=np.ones(1, np.float32))

# From a kernel's codes in Keras's axis order to (codes in TFLite's, the channel axis).
Layout = Callable[[np.ndarray], tuple[np.ndarray, int]]


class Lowering:
    """Collects tensors and operators while walking the flat graph.

    Attributes:
        float_islands: whether what XNNPACK has no integer kernel for is computed in float.
    """

    def __init__(self, graph: FlatGraph, float_islands: bool) -> None:
        self.graph = graph
        self.float_islands = float_islands
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.names: dict[int, str] = {}
        self.inputs: dict[str, str] = {}
        self._clamped: dict[str, str] = {}

    # Inputs and outputs

    def enter(self, outside: DType, states: Container[str] = ()) -> None:
        """Declares the model's inputs, behind a QUANTIZE unless they are int8.

        Args:
            outside: the type of the inputs.
            states: names of those that are int8 anyway.
        """
        graph = self.graph
        rows = zip(graph.inputs, graph.input_names, graph.input_shapes, strict=True)
        for tensor, name, shape in rows:
            readers = graph.consumers(tensor)
            grid = quantization_of(grid_of(graph, readers[0].outputs[0])) if readers else _UNIT
            dtype = DType.INT8 if name in states else outside
            if dtype is DType.INT8:
                self.names[tensor] = self.declare(name, shape, dtype, grid)
            else:
                self.declare(name, shape, dtype, _outside(dtype, grid))
                if readers:
                    self.names[tensor] = self.declare(f"{name}_int8", shape, DType.INT8, grid)
                    self.emit("QUANTIZE", (name,), self.names[tensor], source=name)
            self.inputs[name] = name

    def leave(self, outside: DType, labels: Sequence[str], states: Container[str] = ()) -> Graph:
        """Declares the outputs and returns the graph.

        Args:
            outside: the type of the outputs.
            labels: their names for users; empty for those of the tensors.
            states: labels of those that are int8 anyway.
        """
        outputs: dict[str, str] = {}
        for place, tensor in enumerate(self.graph.outputs):
            name = self.names[tensor]
            label = labels[place] if labels else unused(name, outputs)
            dtype = DType.INT8 if label in states else outside
            if dtype is not DType.INT8:
                inner = self.tensors[name]
                grid = _outside(dtype, inner.quantization)
                kind = "DEQUANTIZE" if dtype is DType.FLOAT32 else "QUANTIZE"
                name = self.declare(f"{inner.name}_{dtype.value}", inner.shape, dtype, grid)
                self.emit(kind, (inner.name,), name, source=inner.name)
            outputs[label] = name
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
        unique = unused(name, self.tensors)
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
        alone = self.graph.calls(quantizer.layer) == 1
        return quantizer.name if alone else f"{writer}/codes"

    def fused_activation(self, tensor: int) -> str:
        """The clamp between `tensor` and the quantizer that reads it, as TFLite spells it."""
        after = self.graph.sole_consumer(tensor)
        if after is not None and rule_of(after.layer).cuts:
            return "RELU6" if after.layer.max_value and self._reaches_6(tensor) else "RELU"
        if after is not None and rounds_activations(after.layer):
            grid = grid_of(self.graph, after.outputs[0])
            if grid.is_narrow and grid.qmin == 0:
                return "RELU"
        return "NONE"

    def _reaches_6(self, tensor: int) -> bool:
        """Whether 6 in codes fits into int32, as LiteRT asks; beyond that it clips nothing."""
        reader = quantizer_after(self.graph, tensor)
        scale = 1.0 if reader is None else float(grid_of(self.graph, reader.outputs[0]).scale)
        return scale * _MOST_CODE > 6

    def fixed(self, node: FlatNode) -> str:
        """Declares the result of an operator whose grid TFLite fixes."""
        tensor, label = node.outputs[0], node.name
        after = fixed_grid_after(self.graph, tensor)
        if after is not None:
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

    def alike(self, name: str, like: str, shape: tuple[int | None, ...]) -> str:
        """Declares a tensor of another shape on the grid of one that is there."""
        inner = self.tensors[like]
        return self.declare(name, shape, inner.dtype, inner.quantization)

    def codes(self, name: str, codes: np.ndarray, scale: float) -> str:
        """Adds an INT8 constant with one scale."""
        grid = Quantization(scale=np.array([scale], np.float32))
        return self.declare(name, codes.shape, DType.INT8, grid, codes.astype(np.int8))

    def fixed_codes(self, node: FlatNode, values: Any) -> None:
        """Adds what a node writes as a constant, on the grid of the quantizer behind it.

        Args:
            node: writes the same for each example.
            values: of one, without the batch.
        """
        after = quantizer_after(self.graph, node.outputs[0])
        if after is None:
            raise DDQError(f"layer {node.name!r} has no quantizer after it")
        grid = grid_of(self.graph, after.outputs[0])
        rounded = as_float64(after.layer(keras.ops.expand_dims(values, 0)))
        codes = np.rint(rounded / float(grid.scale)) + grid.zero_point
        name = self.declare(
            f"{node.name}/codes",
            codes.shape,
            DType.INT8,
            quantization_of(grid),
            codes.astype(np.int8),
        )
        for written in (node.outputs[0], after.inputs[0], after.outputs[0]):
            self.names[written] = name

    # Operators that several rules write

    def weighted(self, kind: str, node: FlatNode, layout: Layout, **attrs: Any) -> None:
        """An operator with a kernel, the BatchNorm behind it folded in, and its ReLU."""
        if isinstance(node.layer, FloatLayer):
            self._weighted_in_floats(kind, node, layout, **attrs)
            return
        folded = fold(self.graph, node)
        reads = self.names[node.inputs[0]]
        attrs["fused_activation_function"] = self.fused_activation(folded.output)
        writes = self.result(node, folded.output, fuses=True)
        operands = self._ordered(kind, node, (reads, *self._kernel(node, folded, layout)))
        self.emit(kind, operands, writes, source=node.name, **attrs)

    def _weighted_in_floats(self, kind: str, node: FlatNode, layout: Layout, **attrs: Any) -> None:
        kernel, bias, output = fold_in_float(self.graph, node)
        attrs["fused_activation_function"] = self.fused_activation(output)
        weights = self.number(f"{node.name}/kernel", layout(kernel)[0])
        added = self.number(f"{node.name}/bias", bias)

        def formula(x: Value) -> Value:
            operands = self._ordered(kind, node, (x.tensor, weights, added))
            made = x.step(kind, *operands, shape=output_shape(node), **attrs)
            return Value(x.step, made)

        self.island(node, formula, writes=self.result(node, output))

    def _ordered(self, kind: str, node: FlatNode, operands: tuple[str, ...]) -> tuple[str, ...]:
        """The operands image, weights, bias as an operator takes them."""
        if kind != "TRANSPOSE_CONV":
            return operands
        image, weights, bias = operands
        shape = self.constant(f"{node.name}/shape", [1, *output_shape(node)[1:]])
        return (shape, weights, image, bias)

    def affine(self, node: FlatNode) -> None:
        """A chain of layers that multiply and shift each channel: DEPTHWISE_CONV_2D 1x1."""
        if not is_affine(self.graph, node) or continues_chain(self.graph, node):
            return
        folded = fold(self.graph, node)
        clamp = self.fused_activation(folded.output)
        writes = self.result(node, folded.output, fuses=True)
        self._depthwise(node, folded, writes, fused_activation_function=clamp)

    def depthwise(
        self,
        node: FlatNode,
        codes: np.ndarray,
        scale: float,
        bias: float,
        writes: str,
        **attrs: Any,
    ) -> None:
        """DEPTHWISE_CONV_2D with constants of its own, the same for all channels.

        Args:
            node: what it computes.
            codes: int8, (height, width, channels, 1).
            scale: of the codes.
            bias: real.
            writes: its output.
            **attrs: of the operator.
        """
        channels = codes.shape[2]
        folded = FoldedLayer(
            node=node,
            batch_norm=None,
            output=node.outputs[0],
            make_codes=lambda: codes,
            scale=np.full(channels, scale, np.float32),
            bias=np.full(channels, bias),
        )
        self._depthwise(node, folded, writes, **attrs)

    def _depthwise(self, node: FlatNode, folded: FoldedLayer, writes: str, **attrs: Any) -> None:
        def layout(codes: np.ndarray) -> tuple[np.ndarray, int]:
            return codes.reshape(1, *codes.shape[:2], -1), 3

        operands = (self.names[node.inputs[0]], *self._kernel(node, folded, layout))
        fixed = {"padding": "VALID", "depth_multiplier": 1}
        self.emit("DEPTHWISE_CONV_2D", operands, writes, source=node.name, **fixed, **attrs)

    def _kernel(self, node: FlatNode, folded: FoldedLayer, layout: Layout) -> tuple[str, str]:
        """Declares the INT8 weights and the INT32 bias of an operator."""
        input_scale = self.scale(self.names[node.inputs[0]])
        codes, scale = fit_bias(folded, input_scale)
        data, axis = layout(codes)
        data = np.ascontiguousarray(data)
        grid = Quantization(scale=scale, axis=axis)
        weights = self.declare(f"{node.name}/kernel", data.shape, DType.INT8, grid, data)
        unit = np.float32(input_scale) * scale
        bias = integer_bias(folded, unit)
        grid = Quantization(scale=unit)
        return weights, self.declare(f"{node.name}/bias", bias.shape, DType.INT32, grid, bias)

    def island(self, node: FlatNode, formula: Formula, *, writes: str | None = None) -> None:
        """DEQUANTIZE, operators on floats, QUANTIZE.

        XNNPACK runs all of them with the integer operators around, as one part.

        Args:
            node: what computes.
            formula: what it computes of its input.
            writes: an INT8 tensor; None for one on the grid of the quantizer behind the node.
        """
        reads = self.names[node.inputs[0]]
        real = self.declare(f"{node.name}/real", self.tensors[reads].shape, DType.FLOAT32, None)
        self.emit("DEQUANTIZE", (reads,), real, source=node.name)
        made = formula(Value(Steps(self, node), real)).tensor
        writes = self.result(node, node.outputs[0]) if writes is None else writes
        self.emit("QUANTIZE", (made,), writes, source=node.name)

    def number(self, name: str, value: Any) -> str:
        """Adds a constant: int32 if it is whole numbers, else float32."""
        data = np.atleast_1d(np.asarray(value))
        if data.dtype.kind != "f":
            return self.constant(name, data)
        data = np.ascontiguousarray(data, np.float32)
        return self.declare(name, data.shape, DType.FLOAT32, None, data)

    def mean(self, node: FlatNode, *, keep_dims: bool) -> None:
        """MEAN over height and width."""
        reads = self.names[node.inputs[0]]
        writes = self.result(node, node.outputs[0])
        axes = self.constant(f"{node.name}/axes", [1, 2])
        self.emit("MEAN", (reads, axes), writes, source=node.name, keep_dims=keep_dims)

    def reshape(self, node: FlatNode, reads: str, writes: str) -> None:
        """RESHAPE between two tensors that are declared."""
        shape = [-1, *self.tensors[writes].shape[1:]]
        target = self.constant(f"{node.name}/shape", shape)
        self.emit("RESHAPE", (reads, target), writes, source=node.name, new_shape=tuple(shape))

    def concatenate(self, node: FlatNode, names: Sequence[str], axis: int, writes: str) -> None:
        """CONCATENATION of any number of tensors on one grid."""
        if len(names) > _MOST_INPUTS:
            names = [self.joined(node, names[:-1], axis), names[-1]]
        self.emit("CONCATENATION", tuple(names), writes, source=node.name, axis=axis)

    def joined(self, node: FlatNode, names: Sequence[str], axis: int) -> str:
        """The name of an inner concatenation, `_MOST_INPUTS` at a time."""
        while len(names) > 1:
            joined = [self.tensors[name] for name in names[:_MOST_INPUTS]]
            shape: list[int | None] = list(joined[0].shape)
            shape[axis] = sum(tensor.shape[axis] for tensor in joined)
            part = self.alike(f"{node.name}/part", names[0], tuple(shape))
            reads = tuple(tensor.name for tensor in joined)
            self.emit("CONCATENATION", reads, part, source=node.name, axis=axis)
            names = [part, *names[_MOST_INPUTS:]]
        return names[0]

    # Changes of grid

    def requantize(self, node: FlatNode) -> None:
        """Nothing, where the operator before writes a quantizer's grid already; else QUANTIZE."""
        if node.outputs[0] in self.names:
            return
        grid = grid_of(self.graph, node.outputs[0])
        name = self.names[node.inputs[0]]
        if self.tensors[name].quantization != quantization_of(grid):
            *inner, _ = grid.zero_points
            for zero_point in inner:
                step = dataclasses.replace(quantization_of(grid), zero_point=zero_point)
                name = self._requantized(node, name, step, is_inner=True)
            name = self._requantized(node, name, quantization_of(grid))
        self.names[node.outputs[0]] = name

    def clip(self, node: FlatNode) -> None:
        """A ReLU that stands alone: nothing, or a QUANTIZE from which codes saturate.

        The grid keeps its step. With zero point -128 all below 0 saturates; with the zero point
        that puts the ceiling at code 127, all above it.
        """
        if node.outputs[0] in self.names:
            return
        name = self.names[node.inputs[0]]
        grid = quantization_of(grid_of(self.graph, node.outputs[0]))
        if node.layer.max_value:
            highest = int(np.rint(node.layer.max_value / float(grid.scale[0])))
            if highest < grid_of(self.graph, node.inputs[0]).qmax:
                above = Quantization(scale=grid.scale, zero_point=max(127 - highest, -128))
                name = self._requantized(node, name, above, is_inner=True)
        self.names[node.outputs[0]] = self._requantized(node, name, grid)

    def _requantized(
        self, node: FlatNode, reads: str, grid: Quantization, *, is_inner: bool = False
    ) -> str:
        """The name of a tensor's values on a grid; the tensor's own if it lies there.

        Args:
            node: what computes the values.
            reads: the tensor.
            grid: where the values belong.
            is_inner: whether more steps lead to the layer's output.
        """
        if self.tensors[reads].quantization == grid:
            return reads
        label = f"{node.name}/unclamped" if is_inner else self.label(node, node.name)
        name = self.declare(label, self.tensors[reads].shape, DType.INT8, grid)
        self.emit("QUANTIZE", (reads,), name, source=node.name)
        return name

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
    merges = len(shapes) > 1 or output_of(node) is Output.SHARED
    return tuple(layer.compute_output_shape(shapes if merges else shapes[0]))
