"""The bytes of a .tflite file as the integer graph."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import operators, packing
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor, check
from ddq_tf.export.tflite.layout import (
    ENUMS,
    IDENTIFIER,
    SCHEMA_VERSION,
    SOURCES,
    camel_case,
    members,
)

# Options that are left at their defaults: they change nothing in 8-bit graphs.
_WITHOUT_EFFECT = {"potScaleInt16", "asymmetricQuantizeInputs", "quantizedBiasType"}
BUILTIN_NAMES = {code: name for name, code in members(schema.BuiltinOperator).items()}

_Item = TypeVar("_Item")


def read(data: bytes) -> Graph:
    """Reads a .tflite file.

    Args:
        data: the content of the file. Constants of whole bytes are views of it.

    Returns:
        The graph. Unnamed tensors are called "tensor_<index>".

    Raises:
        DDQError: if the data is damaged or no .tflite file, or holds what the integer graph
            cannot express (other types, custom operators, control flow).
    """
    if data[4:8] != IDENTIFIER:
        raise DDQError(
            f"a .tflite file has {IDENTIFIER!r} at byte 4. Received: {data[4:8]!r} in "
            f"{len(data)} bytes. Pass the content of a file that an exporter wrote"
        )
    with refusing_damage(data):
        graph = _decode_model(schema.Model.GetRootAs(data), len(data))
        check(graph)
    return graph


@contextlib.contextmanager
def refusing_damage(data: bytes) -> Iterator[None]:
    """Turns what flatbuffers and numpy raise where an offset or a size leads nowhere into DDQError.

    Args:
        data: the content of the .tflite file that is looked into.
    """
    try:
        yield
    except DDQError:
        raise
    except (
        struct.error,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise DDQError(
            f"the .tflite data is damaged: {error}. Received: {len(data)} bytes. "
            "Copy or export the file again"
        ) from error


def _decode_model(model: schema.Model, size_bytes: int) -> Graph:
    """Returns the graph of a model of `size_bytes`."""
    if model.Version() != SCHEMA_VERSION or model.SubgraphsLength() != 1:
        raise DDQError(
            f"the file must be of schema version {SCHEMA_VERSION} with one subgraph. Received: "
            f"version {model.Version()}, {model.SubgraphsLength()} subgraphs"
        )

    def items(get: Callable[[int], _Item | None], count: int) -> list[_Item]:
        # Each entry takes 4 bytes; without this a damaged count would keep the loop busy.
        if count * 4 > size_bytes:
            raise DDQError(f"the .tflite data is damaged: {count} entries in {size_bytes} bytes")
        return [_required(get(position)) for position in range(count)]

    subgraph = _required(model.Subgraphs(0))
    buffers = items(model.Buffers, model.BuffersLength())
    tensors = items(subgraph.Tensors, subgraph.TensorsLength())
    names = _tensor_names(tensors)
    metadata = {
        _text(entry.Name()): _buffer_content(buffers, entry.Buffer()).tobytes()
        for entry in items(model.Metadata, model.MetadataLength())
    }
    operators = items(subgraph.Operators, subgraph.OperatorsLength())
    sources = json.loads(metadata.pop(SOURCES, b"[]")) or [""] * len(operators)
    codes = items(model.OperatorCodes, model.OperatorCodesLength())
    signatures = items(model.SignatureDefs, model.SignatureDefsLength())
    inputs, outputs = [], []
    if signatures:
        inputs = items(signatures[0].Inputs, signatures[0].InputsLength())
        outputs = items(signatures[0].Outputs, signatures[0].OutputsLength())
    return Graph(
        tensors={
            name: _decode_tensor(name, tensor, buffers)
            for name, tensor in zip(names, tensors, strict=True)
        },
        ops=tuple(
            _decode_op(operator, codes, names, source)
            for operator, source in zip(operators, sources, strict=True)
        ),
        inputs=_interface(inputs, _array(subgraph.InputsAsNumpy()), names),
        outputs=_interface(outputs, _array(subgraph.OutputsAsNumpy()), names),
        metadata=metadata,
    )


def _required(item: _Item | None) -> _Item:
    """Returns a table that the file must hold."""
    if item is None:
        raise DDQError("the .tflite data is damaged: a table is missing")
    return item


def _array(vector: Any) -> np.ndarray:
    """Returns a vector; generated accessors return the number 0 for one that is absent."""
    return vector if isinstance(vector, np.ndarray) else np.empty(0, np.int32)


def _text(encoded: Any) -> str:
    """Returns a string of the file; "" for one that is absent."""
    return encoded.decode() if encoded else ""


def _tensor_names(tensors: list[schema.Tensor]) -> list[str]:
    """Returns a unique name for each tensor: its own if it has one."""
    names: list[str] = []
    taken: set[str] = set()
    for position, tensor in enumerate(tensors):
        name = _text(tensor.Name()) or f"tensor_{position}"
        while name in taken:
            name += f"_{position}"
        taken.add(name)
        names.append(name)
    return names


def _name_at(names: list[str], index: int) -> str:
    """Returns the name of a tensor; negative indices must not count from the end."""
    if not 0 <= index < len(names):
        raise DDQError(
            f"the .tflite data is damaged: tensor {index} is named, there are {len(names)}"
        )
    return names[index]


def _decode_tensor(name: str, tensor: schema.Tensor, buffers: list[schema.Buffer]) -> Tensor:
    """Returns a tensor with its values."""
    dtype = _decode_dtype(name, tensor.Type())
    signature = _array(tensor.ShapeSignatureAsNumpy())
    shape = signature if signature.size else _array(tensor.ShapeAsNumpy())
    content = _buffer_content(buffers, tensor.Buffer())
    if tensor.Sparsity() is not None or tensor.IsVariable():
        raise DDQError(f"sparse and variable tensors cannot be read. Received: {name!r}")
    shape = tuple(int(size) for size in shape)
    return Tensor(
        name=name,
        shape=shape,
        dtype=dtype,
        quantization=_decode_quantization(name, tensor.Quantization()),
        data=_decode_data(name, dtype, shape, content) if content.size else None,
    )


def _decode_dtype(name: str, code: int) -> DType:
    """Returns the type of a tensor."""
    for dtype in DType:
        if getattr(schema.TensorType, dtype.value) == code:
            return dtype
    raise DDQError(
        f"tensor types must be among {[dtype.value for dtype in DType]}. "
        f"Received: type {code} of tensor {name!r}"
    )


def _buffer_content(buffers: list[schema.Buffer], index: int) -> np.ndarray:
    """Returns the bytes of a buffer, uint8."""
    if index >= len(buffers):
        raise DDQError(
            f"the .tflite data is damaged: buffer {index} is named, there are {len(buffers)}"
        )
    if buffers[index].Offset() > 1:
        raise DDQError("files above 2 GiB, with buffers outside the flatbuffer, cannot be read")
    return _array(buffers[index].DataAsNumpy())


def _decode_data(
    name: str, dtype: DType, shape: tuple[int, ...], content: np.ndarray
) -> np.ndarray:
    """Returns a constant's values in `shape`; INT4 and INT2 unpacked."""
    size = math.prod(shape)
    required = -(-size * dtype.bits // 8)
    if min(shape, default=1) < 1 or content.size != required:
        raise DDQError(
            f"a constant of type {dtype.value} and shape {shape} takes {required} bytes. "
            f"Received: {content.size} bytes for {name!r}"
        )
    if dtype is DType.INT4:
        return packing.unpack_int4(content, size).reshape(shape)
    if dtype is DType.INT2:
        return packing.unpack_int2(content, size).reshape(shape)
    return content.view(dtype.numpy).reshape(shape)


def _decode_quantization(
    name: str, encoded: schema.QuantizationParameters | None
) -> Quantization | None:
    """Returns a tensor's quantization; None where the file gives no scale."""
    if encoded is None or encoded.ScaleIsNone() or encoded.ScaleLength() == 0:
        return None
    zero_points = np.unique(_array(encoded.ZeroPointAsNumpy()))
    if zero_points.size > 1 or encoded.DetailsType():
        raise DDQError(
            "channels must share one zero point and blocks are not supported. "
            f"Received: zero points {zero_points} for {name!r}"
        )
    return Quantization(
        scale=_array(encoded.ScaleAsNumpy()),
        zero_point=int(zero_points[0]) if zero_points.size else 0,
        axis=encoded.QuantizedDimension(),
    )


def _decode_op(
    operator: schema.Operator, codes: list[schema.OperatorCode], names: list[str], source: str
) -> Op:
    """Returns an operator with all its attributes."""
    code = codes[operator.OpcodeIndex()]
    # Files from before 2020 fill only the old field; the larger of the two is right.
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = BUILTIN_NAMES.get(number, f"builtin operator {number}")
    defaults = operators.operator_of(kind)
    options = schema.BuiltinOptionsCreator(operator.BuiltinOptionsType(), operator.BuiltinOptions())
    attrs: dict[str, Any] = {}
    if defaults.options is not None:
        expected = getattr(schema, defaults.options + "T")
        options = expected() if options is None else options
        if type(options) is not expected:
            raise DDQError(f"{kind} takes {defaults.options}. Received: {type(options).__name__}")
        attrs = {
            attr: _decode_attr(kind, attr, getattr(options, camel_case(attr)))
            for attr in defaults.attrs
        }
        _refuse_other_options(kind, options, expected(), attrs)
    inputs = [int(index) for index in _array(operator.InputsAsNumpy())]
    return Op(
        kind=kind,
        inputs=tuple("" if index == -1 else _name_at(names, index) for index in inputs),
        outputs=tuple(_name_at(names, int(index)) for index in _array(operator.OutputsAsNumpy())),
        attrs=attrs,
        source=str(source),
    )


def _decode_attr(kind: str, attr: str, value: Any) -> Any:
    """Returns an attribute as the graph holds it."""
    if isinstance(operators.operator_of(kind).attrs[attr], tuple):
        return tuple(int(element) for element in _array(value))
    if attr not in ENUMS:
        return value
    for name, code in members(ENUMS[attr]).items():
        if code == value:
            return name
    raise DDQError(f"{kind}: {attr} {value} is unknown to this version of the schema")


def _refuse_other_options(kind: str, options: Any, defaults: Any, attrs: Mapping[str, Any]) -> None:
    """Raises if an option that the table of operators leaves out is set to something."""
    known = {camel_case(attr) for attr in attrs} | _WITHOUT_EFFECT
    for field, default in vars(defaults).items():
        if field not in known and not np.array_equal(getattr(options, field), default):
            raise DDQError(f"{kind}: the option {field}={getattr(options, field)} is not supported")


def _interface(
    entries: list[schema.TensorMap], indices: np.ndarray, names: list[str]
) -> dict[str, str]:
    """Returns the graph's inputs or outputs, as the signature names and orders them.

    Args:
        entries: the signature's inputs or outputs; other writers may leave them out.
        indices: the tensors that the subgraph declares as inputs or outputs.
        names: of all tensors.
    """
    named = {_text(entry.Name()): entry.TensorIndex() for entry in entries}
    if set(named.values()) != set(indices.tolist()):
        named = {_name_at(names, index): index for index in indices.tolist()}
    return {name: _name_at(names, index) for name, index in named.items()}
