"""Storing equal things once: constants, vectors and tables of a flatbuffer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.export.tflite.layout import IDENTIFIER


def pack(model: schema.ModelT) -> bytes:
    """Returns a model of the schema's object API as the content of a .tflite file.

    Equal vectors are written once; buffers lie at multiples of 16 bytes.
    """
    contents = (buffer.data for buffer in model.buffers or ())
    builder = _SharingBuilder(1024 + sum(len(data) for data in contents if data is not None))
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


class Buffers:
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


class Tables:
    """Tables of the object API by content, so that each is written once.

    A flatbuffer may refer to one table from many places. Many of a network's tables are equal:
    the quantization of weights and their bias, the options of operators, whole activations.
    """

    def __init__(self):
        self._tables: dict[Hashable, _WrittenOnce] = {}

    def add(self, table: Any) -> Any:
        """Returns what stands for all tables with the content of `table`."""
        return self._tables.setdefault(_content(table), _WrittenOnce(table))


class _WrittenOnce:
    """Stands for a table of the object API that is packed on first use."""

    def __init__(self, table: Any):
        self._table = table
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802 (the object API's name)
        """Returns the table's offset."""
        if self._offset is None:
            self._offset = int(self._table.Pack(builder))
        return self._offset


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


def _content(value: Any) -> Hashable:
    """Returns a key that two tables share exactly if they are written alike."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, _WrittenOnce) or not hasattr(value, "__dict__"):
        return value
    fields = tuple((name, _content(field)) for name, field in sorted(vars(value).items()))
    return type(value), fields
