"""TFLite Micro: files whose weights are indices into tables of values, and its interpreter.

A channel of weights with at most 2^b distinct codes is stored as indices of b bits and a table of
its int8 codes; which codes these are does not matter, so freely learned levels cost no more than
uniform ones. At run time a TFLM_DECODE operator before each convolution unpacks its weights into
the arena. Nothing is rounded: the file computes what the plain int8 file does.

Needs the package tflite-micro (`pip install "ddq_tf[tflm]"`).
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError, missing_package
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Model, TensorInfo, content_of
from ddq_tf.export.ir import DType, Graph, Tensor
from ddq_tf.export.model_metadata import attached_bytes
from ddq_tf.export.operators import weight_kind
from ddq_tf.export.sizes import ByteSizes, itemize
from ddq_tf.export.tflite.sharing import Tables
from ddq_tf.targets import DECODE_BYTES, MAX_INDEX_BITS, lookup_bytes

# What a kernel may ask for beside its tensors, for each element of them; found by trial.
_ARENA_FACTOR, _ARENA_LEAST = 4, 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookup:
    """How a weight tensor is stored as indices.

    Attributes:
        tensor: its position in the file.
        axis: of the channels, each with a table; the first or the last.
        index_bits: width of an index, 1..7.
        size_bytes: of indices, tables and what decoding needs.
    """

    tensor: int
    axis: int
    index_bits: int
    size_bytes: int


def package() -> Any:
    """Returns the module tflite_micro.

    Raises:
        DDQError: if it is missing.
    """
    try:
        return importlib.import_module("tflite_micro")
    except ImportError as error:
        note = " (wheels exist for Linux on x86-64)"
        raise missing_package("target 'tflm' needs", "tflite-micro", "tflm", note) from error


def compress(data: bytes) -> bytes:
    """Stores the weights of an int8 file as indices into tables, where that takes fewer bytes.

    Args:
        data: the content of a .tflite file.

    Returns:
        The content of a file for TFLite Micro; LiteRT does not load it. The file as it was where
        no tensor gets smaller.

    Raises:
        DDQError: if tflite-micro is missing, or the file cannot be read.
    """
    compression = package().compression
    found = lookups(tflite.read(data))
    if not found:
        return data
    spec = compression.spec
    specs = [
        spec.Tensor(
            subgraph=0,
            tensor=lookup.tensor,
            compression=[
                spec.LookUpTableCompression(
                    index_bitwidth=lookup.index_bits, mode=spec.PerChannel(axis=lookup.axis)
                )
            ],
        )
        for lookup in found
    ]
    return _repacked(bytes(compression.compress(data, specs)))


def itemize_compressed(plain: bytes, compressed: bytes) -> ByteSizes:
    """Returns what the bytes of a compressed file are spent on; tables count as weights.

    Args:
        plain: the content of the int8 file.
        compressed: what `compress` made of it, perhaps with files attached.
    """
    graph, sizes = tflite.read(plain), itemize(plain)
    tensors = list(graph.tensors.values())
    saved = sum(
        int(np.prod(tensors[found.tensor].shape)) - (found.size_bytes - DECODE_BYTES)
        for found in lookups(graph)
    )
    sizes = dataclasses.replace(
        sizes,
        weights=sizes.weights - saved,
        metadata=sizes.metadata + attached_bytes(compressed),
    )
    return dataclasses.replace(sizes, structure=sizes.structure + len(compressed) - sizes.total)


def lookups(graph: Graph) -> list[Lookup]:
    """Returns the weights that become smaller as indices into tables."""
    weights = {op.inputs[1] for op in graph.ops if weight_kind(op) is not None}
    found = [
        _lookup(position, tensor)
        for position, (name, tensor) in enumerate(graph.tensors.items())
        if name in weights and tensor.data is not None and tensor.dtype is DType.INT8
    ]
    return [item for item in found if item is not None]


def _lookup(position: int, tensor: Tensor) -> Lookup | None:
    """How to store one weight tensor as indices, or None if that takes no fewer bytes."""
    grid, codes = tensor.quantization, tensor.data
    if grid is None or codes is None or grid.axis not in (0, codes.ndim - 1):
        return None
    channels = codes.shape[grid.axis]
    if grid.scale.size != channels:
        return None
    values = max(np.unique(channel).size for channel in np.moveaxis(codes, grid.axis, 0))
    index_bits = max(1, (values - 1).bit_length())
    size_bytes = lookup_bytes(index_bits, codes.size, channels, values)
    if index_bits > MAX_INDEX_BITS or size_bytes >= codes.size:
        return None
    return Lookup(tensor=position, axis=grid.axis, index_bits=index_bits, size_bytes=size_bytes)


def _repacked(data: bytes) -> bytes:
    """The same model with equal vectors and tables stored once, which the package does not do."""
    model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    tables = Tables()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            if tensor.type == schema.TensorType.UINT8 and tensor.buffer:
                tensor.quantization = None  # encoded bytes; the decoded tensor has it
            if tensor.quantization is not None:
                tensor.quantization = tables.add(tensor.quantization)
        for op in subgraph.operators:
            if op.builtinOptions is not None:
                op.builtinOptions = tables.add(op.builtinOptions)
        subgraph.tensors = [tables.add(tensor) for tensor in subgraph.tensors]
    return tflite.pack(model)


class MicroRunner:
    """A model with one input and one output in TFLite Micro's interpreter, on this machine.

    Its reference kernels compute what they do on a microcontroller; optimized ones (CMSIS-NN) are
    meant to agree with them.

    Attributes:
        input: how real numbers become codes.
        output: how codes become real numbers.
    """

    def __init__(self, model: Model):
        """Loads a model.

        Args:
            model: the content of a .tflite file, or its path.

        Raises:
            DDQError: if tflite-micro is missing or refuses the file.
        """
        runtime = package().runtime
        content = content_of(model)
        if content[4:8] != b"TFL3":
            raise DDQError(
                f"a .tflite file has b'TFL3' at byte 4. Received: {content[4:8]!r} in "
                f"{len(content)} bytes"
            )
        try:
            arena_size = _arena_bytes(content)
            self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_size)
        except RuntimeError as error:
            raise DDQError(f"TFLite Micro refuses this model: {error}") from error
        except (AttributeError, TypeError, ValueError, struct.error) as error:
            raise DDQError(f"the .tflite data is damaged: {error}") from error
        graph: Any = schema.Model.GetRootAs(content).Subgraphs(0)
        details = self._interpreter.get_input_details(0), self._interpreter.get_output_details(0)
        self.input = _tensor_info(details[0], graph.Inputs(0))
        self.output = _tensor_info(details[1], graph.Outputs(0))
        self.inputs, self.outputs = {"input": self.input}, {"output": self.output}

    def run(self, codes: np.ndarray) -> np.ndarray:
        """Runs examples one by one.

        Args:
            codes: of the input's dtype, shape (examples, ...).

        Returns:
            The codes of the output, shape (examples, ...).

        Raises:
            DDQError: if the examples do not fit the model.
        """
        if codes.dtype != self.input.dtype or codes.shape[1:] != self.input.shape[1:]:
            raise DDQError(
                f"the model takes {self.input.dtype} of shape (examples, "
                f"{', '.join(map(str, self.input.shape[1:]))}). Received: {codes.dtype} of shape "
                f"{codes.shape}"
            )
        return np.concatenate(list(self._outputs(codes)))

    def _outputs(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        for example in codes:
            self._interpreter.set_input(example[None], 0)
            self._interpreter.invoke()
            yield self._interpreter.get_output(0).copy()


def _arena_bytes(content: bytes) -> int:
    """An arena that holds all tensors side by side."""
    subgraph: Any = schema.Model.GetRootAs(content).Subgraphs(0)
    shapes = [
        subgraph.Tensors(index).ShapeAsNumpy() if subgraph.Tensors(index).ShapeLength() else ()
        for index in range(subgraph.TensorsLength())
    ]
    return _ARENA_LEAST + _ARENA_FACTOR * sum(math.prod(map(int, shape)) for shape in shapes)


def _tensor_info(details: dict[str, Any], index: int) -> TensorInfo:
    """Returns what the interpreter tells of its input or output."""
    grid = details["quantization_parameters"]
    is_quantized = len(grid["scales"]) > 0
    return TensorInfo(
        index=int(index),
        shape=tuple(int(size) for size in details["shape"]),
        dtype=np.dtype(details["dtype"]),
        scale=np.float32(grid["scales"][0]) if is_quantized else None,
        zero_point=int(grid["zero_points"][0]) if is_quantized else 0,
    )
