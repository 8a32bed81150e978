"""From a DDQ Keras model to the integer graph: the one place that knows both.

Every operator writes the grid of the quantizer that follows it. BatchNorm folds into scale and
bias; activations need no operator: INT8 saturation at zero point -128 is the ReLU, and a range of
at most 6 the ReLU6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor
from ddq_tf.graph import FlatGraph, FlatNode, FoldedLayer, flatten, fold, grid_of
from ddq_tf.graph.fold import BIAS_MAX, Grid, is_finite
from ddq_tf.layers import (
    DDQActivation,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQSoftmax,
    DDQWeightedLayer,
)

IO_TYPES: Mapping[str, DType] = {
    "int8": DType.INT8,
    "uint8": DType.UINT8,
    "float32": DType.FLOAT32,
}

_ALIASES = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    keras.layers.BatchNormalization,
)


def lower(model: Any, *, input_type: str = "int8", output_type: str = "int8") -> Graph:
    """Returns the integer graph of a DDQ model; all weights still INT8.

    Args:
        model: as `quantize_model` returns it, or built from DDQ layers by hand.
        input_type: "int8", "uint8" or "float32".
        output_type: likewise.

    Raises:
        DDQError: naming every layer that has no integer form, if there are any.
    """
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in IO_TYPES:
            raise DDQError(f"{name} must be one of {sorted(IO_TYPES)}. Received: {value!r}")
    graph = flatten(model)
    raise_all(f"model {model.name!r} cannot be exported:", _problems(graph))
    lowering = _Lowering(graph)
    lowering.enter(IO_TYPES[input_type])
    for node in graph.nodes:
        lowering.visit(node)
    return lowering.leave(IO_TYPES[output_type])


def _problems(graph: FlatGraph) -> list[str]:
    """One line for each layer that has no integer form where it stands."""
    found = []
    for tensor, name in zip(graph.inputs, graph.input_names, strict=True):
        if not all(isinstance(node.layer, DDQActivation) for node in graph.consumers(tensor)):
            found.append(f"input {name!r}: needs a DDQActivation as its only reader")
    for node in graph.nodes:
        problem = _problem(graph, node)
        if problem:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def _problem(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if not is_finite(layer):
        return "holds NaN or infinite values: the training diverged"
    if isinstance(layer, DDQWeightedLayer):
        if keras.activations.serialize(layer.activation) != "linear":
            return "needs activation='linear' and a DDQActivation after it"
        return _needs_quantizer(graph, _end_of_block(graph, node))
    if isinstance(layer, keras.layers.BatchNormalization):
        before = graph.producer(node.inputs[0])
        if before is None or not isinstance(before.layer, DDQWeightedLayer):
            return "needs to follow a DDQ convolution or dense layer"
        return None
    if type(layer) is keras.layers.Add and len(node.inputs) != 2:
        return f"needs exactly two inputs. Received: {len(node.inputs)}"
    if type(layer) in (keras.layers.Add, keras.layers.GlobalAveragePooling2D):
        return _needs_quantizer(graph, node.outputs[0])
    if isinstance(layer, DDQActivation | DDQSoftmax) or type(layer) in (*_ALIASES, *_MOVERS):
        return None
    return "has no integer form; quantize_model makes DDQ layers of Keras layers"


def _needs_quantizer(graph: FlatGraph, tensor: int) -> str | None:
    after = graph.sole_consumer(tensor)
    if after is not None and isinstance(after.layer, DDQActivation):
        return None
    return "needs a DDQActivation as the only reader of its output"


def _end_of_block(graph: FlatGraph, node: FlatNode) -> int:
    """The output of a weighted layer, or of the BatchNorm that follows it."""
    after = graph.sole_consumer(node.outputs[0])
    fused = after is not None and isinstance(after.layer, keras.layers.BatchNormalization)
    return after.outputs[0] if fused and after is not None else node.outputs[0]


class _Lowering:
    """Collects tensors and operators while walking the flat graph."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.names: dict[int, str] = {}
        self.inputs: dict[str, str] = {}

    # Inputs and outputs

    def enter(self, dtype: DType) -> None:
        """Declares the model's inputs, behind a QUANTIZE unless they are int8."""
        graph = self.graph
        rows = zip(graph.inputs, graph.input_names, graph.input_shapes, strict=True)
        for tensor, name, shape in rows:
            (reader, *_) = graph.consumers(tensor)
            grid = grid_of(graph, reader.outputs[0])
            if dtype is DType.INT8:
                self.names[tensor] = self.declare(name, shape, dtype, _quantization(grid))
            else:
                outside = _outside(dtype, _quantization(grid))
                self.declare(name, shape, dtype, outside)
                self.names[tensor] = self.declare(
                    f"{name}_int8", shape, DType.INT8, _quantization(grid)
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
        """Adds an operator."""
        self.ops.append(Op(kind=kind, inputs=reads, outputs=(writes,), attrs=attrs, source=source))

    def result(self, node: FlatNode, tensor: int) -> str:
        """Declares the result of an operator, on the grid of the quantizer that reads `tensor`."""
        quantizer = self.graph.sole_consumer(tensor)
        if quantizer is None:
            raise DDQError(f"layer {node.name!r} has no quantizer after it")
        shape = _output_shape(node)
        grid = grid_of(self.graph, quantizer.outputs[0])
        name = self.declare(quantizer.name, shape, DType.INT8, _quantization(grid))
        self.names[tensor] = self.names[quantizer.outputs[0]] = name
        return name

    # Layers

    def visit(self, node: FlatNode) -> None:
        """Lowers one layer call."""
        layer = node.layer
        if isinstance(layer, DDQWeightedLayer):
            self._weighted(node)
        elif isinstance(layer, DDQActivation):
            self._quantizer(node)
        elif isinstance(layer, DDQSoftmax):
            self._softmax(node)
        elif type(layer) is keras.layers.Add:
            self._add(node)
        elif type(layer) is keras.layers.GlobalAveragePooling2D:
            self._mean(node, keep_dims=bool(layer.keepdims))
        elif type(layer) in _MOVERS:
            _MOVERS[type(layer)](self, node)
        elif node.outputs[0] not in self.names:
            self.names[node.outputs[0]] = self.names[node.inputs[0]]

    def _quantizer(self, node: FlatNode) -> None:
        """Nothing, where the operator before writes this grid already; else QUANTIZE."""
        reads, writes = self.names[node.inputs[0]], node.outputs[0]
        if writes in self.names:
            return
        quantization = _quantization(grid_of(self.graph, writes))
        if self.tensors[reads].quantization == quantization:
            self.names[writes] = reads
            return
        shape = self.tensors[reads].shape
        self.names[writes] = self.declare(node.name, shape, DType.INT8, quantization)
        self.emit("QUANTIZE", (reads,), self.names[writes], source=node.name)

    def _weighted(self, node: FlatNode) -> None:
        layer, folded = node.layer, fold(self.graph, node)
        reads = self.names[node.inputs[0]]
        writes = self.result(node, folded.output)
        weights, bias = self._constants(node, folded, self._scale(reads))
        if isinstance(layer, DDQDense):
            keep = len(node.shapes[0]) > 2
            self.emit(
                "FULLY_CONNECTED",
                (reads, weights, bias),
                writes,
                source=node.name,
                keep_num_dims=keep,
            )
            return
        attrs = {
            "padding": layer.padding.upper(),
            "stride_h": int(layer.strides[0]),
            "stride_w": int(layer.strides[1]),
            "dilation_h_factor": int(layer.dilation_rate[0]),
            "dilation_w_factor": int(layer.dilation_rate[1]),
        }
        kind = "CONV_2D"
        if isinstance(layer, DDQDepthwiseConv2D):
            kind, attrs["depth_multiplier"] = "DEPTHWISE_CONV_2D", int(layer.depth_multiplier)
        self.emit(kind, (reads, weights, bias), writes, source=node.name, **attrs)

    def _constants(
        self, node: FlatNode, folded: FoldedLayer, input_scale: np.float32
    ) -> tuple[str, str]:
        """Declares the INT8 weights and the INT32 bias of a weighted layer."""
        channels = folded.scale.size
        codes, scale = fit_bias(folded, input_scale)
        data, axis = _tflite_layout(node.layer, codes)
        weights = self.declare(
            f"{node.name}/kernel",
            data.shape,
            DType.INT8,
            Quantization(scale=scale, axis=axis),
            data,
        )
        unit = np.float32(input_scale) * scale
        bias = np.clip(np.rint(folded.bias / unit.astype(np.float64)), -BIAS_MAX, BIAS_MAX)
        name = self.declare(
            f"{node.name}/bias",
            (channels,),
            DType.INT32,
            Quantization(scale=unit),
            bias.astype(np.int32),
        )
        return weights, name

    def _scale(self, name: str) -> np.float32:
        quantization = self.tensors[name].quantization
        if quantization is None:
            raise DDQError(f"tensor {name!r} is not quantized")
        return np.float32(quantization.scale[0])

    def _softmax(self, node: FlatNode) -> None:
        grid = grid_of(self.graph, node.outputs[0])
        reads = self.names[node.inputs[0]]
        shape = self.tensors[reads].shape
        name = self.declare(node.name, shape, DType.INT8, _quantization(grid))
        self.names[node.outputs[0]] = name
        self.emit("SOFTMAX", (reads,), name, source=node.name, beta=1.0)

    def _add(self, node: FlatNode) -> None:
        reads = tuple(self.names[tensor] for tensor in node.inputs)
        self.emit("ADD", reads, self.result(node, node.outputs[0]), source=node.name)

    def _mean(self, node: FlatNode, *, keep_dims: bool) -> None:
        reads = self.names[node.inputs[0]]
        writes = self.result(node, node.outputs[0])
        axes = self.constant(f"{node.name}/axes", [1, 2])
        self.emit("MEAN", (reads, axes), writes, source=node.name, keep_dims=keep_dims)

    def _moved(self, node: FlatNode) -> tuple[str, str]:
        """The input, and an output on the same grid."""
        reads = self.names[node.inputs[0]]
        shape = _output_shape(node)
        writes = self.declare(node.name, shape, DType.INT8, self.tensors[reads].quantization)
        self.names[node.outputs[0]] = writes
        return reads, writes

    def pool(self, node: FlatNode) -> None:
        """MAX_POOL_2D, AVERAGE_POOL_2D, or MEAN where the average takes all of the input."""
        layer = node.layer
        average = isinstance(layer, keras.layers.AveragePooling2D)
        if average and tuple(node.shapes[0][1:3]) == tuple(layer.pool_size):
            self._mean(node, keep_dims=True)
            return
        reads, writes = self._moved(node)
        self.emit(
            "AVERAGE_POOL_2D" if average else "MAX_POOL_2D",
            (reads,),
            writes,
            source=node.name,
            padding=layer.padding.upper(),
            filter_height=int(layer.pool_size[0]),
            filter_width=int(layer.pool_size[1]),
            stride_h=int(layer.strides[0]),
            stride_w=int(layer.strides[1]),
        )

    def pad(self, node: FlatNode) -> None:
        """PAD."""
        reads, writes = self._moved(node)
        (top, bottom), (left, right) = node.layer.padding
        rows = [[0, 0], [top, bottom], [left, right], [0, 0]]
        paddings = self.constant(f"{node.name}/paddings", rows)
        self.emit("PAD", (reads, paddings), writes, source=node.name)

    def reshape(self, node: FlatNode) -> None:
        """RESHAPE."""
        reads, writes = self._moved(node)
        shape = [-1, *self.tensors[writes].shape[1:]]
        target = self.constant(f"{node.name}/shape", shape)
        self.emit("RESHAPE", (reads, target), writes, source=node.name, new_shape=tuple(shape))


_MOVERS = {
    keras.layers.MaxPooling2D: _Lowering.pool,
    keras.layers.AveragePooling2D: _Lowering.pool,
    keras.layers.ZeroPadding2D: _Lowering.pad,
    keras.layers.Flatten: _Lowering.reshape,
    keras.layers.Reshape: _Lowering.reshape,
}


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
    if isinstance(layer, DDQDepthwiseConv2D):
        height, width = codes.shape[:2]
        return np.ascontiguousarray(codes.reshape(1, height, width, -1)), 3
    return np.ascontiguousarray(codes.transpose(3, 0, 1, 2)), 0


def _quantization(grid: Grid) -> Quantization:
    """An INT8 tensor's quantization; codes that start at 0 are stored from -128 up."""
    zero_point = -128 if grid.qmin == 0 else 0
    return Quantization(scale=np.array([grid.scale], np.float32), zero_point=zero_point)


def _outside(dtype: DType, inner: Quantization | None) -> Quantization | None:
    """The quantization of an input or output that mirrors an INT8 tensor."""
    if dtype is DType.FLOAT32 or inner is None:
        return None
    return Quantization(scale=inner.scale, zero_point=inner.zero_point + 128)


def _output_shape(node: FlatNode) -> tuple[int | None, ...]:
    shapes = list(node.shapes)
    argument = shapes if type(node.layer) is keras.layers.Add else shapes[0]
    shape = tuple(node.layer.compute_output_shape(argument))
    if isinstance(node.layer, keras.layers.Flatten) and shape[1] is None:
        return (None, math.prod(d or 1 for d in shapes[0][1:]))
    return shape
