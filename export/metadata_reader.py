"""Reads a file's model metadata: TFLite's standard ones, and what `model_metadata` adds to them."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export import metadata_schema as schema
from ddq_tf.export import tflite
from ddq_tf.export.model_metadata import ModelMetadata, value_problems

_MOST_LABEL_BYTES = 10_000_000
# What zipfile raises for an archive that is none, damaged, encrypted, or lacks a file.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
)


def read_metadata(content: bytes, *, with_labels: bool = True) -> ModelMetadata:
    """Returns what a file says of its first input and its first output.

    Args:
        content: of a .tflite file.
        with_labels: whether labels are wanted; without, their archive is not looked into.

    Raises:
        DDQError: if the metadata are damaged, or say what has no meaning.
    """
    with tflite.refusing_damage(content):
        entry = _entry(content)
        metadata = ModelMetadata() if entry is None else _decoded(entry, content, with_labels)
    raise_all("the file's metadata have no meaning, export it again:", value_problems(metadata))
    return metadata


def _entry(content: bytes) -> bytes | None:
    """The metadata's flatbuffer, None if the file has none."""
    model = schema_py_generated.Model.GetRootAs(content)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry is not None and entry.Name() == schema.ENTRY.encode():
            buffer = model.Buffers(entry.Buffer())
            return b"" if buffer is None else np.asarray(buffer.DataAsNumpy()).tobytes()
    return None


def _decoded(entry: bytes, content: bytes, with_labels: bool) -> ModelMetadata:
    """Raises what `tflite.refusing_damage` knows, if an offset leads nowhere."""
    root = _Table.root(entry)
    told: dict[str, Any] = {
        "name": root.text(schema.Model.NAME),
        "description": root.text(schema.Model.DESCRIPTION),
    }
    for subgraph in root.children(schema.Model.SUBGRAPHS)[:1]:
        told |= _fitting(subgraph)
        for tensor in subgraph.children(schema.Subgraph.INPUTS)[:1]:
            told["mean"], told["std"] = _normalization(tensor)
        for tensor in subgraph.children(schema.Subgraph.OUTPUTS)[:1]:
            told["labels"] = _labels(tensor, content) if with_labels else ()
    return ModelMetadata(**told)


class _Table:
    """A flatbuffer's table; fields are those of `metadata_schema`."""

    def __init__(self, table: Table) -> None:
        self._table = table

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(Table(data, encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)))

    def _offset(self, field: int) -> int:
        return self._table.Offset(4 + 2 * field)

    def child(self, field: int) -> _Table | None:
        if not (offset := self._offset(field)):
            return None
        place = self._table.Indirect(offset + self._table.Pos)
        return _Table(Table(self._table.Bytes, place))

    def children(self, field: int) -> list[_Table]:
        if not (offset := self._offset(field)):
            return []
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        places = [self._table.Indirect(start + 4 * index) for index in range(count)]
        return [_Table(Table(self._table.Bytes, place)) for place in places]

    def text(self, field: int) -> str:
        """Returns a string, or a vector of bytes that holds one; "" if it is absent."""
        offset = self._offset(field)
        return bytes(self._table.String(offset + self._table.Pos)).decode() if offset else ""

    def code(self, field: int) -> int:
        offset = self._offset(field)
        at = offset + self._table.Pos
        return int(self._table.Get(number_types.Uint8Flags, at)) if offset else 0

    def floats(self, field: int) -> tuple[float, ...]:
        if not (offset := self._offset(field)):
            return ()
        values = self._table.GetVectorAsNumpy(number_types.Float32Flags, offset)
        return tuple(map(float, values))


def _fitting(subgraph: _Table) -> dict[str, Any]:
    """What is told of how pictures are fitted, by the names of `ModelMetadata`."""
    told: dict[str, Any] = {}
    for custom in subgraph.children(schema.Subgraph.CUSTOM):
        if custom.text(schema.Custom.NAME) == schema.FITTING:
            lines = custom.text(schema.Custom.DATA).splitlines()
            pairs = (line.partition("=") for line in lines)
            told |= {name: value for name, _, value in pairs if name in schema.FITTED}
    return {**told, "crop": float(told["crop"])} if "crop" in told else told


def _normalization(tensor: _Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of an input's pixels, empty where it has none."""
    for unit in tensor.children(schema.Tensor.UNITS):
        options = unit.child(schema.Unit.OPTIONS)
        if unit.code(schema.Unit.KIND) != schema.NORMALIZATION or options is None:
            continue
        mean = options.floats(schema.Normalization.MEAN)
        std = options.floats(schema.Normalization.STD)
        counts = {len(mean), len(std)}
        # One number for all channels is the standard's way too.
        if counts == {0, 1} or len(counts - {1}) > 1:
            raise ValueError(f"{len(mean)} numbers of mean, {len(std)} of std")
        return mean, std
    return (), ()


def _labels(tensor: _Table, content: bytes) -> tuple[str, ...]:
    """The labels of an output's last axis, empty where it has none."""
    names = [
        file.text(schema.File.NAME)
        for file in tensor.children(schema.Tensor.FILES)
        if file.code(schema.File.KIND) == schema.LABELS_ARE_AXIS
    ]
    if not names:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = archive.getinfo(names[0]).file_size
            if size > _MOST_LABEL_BYTES:
                raise DDQError(
                    f"labels must fit in {_MOST_LABEL_BYTES:,} bytes. Received: {size:,}. "
                    "Give --labels=FILE"
                )
            return _lines(archive.read(names[0]).decode())
    except _UNREADABLE as error:
        raise DDQError(
            f"the file's metadata name the labels {names[0]!r}, which the file does not hold: "
            f"{error}. Export it again, or give --labels=FILE"
        ) from error


def _lines(text: str) -> tuple[str, ...]:
    """Lines that end as on Unix or Windows; str.splitlines would break at more than these."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return tuple(line.removesuffix("\r") for line in lines)
