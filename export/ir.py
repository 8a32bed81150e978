"""The integer graph between Keras and TFLite: plain data, no TensorFlow, no I/O.

A `Graph` is a list of `Op`s in execution order over a table of `Tensor`s. Tensors are immutable;
passes build new graphs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ddq_tf.errors import raise_all


class DType(enum.Enum):
    """Element types of the integer graph; the value is TFLite's spelling."""

    FLOAT32 = "FLOAT32"
    INT32 = "INT32"
    INT64 = "INT64"
    UINT8 = "UINT8"
    INT8 = "INT8"
    INT4 = "INT4"
    INT2 = "INT2"

    @property
    def bits(self) -> int:
        """Bits that one element takes in the file."""
        return {"FLOAT32": 32, "INT32": 32, "INT64": 64, "UINT8": 8, "INT8": 8}.get(
            self.value, 4 if self is DType.INT4 else 2
        )

    @property
    def numpy(self) -> np.dtype:
        """The numpy type that holds the values; INT4 and INT2 are held unpacked in int8."""
        return np.dtype("int8" if self.bits < 8 else self.value.lower())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """Affine quantization: real = scale * (code - zero_point).

    Attributes:
        scale: float32, shape (1,) per tensor or (channels,) per channel; all > 0.
        zero_point: int, shared by all channels (0 for weights and biases).
        axis: the channel axis; meaningful when scale has more than one element.
    """

    scale: np.ndarray
    zero_point: int = 0
    axis: int = 0

    def __eq__(self, other: object) -> bool:
        """Whether scale (bit by bit), zero point and axis are equal."""
        if not isinstance(other, Quantization):
            return NotImplemented
        return (
            _same_array(self.scale, other.scale)
            and self.zero_point == other.zero_point
            and self.axis == other.axis
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Tensor:
    """A constant or an activation.

    Attributes:
        name: unique within the graph.
        shape: static shape; a dynamic batch is -1 at axis 0.
        dtype: element type in the file. INT4 and INT2 data are held unpacked in int8.
        quantization: None for float, index and shape tensors.
        data: the constant's values in `shape`, or None for an activation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    quantization: Quantization | None = None
    data: np.ndarray | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the tensor's values are in the file."""
        return self.data is not None

    def __eq__(self, other: object) -> bool:
        """Whether declaration and values are equal."""
        if not isinstance(other, Tensor):
            return NotImplemented
        return (
            (self.name, self.shape, self.dtype) == (other.name, other.shape, other.dtype)
            and self.quantization == other.quantization
            and _same_array(self.data, other.data)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Op:
    """One operator.

    Attributes:
        kind: TFLite's builtin operator name, for example "CONV_2D".
        inputs: tensor names; "" where an optional input is absent.
        outputs: tensor names.
        attrs: the operator's options under the names of TFLite's schema in snake case, for
            example {"padding": "SAME", "stride_h": 1, "fused_activation_function": "NONE"}.
            Enumerations are strings.
        source: name of the Keras layer that the operator comes from.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A whole model.

    Attributes:
        tensors: by name.
        ops: in execution order.
        inputs: tensor names; with the names that the signature shows them under.
        outputs: likewise.
        metadata: name to content of the metadata entries in the file.
    """

    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    metadata: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def producer(self, tensor_name: str) -> Op | None:
        """Returns the op that writes a tensor, or None for inputs and constants."""
        return next((op for op in self.ops if tensor_name in op.outputs), None)

    def consumers(self, tensor_name: str) -> list[Op]:
        """Returns the ops that read a tensor."""
        return [op for op in self.ops if tensor_name in op.inputs]


def prune(graph: Graph) -> Graph:
    """Returns the graph without the tensors that nothing reads or writes any more."""
    used = {*graph.inputs.values(), *graph.outputs.values()}
    used.update(name for op in graph.ops for name in (*op.inputs, *op.outputs))
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in used}
    return dataclasses.replace(graph, tensors=tensors)


def check(graph: Graph) -> None:
    """Checks that a graph is well formed, whatever its operators mean.

    Raises:
        DDQError: listing every tensor and operator that is not.
    """
    problems = [
        f"tensor {tensor.name!r}: {problem}"
        for tensor in graph.tensors.values()
        for problem in _tensor_problems(tensor)
    ]
    problems += [
        f"tensor {tensor.name!r} is filed under the name {name!r}"
        for name, tensor in graph.tensors.items()
        if name != tensor.name
    ]
    raise_all("the integer graph is not well formed:", [*problems, *_flow_problems(graph)])


def _tensor_problems(tensor: Tensor) -> Iterator[str]:
    """Yields what is wrong with one tensor's declaration."""
    if any(size < 0 for size in tensor.shape[1:]) or any(size < -1 for size in tensor.shape[:1]):
        yield f"sizes must be >= 0 (-1 only at axis 0). Received: shape {tensor.shape}"
    if tensor.data is not None and tensor.data.shape != tensor.shape:
        yield f"data must have shape {tensor.shape}. Received: {tensor.data.shape}"
    if tensor.data is not None and tensor.data.dtype != tensor.dtype.numpy:
        yield f"data must be {tensor.dtype.numpy}. Received: {tensor.data.dtype}"
    if tensor.quantization is None:
        return
    scale, axis = tensor.quantization.scale, tensor.quantization.axis
    if scale.dtype != np.float32 or scale.ndim != 1:
        yield f"scale must be a float32 vector. Received: {scale.dtype}, shape {scale.shape}"
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield "every scale must be positive and finite. A dead channel still needs a scale"
    elif scale.size != 1 and not (
        0 <= axis < len(tensor.shape) and tensor.shape[axis] == scale.size
    ):
        yield f"{scale.size} scales do not fit axis {axis} of shape {tensor.shape}"


def _flow_problems(graph: Graph) -> Iterator[str]:
    """Yields tensors that are missing, written twice, or read before they are written."""
    for role, names in (("input", graph.inputs.values()), ("output", graph.outputs.values())):
        for name in names:
            if name not in graph.tensors:
                yield f"graph {role} {name!r} is not among the tensors"
    written = {name for name, tensor in graph.tensors.items() if tensor.is_constant}
    written.update(graph.inputs.values())
    for op in graph.ops:
        label = f"{op.kind} writing {', '.join(op.outputs)}"
        for name in op.inputs:
            if name and name not in written:
                yield f"{label}: input {name!r} is not written by anything before it"
        for name in op.outputs:
            if name not in graph.tensors:
                yield f"{label}: output {name!r} is not among the tensors"
            elif name in written:
                yield f"{label}: output {name!r} is already written"
        written.update(op.outputs)
    for name in graph.outputs.values():
        if name in graph.tensors and name not in written:
            yield f"graph output {name!r} is written by nothing"


def _same_array(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    """Whether two arrays agree in type, shape and every element."""
    if left is None or right is None:
        return left is right
    return left.dtype == right.dtype and np.array_equal(left, right)
