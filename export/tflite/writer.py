"""The integer graph as the bytes of a .tflite file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import operators, packing
from ddq_tf.export.ir import DType, Graph, Op, Tensor, check
from ddq_tf.export.tflite.layout import (
    ENUMS,
    SCHEMA_VERSION,
    SIGNATURE,
    SOURCES,
    camel_case,
    members,
)
from ddq_tf.export.tflite.sharing import Buffers, Tables, pack


def write(graph: Graph, *, keep_names: bool = False) -> bytes:
    """Serializes a graph.

    Args:
        graph: float attributes are stored as float32; everything else is stored exactly.
        keep_names: whether to keep the names of all tensors and the source layers of the ops.
            Otherwise only the graph's inputs and outputs are named.

    Returns:
        The content of a .tflite file.

    Raises:
        DDQError: if the graph is not well formed, or holds what TFLite cannot express.
    """
    check(graph)
    metadata = dict(graph.metadata)
    if keep_names and any(op.source for op in graph.ops):
        metadata[SOURCES] = json.dumps([op.source for op in graph.ops]).encode()
    return pack(_Writer(graph, keep_names).model(metadata))


class _Writer:
    """The tables of one file."""

    def __init__(self, graph: Graph, keep_names: bool):
        self.graph = graph
        ends = {*graph.inputs.values(), *graph.outputs.values()}
        self.named = set(graph.tensors) if keep_names else ends
        self.index = {name: position for position, name in enumerate(graph.tensors)}
        self.codes: dict[tuple[str, int], int] = {}
        self.buffers = Buffers()
        self.tables = Tables()

    def model(self, metadata: Mapping[str, bytes]) -> schema.ModelT:
        """Returns the root table."""
        graph = self.graph
        subgraph = schema.SubGraphT(
            name="main",
            tensors=[self.tensor(tensor) for tensor in graph.tensors.values()],
            inputs=self.indices(graph.inputs.values()),
            outputs=self.indices(graph.outputs.values()),
            operators=[self.operator(op) for op in graph.ops],
        )
        return schema.ModelT(
            version=SCHEMA_VERSION,
            description="ddq_tf",
            operatorCodes=[_operator_code(kind, version) for kind, version in self.codes],
            subgraphs=[subgraph],
            signatureDefs=[self.signature()],
            metadata=[
                schema.MetadataT(name=name, buffer=self.buffers.add(content))
                for name, content in metadata.items()
            ],
            buffers=self.buffers.items,
        )

    def indices(self, names: Iterable[str]) -> np.ndarray:
        """Returns tensor indices; -1 for an absent optional input."""
        return np.array([self.index[name] if name else -1 for name in names], np.int32)

    def tensor(self, tensor: Tensor) -> Any:
        """Returns a tensor's table, its data added to the buffers."""
        table = schema.TensorT(
            shape=np.array([1 if size < 0 else size for size in tensor.shape], np.int32),
            shapeSignature=np.array(tensor.shape, np.int32) if -1 in tensor.shape else None,
            type=getattr(schema.TensorType, tensor.dtype.value),
            hasRank=not tensor.shape,  # without it, an empty shape is an unknown one
            name=tensor.name if tensor.name in self.named else None,
        )
        if tensor.data is not None:
            table.buffer = self.buffers.add(_constant(tensor.name, tensor.dtype, tensor.data))
        grid = tensor.quantization
        if grid is not None:
            table.quantization = self.tables.add(
                schema.QuantizationParametersT(
                    scale=grid.scale,
                    zeroPoint=np.full(grid.scale.size, grid.zero_point, np.int64),
                    quantizedDimension=grid.axis,
                )
            )
        return self.tables.add(table)

    def operator(self, op: Op) -> schema.OperatorT:
        """Returns an operator's table, its kind and version entered into the codes."""
        code = (op.kind, operators.version(op, self.graph.tensors))
        table = schema.OperatorT(
            opcodeIndex=self.codes.setdefault(code, len(self.codes)),
            inputs=self.indices(op.inputs),
            outputs=self.indices(op.outputs),
        )
        attrs = operators.attributes(op)
        options_name = operators.operator_of(op.kind).options
        if options_name is not None:
            options = getattr(schema, options_name + "T")()
            for attr, value in attrs.items():
                setattr(options, camel_case(attr), _attribute(op.kind, attr, value))
            table.builtinOptionsType = getattr(schema.BuiltinOptions, options_name)
            table.builtinOptions = self.tables.add(options)
        return table

    def signature(self) -> schema.SignatureDefT:
        """Returns the signature that names the graph's inputs and outputs for callers."""
        return schema.SignatureDefT(
            signatureKey=SIGNATURE,
            inputs=self._entries(self.graph.inputs),
            outputs=self._entries(self.graph.outputs),
            subgraphIndex=0,
        )

    def _entries(self, names: Mapping[str, str]) -> list[schema.TensorMapT]:
        return [
            schema.TensorMapT(name=name, tensorIndex=self.index[tensor])
            for name, tensor in names.items()
        ]


def _constant(name: str, dtype: DType, data: np.ndarray) -> bytes:
    """Returns a constant's bytes in the file."""
    if data.size == 0:
        raise DDQError(
            f"constants must not be empty: TFLite would take {name!r} for an activation. "
            f"Received: shape {data.shape}"
        )
    pack_codes = {DType.INT4: packing.pack_int4, DType.INT2: packing.pack_int2}.get(dtype)
    if pack_codes is None:
        return data.tobytes()
    try:
        return pack_codes(data).tobytes()
    except ValueError as error:
        raise DDQError(f"{dtype.value} constant {name!r}: {error}") from error


def _attribute(kind: str, attr: str, value: Any) -> Any:
    """Returns an attribute as the object API takes it."""
    if isinstance(value, tuple):
        return np.array(value, np.int32) if value else None
    if attr not in ENUMS:
        return value
    codes = members(ENUMS[attr])
    if value not in codes:
        raise DDQError(f"{kind}: {attr} must be one of {sorted(codes)}. Received: {value!r}")
    return codes[value]


def _operator_code(kind: str, version: int) -> schema.OperatorCodeT:
    """Returns the entry of the file's table of operators."""
    code = getattr(schema.BuiltinOperator, kind)
    # The old 8-bit field must say "see the new one" for codes that it cannot hold.
    legacy = min(code, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    return schema.OperatorCodeT(deprecatedBuiltinCode=legacy, builtinCode=code, version=version)
