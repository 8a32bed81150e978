"""The integer graph as the bytes of a .tflite file, and back.

`write` spends bytes only on what a runtime reads: equal constants, scales and zero points are
stored once, names are dropped. `read` undoes it, and also reads other writers' files as long as
they keep to the operators and types of the integer graph.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import ops, packing
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor, check

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_SIGNATURE = "serving_default"
# Where keep_names keeps the ops' Keras layers; `read` takes it out of the metadata again.
_SOURCES = "ddq_tf.op_sources"
_ENUMS = {"padding": schema.Padding, "fused_activation_function": schema.ActivationFunctionType}
# Options that are left at their defaults: they change nothing in 8-bit graphs.
_WITHOUT_EFFECT = {"potScaleInt16", "asymmetricQuantizeInputs", "quantizedBiasType"}
_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}

_Item = TypeVar("_Item")


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
    buffers = _Buffers()
    named = set(graph.tensors) if keep_names else {*graph.inputs.values(), *graph.outputs.values()}
    tensors = [
        _encode_tensor(tensor, buffers, tensor.name in named) for tensor in graph.tensors.values()
    ]
    index = {name: position for position, name in enumerate(graph.tensors)}
    codes: dict[tuple[str, int], int] = {}
    operators = [_encode_op(op, graph.tensors, index, codes) for op in graph.ops]
    metadata = dict(graph.metadata)
    if keep_names and any(op.source for op in graph.ops):
        metadata[_SOURCES] = json.dumps([op.source for op in graph.ops])
    model = schema.ModelT(
        version=_SCHEMA_VERSION,
        description="ddq_tf",
        operatorCodes=[_encode_code(kind, version) for kind, version in codes],
        subgraphs=[
            schema.SubGraphT(
                name="main",
                tensors=tensors,
                inputs=_indices(graph.inputs.values(), index),
                outputs=_indices(graph.outputs.values(), index),
                operators=operators,
            )
        ],
        signatureDefs=[_encode_signature(graph, index)],
        metadata=[
            schema.MetadataT(name=name, buffer=buffers.add(text.encode()))
            for name, text in metadata.items()
        ],
        buffers=buffers.items,
    )
    return pack(model)


def pack(model: schema.ModelT) -> bytes:
    """Returns a model of the schema's object API as the content of a .tflite file.

    Equal vectors are written once; buffers lie at multiples of 16 bytes.
    """
    contents = (buffer.data for buffer in model.buffers or ())
    builder = _SharingBuilder(1024 + sum(len(data) for data in contents if data is not None))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


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
    if data[4:8] != _IDENTIFIER:
        raise DDQError(
            f"a .tflite file has {_IDENTIFIER!r} at byte 4. Received: {data[4:8]!r} in "
            f"{len(data)} bytes. Pass the content of a file that an exporter wrote"
        )
    try:
        graph = _decode_model(schema.Model.GetRootAs(data), len(data))
        check(graph)
    except DDQError:
        raise
    # What flatbuffers, numpy and the decoder raise where an offset or a size leads nowhere.
    except (
        struct.error,
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        raise DDQError(
            f"the .tflite data is damaged: {error}. Received: {len(data)} bytes. "
            "Copy or export the file again"
        ) from error
    return graph


class _SharingBuilder(flatbuffers.Builder):
    """A Builder that writes every distinct numeric vector once.

    The object API packs each tensor's scale, zero point and shape for itself; a flatbuffer may
    refer to one vector from many tables, and in MobileNetV2 doing so saves a tenth of the file.
    """

    def __init__(self, initial_size: int):
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 (flatbuffers' name)
        """Returns the offset of a vector with the content of `x`."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            if x.dtype == np.uint8:
                # The schema asks for 16-byte alignment of buffers; generated Python forgets it.
                self.Prep(16, x.nbytes)
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


class _Buffers:
    """The file's table of buffers, each content once; buffer 0 is the empty one."""

    def __init__(self):
        self.items = [schema.BufferT()]
        self._index: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        """Returns the index of the buffer that holds `content`."""
        if content not in self._index:
            self._index[content] = len(self.items)
            self.items.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
        return self._index[content]


def _indices(names: Iterable[str], index: Mapping[str, int]) -> np.ndarray:
    """Returns tensor indices; -1 for an absent optional input."""
    return np.array([index[name] if name else -1 for name in names], np.int32)


def _encode_tensor(tensor: Tensor, buffers: _Buffers, named: bool) -> schema.TensorT:
    """Returns a tensor's table, its data added to `buffers`."""
    encoded = schema.TensorT(
        shape=np.array([1 if size < 0 else size for size in tensor.shape], np.int32),
        shapeSignature=np.array(tensor.shape, np.int32) if -1 in tensor.shape else None,
        type=getattr(schema.TensorType, tensor.dtype.value),
        hasRank=not tensor.shape,  # without it, an empty shape is an unknown one
        name=tensor.name if named else None,
    )
    if tensor.data is not None:
        encoded.buffer = buffers.add(_encode_data(tensor.name, tensor.dtype, tensor.data))
    if tensor.quantization is not None:
        scale = tensor.quantization.scale
        encoded.quantization = schema.QuantizationParametersT(
            scale=scale,
            zeroPoint=np.full(scale.size, tensor.quantization.zero_point, np.int64),
            quantizedDimension=tensor.quantization.axis,
        )
    return encoded


def _encode_data(name: str, dtype: DType, data: np.ndarray) -> bytes:
    """Returns a constant's bytes in the file."""
    if data.size == 0:
        raise DDQError(
            f"constants must not be empty: TFLite would take {name!r} for an activation. "
            f"Received: shape {data.shape}"
        )
    pack = {DType.INT4: packing.pack_int4, DType.INT2: packing.pack_int2}.get(dtype)
    if pack is None:
        return data.tobytes()
    try:
        return pack(data).tobytes()
    except ValueError as error:
        raise DDQError(f"{dtype.value} constant {name!r}: {error}") from error


def _encode_op(
    op: Op,
    tensors: Mapping[str, Tensor],
    index: Mapping[str, int],
    codes: dict[tuple[str, int], int],
) -> schema.OperatorT:
    """Returns an operator's table, its kind and version entered into `codes`."""
    options_name = ops.op_schema(op.kind).options
    encoded = schema.OperatorT(
        opcodeIndex=codes.setdefault((op.kind, ops.version(op, tensors)), len(codes)),
        inputs=_indices(op.inputs, index),
        outputs=_indices(op.outputs, index),
    )
    attrs = ops.attributes(op)
    if options_name is not None:
        options = getattr(schema, options_name + "T")()
        for attr, value in attrs.items():
            setattr(options, _camel_case(attr), _encode_attr(op.kind, attr, value))
        encoded.builtinOptionsType = getattr(schema.BuiltinOptions, options_name)
        encoded.builtinOptions = options
    return encoded


def _encode_attr(kind: str, attr: str, value: Any) -> Any:
    """Returns an attribute as the object API takes it."""
    if isinstance(value, tuple):
        return np.array(value, np.int32) if value else None
    if attr not in _ENUMS:
        return value
    members = {name: code for name, code in vars(_ENUMS[attr]).items() if isinstance(code, int)}
    if value not in members:
        raise DDQError(f"{kind}: {attr} must be one of {sorted(members)}. Received: {value!r}")
    return members[value]


def _encode_code(kind: str, version: int) -> schema.OperatorCodeT:
    """Returns the entry of the file's table of operators."""
    code = getattr(schema.BuiltinOperator, kind)
    # The old 8-bit field must say "see the new one" for codes that it cannot hold.
    legacy = min(code, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    return schema.OperatorCodeT(deprecatedBuiltinCode=legacy, builtinCode=code, version=version)


def _encode_signature(graph: Graph, index: Mapping[str, int]) -> schema.SignatureDefT:
    """Returns the signature that names the graph's inputs and outputs for callers."""

    def entries(names: Mapping[str, str]) -> list[schema.TensorMapT]:
        return [
            schema.TensorMapT(name=name, tensorIndex=index[tensor])
            for name, tensor in names.items()
        ]

    return schema.SignatureDefT(
        signatureKey=_SIGNATURE,
        inputs=entries(graph.inputs),
        outputs=entries(graph.outputs),
        subgraphIndex=0,
    )


def _decode_model(model: schema.Model, size_bytes: int) -> Graph:
    """Returns the graph of a model of `size_bytes`."""
    if model.Version() != _SCHEMA_VERSION or model.SubgraphsLength() != 1:
        raise DDQError(
            f"the file must be of schema version {_SCHEMA_VERSION} with one subgraph. Received: "
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
        _text(entry.Name()): _buffer_content(buffers, entry.Buffer()).tobytes().decode()
        for entry in items(model.Metadata, model.MetadataLength())
    }
    operators = items(subgraph.Operators, subgraph.OperatorsLength())
    sources = json.loads(metadata.pop(_SOURCES, "[]")) or [""] * len(operators)
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
    kind = _BUILTIN_NAMES.get(number, f"builtin operator {number}")
    defaults = ops.op_schema(kind)
    options = schema.BuiltinOptionsCreator(operator.BuiltinOptionsType(), operator.BuiltinOptions())
    attrs: dict[str, Any] = {}
    if defaults.options is not None:
        expected = getattr(schema, defaults.options + "T")
        options = expected() if options is None else options
        if type(options) is not expected:
            raise DDQError(f"{kind} takes {defaults.options}. Received: {type(options).__name__}")
        attrs = {
            attr: _decode_attr(kind, attr, getattr(options, _camel_case(attr)))
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
    """Undoes `_encode_attr`."""
    if isinstance(ops.op_schema(kind).attrs[attr], tuple):
        return tuple(int(element) for element in _array(value))
    if attr not in _ENUMS:
        return value
    for name, code in vars(_ENUMS[attr]).items():
        if isinstance(code, int) and code == value:
            return name
    raise DDQError(f"{kind}: {attr} {value} is unknown to this version of the schema")


def _refuse_other_options(kind: str, options: Any, defaults: Any, attrs: Mapping[str, Any]) -> None:
    """Raises if an option that the table of operators leaves out is set to something."""
    known = {_camel_case(attr) for attr in attrs} | _WITHOUT_EFFECT
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


def _camel_case(attr: str) -> str:
    """Returns the object API's name for an attribute: "stride_h" is "strideH"."""
    head, *rest = attr.split("_")
    return head + "".join(word.capitalize() for word in rest)
