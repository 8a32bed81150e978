"""What the bytes of a .tflite file are spent on, and how few there could be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.export import tflite
from ddq_tf.export.ir import Graph
from ddq_tf.export.ops import weight_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteSizes:
    """Bytes of a file by what they hold; what several tensors share is counted once.

    Attributes:
        weights: packed codes of weights.
        biases: of weighted ops.
        scales: of all tensors.
        zero_points: of all tensors; TFLite wants one of 8 bytes for every scale.
        structure: all the rest: tables, shapes, names, other constants, alignment.
        floor: what no file of this format goes below unless tensors are equal: packed codes,
            biases and one scale per weight channel.
    """

    weights: int
    biases: int
    scales: int
    zero_points: int
    structure: int
    floor: int

    @property
    def total(self) -> int:
        """Size of the file."""
        return self.weights + self.biases + self.scales + self.zero_points + self.structure

    @property
    def above_floor(self) -> float:
        """Share of the floor by which the file exceeds it; below 0 where tensors are equal."""
        return self.total / self.floor - 1 if self.floor else 0.0

    def __str__(self) -> str:
        parts = ("weights", "biases", "scales", "zero_points", "structure", "total", "floor")
        rows = [f"{name.replace('_', ' '):<12}{getattr(self, name):>12,} B" for name in parts]
        return "\n".join([*rows, f"above floor {self.above_floor:>12.2%}"])


def itemize(data: bytes) -> ByteSizes:
    """Returns what the bytes of a .tflite file are spent on.

    Args:
        data: the content of the file.

    Raises:
        DDQError: if it cannot be read; see `ddq_tf.export.tflite.read`.
    """
    graph = tflite.read(data)
    weights, biases = _roles(graph)
    # Keyed by where a vector lies, as several tensors may refer to it.
    spans: dict[str, dict[int, int]] = {
        kind: {} for kind in ("weights", "biases", "scales", "zero_points")
    }
    model: Any = schema.Model.GetRootAs(data)  # `read` has seen that every table is there
    subgraph = model.Subgraphs(0)
    for index, name in enumerate(graph.tensors):
        tensor = subgraph.Tensors(index)
        grid = tensor.Quantization()
        if grid is not None:
            _enter(spans["scales"], grid.ScaleAsNumpy())
            _enter(spans["zero_points"], grid.ZeroPointAsNumpy())
        if name in weights | biases:
            content = model.Buffers(tensor.Buffer()).DataAsNumpy()
            _enter(spans["weights" if name in weights else "biases"], content)
    stored = {kind: sum(found.values()) for kind, found in spans.items()}
    return ByteSizes(
        **stored,
        structure=len(data) - sum(stored.values()),
        floor=sum(_floor(graph, name) for name in weights | biases),
    )


def _roles(graph: Graph) -> tuple[set[str], set[str]]:
    """Returns the constants that are weights and those that are biases."""
    weighted = [op for op in graph.ops if weight_kind(op) is not None]
    weights = {name for op in weighted for name in op.inputs[1:2]}
    biases = {name for op in weighted for name in op.inputs[2:] if name}
    constants = {name for name, tensor in graph.tensors.items() if tensor.is_constant}
    return weights & constants, biases & constants


def _floor(graph: Graph, name: str) -> int:
    """Bytes of a constant and, if it is a weight, its scales."""
    tensor = graph.tensors[name]
    size = -(-int(np.prod(tensor.shape)) * tensor.dtype.bits // 8)
    if len(tensor.shape) == 1 or tensor.quantization is None:  # a bias has one axis
        return size
    return size + tensor.quantization.scale.nbytes


def _enter(found: dict[int, int], vector: object) -> None:
    """Notes a vector's place and bytes; generated accessors return 0 for an absent one."""
    if isinstance(vector, np.ndarray) and vector.size:
        found[vector.__array_interface__["data"][0]] = vector.nbytes
