"""The integer graph between Keras and TFLite: plain data, no TensorFlow, no I/O.

A `Graph` is a list of `Op`s in execution order over a table of `Tensor`s. Tensors are immutable;
passes build new graphs.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


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


@dataclasses.dataclass(frozen=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
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
        metadata: name to UTF-8 text, stored in the file.
    """

    tensors: Mapping[str, Tensor]
    ops: tuple[Op, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def producer(self, tensor_name: str) -> Op | None:
        """Returns the op that writes a tensor, or None for inputs and constants."""
        return next((op for op in self.ops if tensor_name in op.outputs), None)

    def consumers(self, tensor_name: str) -> list[Op]:
        """Returns the ops that read a tensor."""
        return [op for op in self.ops if tensor_name in op.inputs]
