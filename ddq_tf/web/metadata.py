"""Reads TFLite's standard model metadata back from a file; `export.model_metadata` writes them."""

from __future__ import annotations

import io
import zipfile

from flatbuffers import encode, number_types
from flatbuffers.table import Table

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.model_metadata import ENTRY, ModelMetadata
from ddq_tf.web.model_file import metadata_entry

_LABELS_ARE_AXIS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
_NORMALIZATION = 1  # ProcessUnitOptions.NormalizationOptions
_MOST_LABEL_BYTES = 10_000_000


def read_metadata(content: bytes) -> ModelMetadata:
    """Returns what a file says of its first input and its first output.

    Args:
        content: of a .tflite file.

    Raises:
        DDQError: if its metadata are damaged.
    """
    entry = metadata_entry(content, ENTRY)
    if entry is None:
        return ModelMetadata()
    with tflite.refusing_damage(content):
        root = _Table.root(entry)
        subgraph = next(iter(root.children(3)), None)
        inputs, outputs = (subgraph.children(i) if subgraph else [] for i in (2, 3))
        mean, std = _normalization(inputs[0]) if inputs else ((), ())
        return ModelMetadata(
            labels=_labels(outputs[0], content) if outputs else (),
            mean=mean,
            std=std,
            name=root.text(0),
            description=root.text(1),
        )


class _Table:
    """The fields of a flatbuffer's table by their number in metadata_schema.fbs."""

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
        if count * 4 > len(self._table.Bytes):
            raise ValueError(f"{count} entries in {len(self._table.Bytes)} bytes")
        places = [self._table.Indirect(start + 4 * index) for index in range(count)]
        return [_Table(Table(self._table.Bytes, place)) for place in places]

    def text(self, field: int) -> str:
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


def _normalization(tensor: _Table) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) of an input's pixels, empty where it has none."""
    for unit in tensor.children(4):
        options = unit.child(1)
        if unit.code(0) == _NORMALIZATION and options:
            return options.floats(0), options.floats(1)
    return (), ()


def _labels(tensor: _Table, content: bytes) -> tuple[str, ...]:
    """Returns the labels of an output's last axis, empty where it has none."""
    names = [file.text(0) for file in tensor.children(6) if file.code(2) == _LABELS_ARE_AXIS]
    if not names:
        return ()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = archive.getinfo(names[0]).file_size
            if size > _MOST_LABEL_BYTES:
                raise DDQError(
                    f"labels must fit in {_MOST_LABEL_BYTES:,} bytes. Received: {size:,}"
                )
            return tuple(archive.read(names[0]).decode().splitlines())
    except (zipfile.BadZipFile, NotImplementedError, KeyError) as error:
        raise DDQError(
            f"the file's metadata name the labels {names[0]!r}, which the file does not hold: "
            f"{error}. Export it again, or give --labels=FILE"
        ) from error
