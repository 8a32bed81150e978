"""TFLite's standard model metadata: what labels the outputs have and how pixels become inputs.

Written as tflite-support's MetadataPopulator does, for the tools that read it (Android Studio,
MediaPipe, Task Library): a flatbuffer of the schema metadata_schema.fbs 1.0.0 in the metadata entry
TFLITE_METADATA, and the files that it names in an uncompressed zip archive behind the model.
`metadata_reader` reads all of it back.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from ddq_tf.arguments import check_types
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export import metadata_schema as schema
from ddq_tf.export.ir import Graph
from ddq_tf.pictures import CHANNELS, RESIZES

_LEAST_PARSER = "1.0.0"
_FITTING_PARSER = "1.5.0"  # the first that knows CustomMetadata
_LABELS = "labels.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What a file says of its only input and its only output.

    Attributes:
        labels: a name for each class, in the order of the output's last axis; () for none.
        mean: the model's real inputs are (pixel - mean) / std, pixels from 0 to 255; one number, or
            one for each channel; () for none.
        std: likewise.
        channels: their order in the input, "rgb" or "bgr".
        crop: share of a picture's centre that the model sees; see `ddq_tf.data.Fit`.
        resize: how that comes to the model's size; likewise.
        name: of the model; "" for none.
        description: in words; "" for none.
    """

    labels: Sequence[str] = ()
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    channels: str = "rgb"
    crop: float = 1.0
    resize: str = "bilinear"
    name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def for_range(cls, low: Any, high: Any, *, labels: Sequence[str] = ()) -> ModelMetadata:
        """Returns the metadata of a model for which pixels 0 and 255 become `low` and `high`.

        Args:
            low: one number, or one for each channel.
            high: likewise.
            labels: see `ModelMetadata`.

        Raises:
            DDQError: if `high` is not above `low`.
        """
        lows, highs = (np.atleast_1d(np.asarray(end, np.float64)) for end in (low, high))
        if lows.shape != highs.shape or not (lows < highs).all():
            raise DDQError(f"the input range needs low < high. Received: {low}, {high}")
        stds = 255 / (highs - lows)
        return cls(labels=labels, mean=(-lows * stds).tolist(), std=stds.tolist())

    @property
    def input_range(self) -> tuple[Any, Any] | None:
        """What pixels 0 and 255 become, each as `for_range` takes it; None if that is not told."""
        if not self.mean:
            return None
        means, stds = np.array(self.mean, np.float64), np.array(self.std, np.float64)
        low, high = (
            end.item() if end.size == 1 else tuple(end.tolist())
            for end in (-means / stds, (255 - means) / stds)
        )
        return low, high


def check(metadata: ModelMetadata, graph: Graph) -> None:
    """Checks that metadata fit a graph.

    Raises:
        DDQError: listing everything that does not.
    """
    raise_all("the model metadata do not fit:", _problems(metadata, graph))


def encode(metadata: ModelMetadata, graph: Graph) -> bytes:
    """Returns the content of the entry TFLITE_METADATA.

    Args:
        metadata: as `check` accepts them.
        graph: whose inputs and outputs are described.
    """
    builder = _Builder(1024)
    inputs = builder.tables(
        [
            _tensor(
                builder,
                name,
                graph.tensors[tensor].shape,
                units=_units(builder, metadata),
                channels=metadata.channels,
            )
            for name, tensor in graph.inputs.items()
        ]
    )
    outputs = builder.tables(
        [_tensor(builder, name, (), files=_files(builder, metadata)) for name in graph.outputs]
    )
    custom = _custom(builder, metadata)
    ends = {schema.Subgraph.INPUTS: inputs, schema.Subgraph.OUTPUTS: outputs}
    subgraphs = builder.tables([builder.table({**ends, schema.Subgraph.CUSTOM: custom})])
    texts = {
        schema.Model.NAME: metadata.name,
        schema.Model.DESCRIPTION: metadata.description,
        schema.Model.LEAST_PARSER: _FITTING_PARSER if custom else _LEAST_PARSER,
    }
    strings = {field: builder.CreateString(text) for field, text in texts.items() if text}
    root = builder.table({schema.Model.SUBGRAPHS: subgraphs, **strings})
    builder.Finish(root, schema.IDENTIFIER)
    return bytes(builder.Output())


def attach(data: bytes, metadata: ModelMetadata) -> bytes:
    """Returns the content of a .tflite file with the files that its metadata name.

    Args:
        data: the content of the file.
        metadata: as they were encoded for it.
    """
    if not metadata.labels:
        return data
    content = io.BytesIO(data)
    with zipfile.ZipFile(content, "a") as archive:
        entry = zipfile.ZipInfo(_LABELS)  # dated 1980, so that equal models are equal files
        entry.create_system = 3  # Unix, on every system
        archive.writestr(entry, "".join(f"{label}\n" for label in metadata.labels))
    return content.getvalue()


def attached_bytes(data: bytes) -> int:
    """Returns how many bytes of a file lie behind the model: its zip archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            start = min(entry.header_offset for entry in archive.infolist())
    # No archive, an empty one, or what zipfile raises for a damaged one.
    except (zipfile.BadZipFile, ArithmeticError, NotImplementedError, OSError, ValueError):
        return 0
    return len(data) - start if 0 < start < len(data) else 0


class _Builder(flatbuffers.Builder):
    """A Builder of tables given by the numbers of their fields in the schema."""

    def table(self, offsets: Mapping[int, int], codes: Mapping[int, int] | None = None) -> int:
        """Writes a table of references and 8-bit codes, both by field; returns its offset."""
        codes = codes or {}
        self.StartObject(1 + max([*offsets, *codes], default=-1))
        for field, offset in offsets.items():
            self.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, code in codes.items():
            self.PrependInt8Slot(field, code, 0)
        return self.EndObject()

    def tables(self, offsets: Sequence[int]) -> int:
        """Writes a vector of tables; returns its offset."""
        self.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.PrependUOffsetTRelative(offset)
        return self.EndVector()

    def blob(self, data: bytes) -> int:
        """Writes a vector of bytes, aligned to 16; returns its offset."""
        self.StartVector(1, len(data), 16)
        for byte in reversed(data):
            self.PrependByte(byte)
        return self.EndVector()

    def floats(self, values: Sequence[float]) -> int:
        """Writes a vector of float32; returns its offset."""
        return self.CreateNumpyVector(np.array(values, np.float32))


def _tensor(
    builder: _Builder,
    name: str,
    shape: tuple[int, ...],
    *,
    units: int = 0,
    files: int = 0,
    channels: str = "rgb",
) -> int:
    """Writes a TensorMetadata; an absent vector has offset 0."""
    color_space = schema.COLOR_SPACES.get(shape[3]) if len(shape) == 4 else None
    if color_space:
        # The standard knows no BGR: such an image is of an unknown order there.
        known = {} if channels == "bgr" else {schema.Image.COLOR_SPACE: color_space}
        kind, properties = schema.IMAGE, builder.table({}, known)
    else:
        kind, properties = schema.FEATURE, builder.table({})
    content = builder.table({schema.Content.PROPERTIES: properties}, {schema.Content.KIND: kind})
    return builder.table(
        {
            schema.Tensor.NAME: builder.CreateString(name),
            schema.Tensor.CONTENT: content,
            schema.Tensor.UNITS: units,
            schema.Tensor.FILES: files,
        }
    )


def _units(builder: _Builder, metadata: ModelMetadata) -> int:
    """Writes the ProcessUnits of the input."""
    if not metadata.mean:
        return 0
    numbers = {
        schema.Normalization.MEAN: builder.floats(metadata.mean),
        schema.Normalization.STD: builder.floats(metadata.std),
    }
    options = {schema.Unit.OPTIONS: builder.table(numbers)}
    return builder.tables([builder.table(options, {schema.Unit.KIND: schema.NORMALIZATION})])


def _files(builder: _Builder, metadata: ModelMetadata) -> int:
    """Writes the AssociatedFiles of the output."""
    if not metadata.labels:
        return 0
    name = builder.CreateString(_LABELS)
    kind = {schema.File.KIND: schema.LABELS_ARE_AXIS}
    return builder.tables([builder.table({schema.File.NAME: name}, kind)])


def _custom(builder: _Builder, metadata: ModelMetadata) -> int:
    """Writes the CustomMetadata that tell how pictures are fitted; 0 where all is as usual.

    A text of lines `name=value`, as java.util.Properties reads it. A line that is absent means what
    `ModelMetadata` has by default.
    """
    usual = ModelMetadata()
    lines = [
        f"{name}={getattr(metadata, name)}\n"
        for name in schema.FITTED
        if getattr(metadata, name) != getattr(usual, name)
    ]
    if not lines:
        return 0
    data = builder.blob("".join(lines).encode())
    name = builder.CreateString(schema.FITTING)
    return builder.tables([builder.table({schema.Custom.NAME: name, schema.Custom.DATA: data})])


def _problems(metadata: ModelMetadata, graph: Graph) -> list[str]:
    """One line for each thing that does not fit."""
    found = []
    if len(graph.inputs) != 1 and metadata.mean:
        found.append(f"mean and std need one input. Received: {sorted(graph.inputs)}")
    if len(graph.outputs) != 1 and metadata.labels:
        found.append(f"labels need one output. Received: {sorted(graph.outputs)}")
    if found:
        return found
    shape = graph.tensors[next(iter(graph.inputs.values()))].shape
    classes = graph.tensors[next(iter(graph.outputs.values()))].shape[-1]
    if metadata.labels and len(metadata.labels) != classes:
        found.append(f"labels: {classes} are needed. Received: {len(metadata.labels)}")
    odd = [label for label in metadata.labels if not label.strip() or {*"\r\n"} & {*label}]
    if odd:
        found.append(f"labels must not be empty or hold line breaks. Received: {odd[:3]}")
    counts = {len(metadata.mean), len(metadata.std)}
    if len(counts) != 1 or not counts <= {0, 1, shape[-1]}:
        found.append(
            f"mean and std need one number each, or {shape[-1]}, one for each channel. "
            f"Received: mean={metadata.mean}, std={metadata.std}"
        )
    return found + value_problems(metadata)


def value_problems(metadata: ModelMetadata) -> list[str]:
    """Returns one line for each number or word that has no meaning, whatever the graph."""
    found = []
    if not all(map(math.isfinite, [*metadata.mean, *metadata.std])) or 0 in metadata.std:
        found.append(
            "mean and std must be finite, std not 0. "
            f"Received: mean={metadata.mean}, std={metadata.std}"
        )
    if metadata.channels not in CHANNELS:
        found.append(f"channels must be one of {CHANNELS}. Received: {metadata.channels!r}")
    if not 0 < metadata.crop <= 1:
        found.append(f"crop must lie in (0, 1]. Received: {metadata.crop!r}")
    if metadata.resize not in RESIZES:
        found.append(f"resize must be one of {RESIZES}. Received: {metadata.resize!r}")
    return found
