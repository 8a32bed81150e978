"""What the bytes of a .tflite file are spent on, and how few there could be."""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.export import tflite
from ddq_tf.export.ir import Graph
from ddq_tf.export.model_metadata import attached_bytes
from ddq_tf.export.operators import weight_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteSizes:
    """Bytes of a file by what they hold; what several tensors share is counted once.

    Attributes:
        weights: packed codes of weights.
        biases: of weighted ops.
        weight_scales: one for each channel, or tensor.
        other_scales: of activations, and of biases where they differ from their weights'.
        zero_points: of all tensors; TFLite wants one of 8 bytes for every scale.
        metadata: entries beside the graph, such as the minimum runtime, and attached files.
        structure: all the rest: tables, shapes, names, other constants, alignment.
        shared: what equal weights, biases or weight scales, stored once, would take besides.
    """

    weights: int
    biases: int
    weight_scales: int
    other_scales: int
    zero_points: int
    metadata: int
    structure: int
    shared: int

    @property
    def floor(self) -> int:
        """The least unless tensors are equal: packed codes, biases and weight scales."""
        return self.weights + self.biases + self.weight_scales + self.shared

    @property
    def total(self) -> int:
        """Size of the file."""
        return sum(dataclasses.astuple(self)) - self.shared

    @property
    def above_floor(self) -> dict[str, int]:
        """The bytes above the floor, by what they hold; what is shared counts below it."""
        kinds = ("other_scales", "zero_points", "metadata", "structure")
        return {kind: getattr(self, kind) for kind in kinds} | {"shared": -self.shared}

    @property
    def above_floor_share(self) -> float:
        """Share of the floor by which the file exceeds it; 0 without weights."""
        return self.total / self.floor - 1 if self.floor else 0.0

    def __str__(self) -> str:
        rows = {**dataclasses.asdict(self), "total": self.total, "floor": self.floor}
        lines = [f"{kind.replace('_', ' '):<14}{size:>12,} B" for kind, size in rows.items()]
        return "\n".join([*lines, f"{'above floor':<14}{self.above_floor_share:>12.2%}"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressedSizes:
    """Bytes of a file behind a compressor: what an app's download costs, not its memory.

    Attributes:
        deflate: the whole file, by zlib's deflate at its highest level, as a zip archive packs it.
        code_entropy: the weight codes alone, at the entropy of each tensor's codes,
            sum over tensors of -sum_c n_c log2(n_c / n) / 8, rounded up: what no coder that sees
            codes one by one can go below. Learned precisions below the stored ones show here.
    """

    deflate: int
    code_entropy: int


def compressed(data: bytes, plain: bytes | None = None) -> CompressedSizes:
    """Returns how small compressors make a .tflite file.

    Args:
        data: the content of the file.
        plain: the content before weights became lookup tables; None for the same.

    Raises:
        DDQError: if it cannot be read; see `ddq_tf.export.tflite.read`.
    """
    return CompressedSizes(deflate=deflated(data), code_entropy=code_entropy(plain or data))


def code_entropy(data: bytes) -> int:
    """Returns the bytes of a .tflite file's weight codes at their entropy; see `CompressedSizes`.

    Args:
        data: the content of the file.

    Raises:
        DDQError: if it cannot be read; see `ddq_tf.export.tflite.read`.
    """
    graph = tflite.read(data)
    weights, _ = _roles(graph)
    return math.ceil(sum(_entropy_bits(graph.tensors[name].data) for name in weights) / 8)


def deflated(data: bytes) -> int:
    """Returns the bytes of any file by zlib's deflate at its highest level."""
    raw = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    return len(raw.compress(data)) + len(raw.flush())


def _entropy_bits(codes: np.ndarray | None) -> float:
    counts = np.unique(np.asarray(codes), return_counts=True)[1]
    return float(np.sum(counts * np.log2(counts.sum() / counts)))


def itemize(data: bytes) -> ByteSizes:
    """Returns what the bytes of a .tflite file are spent on.

    Args:
        data: the content of the file.

    Raises:
        DDQError: if it cannot be read; see `ddq_tf.export.tflite.read`.
    """
    graph = tflite.read(data)
    with tflite.refusing_damage(data):
        return _itemized(data, graph)


def _itemized(data: bytes, graph: Graph) -> ByteSizes:
    """Returns what the bytes of a file are spent on.

    Args:
        data: the content of the file.
        graph: the same, read.
    """
    weights, biases = _roles(graph)
    model: Any = schema.Model.GetRootAs(data)  # `read` has seen that every table is there
    found = _Vectors()
    subgraph = model.Subgraphs(0)
    tensors = {name: subgraph.Tensors(index) for index, name in enumerate(graph.tensors)}
    # In this order, as a vector counts for the first that has it.
    for name in weights | biases:
        content = model.Buffers(tensors[name].Buffer()).DataAsNumpy()
        found.enter("weights" if name in weights else "biases", content)
    for name in [*weights, *(name for name in tensors if name not in weights)]:
        grid = tensors[name].Quantization()
        if grid is not None:
            kind = "weight_scales" if name in weights else "other_scales"
            found.enter(kind, grid.ScaleAsNumpy())
            found.enter("zero_points", grid.ZeroPointAsNumpy())
    for index in range(model.MetadataLength()):
        found.enter("metadata", model.Buffers(model.Metadata(index).Buffer()).DataAsNumpy())
    found.sizes["metadata"] += attached_bytes(data)
    floor = ("weights", "biases", "weight_scales")
    return ByteSizes(
        **found.sizes,
        structure=len(data) - sum(found.sizes.values()),
        shared=sum(found.asked[kind] - found.sizes[kind] for kind in floor),
    )


class _Vectors:
    """Vectors of a file, each counted once, however many tables refer to it.

    Attributes:
        sizes: bytes by kind.
        asked: likewise, those that are counted elsewhere too.
    """

    def __init__(self):
        kinds = ("weights", "biases", "weight_scales", "other_scales", "zero_points", "metadata")
        self.sizes: dict[str, int] = dict.fromkeys(kinds, 0)
        self.asked = dict(self.sizes)
        self._places: set[int] = set()

    def enter(self, kind: str, vector: object) -> None:
        """Counts a vector; generated accessors return the number 0 for an absent one."""
        if isinstance(vector, np.ndarray) and vector.size:
            place = vector.__array_interface__["data"][0]
            self.asked[kind] += vector.nbytes
            self.sizes[kind] += 0 if place in self._places else vector.nbytes
            self._places.add(place)


def _roles(graph: Graph) -> tuple[set[str], set[str]]:
    """Returns the constants that are weights and those that are biases."""
    weighted = [op for op in graph.ops if weight_kind(op) is not None]
    weights = {name for op in weighted for name in op.inputs[1:2]}
    biases = {name for op in weighted for name in op.inputs[2:] if name}
    constants = {name for name, tensor in graph.tensors.items() if tensor.is_constant}
    return weights & constants, biases & constants
