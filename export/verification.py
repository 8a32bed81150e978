"""The proof that a file computes what was trained: Keras against stock LiteRT on real data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.exporter import ExportResult
from ddq_tf.export.interpreter import Delegation, Runner, delegation
from ddq_tf.export.ir import Graph
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.graph import flatten, grid_of
from ddq_tf.graph.fold import Grid
from ddq_tf.targets import Target, get_target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """How well a file and its model agree.

    Attributes:
        num_samples: inputs compared.
        top1_agreement: share of inputs with the same greatest output.
        equal_codes_share: share of output codes that are equal.
        max_lsb: the largest difference of an output code.
        weight_codes_identical: whether every weight code in the file is the trained one.
        delegation: what one XNNPACK partition holds.
    """

    num_samples: int
    top1_agreement: float
    equal_codes_share: float
    max_lsb: int
    weight_codes_identical: bool
    delegation: Delegation


def verify(
    model: keras.Model,
    file: ExportResult | bytes | str | os.PathLike[str],
    batches: Iterable[Any],
    *,
    target: str | None = None,
    num_threads: int = 2,
) -> Verification:
    """Compares a DDQ model in Keras with its exported file in stock LiteRT.

    Args:
        model: the DDQ model that was exported.
        file: what `export_tflite` returned, or the file's path or content.
        batches: float32 inputs, or (inputs, labels) as pipelines give them.
        target: what the file was written for; None for the model's own or the result's.
        num_threads: used by each op.

    Raises:
        DDQError: if the file is none, is of another model, or there are no inputs.
    """
    content = _content(file)
    runner = Runner(content, num_threads=num_threads)
    grid = _output_grid(model)
    equal = total = same_top = samples = max_lsb = 0
    for batch in batches:
        images = np.asarray(batch[0] if isinstance(batch, tuple | list) else batch, np.float32)
        expected = _codes(np.asarray(model(images, training=False)), grid)
        received = next(iter(runner.run(runner.quantize_input(images)).values()))
        if expected.shape != received.shape:
            raise DDQError(
                f"the file needs outputs of the model's shape {expected.shape[1:]}. "
                f"Received: {received.shape[1:]}. It was exported from another model"
            )
        received = _codes(runner.dequantize(received), grid)
        difference = np.abs(expected - received)
        equal += int(np.sum(difference == 0))
        total += difference.size
        max_lsb = max(max_lsb, int(difference.max()))
        rows = len(images)
        tops = expected.reshape(rows, -1).argmax(1) == received.reshape(rows, -1).argmax(1)
        same_top += int(np.sum(tops))
        samples += rows
    if not samples:
        raise DDQError("verification needs at least one input. Received: none")
    return Verification(
        num_samples=samples,
        top1_agreement=same_top / samples,
        equal_codes_share=equal / total,
        max_lsb=max_lsb,
        weight_codes_identical=_same_weights(
            model, tflite.read(content), _target(model, file, target)
        ),
        delegation=delegation(content),
    )


def _content(file: ExportResult | bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(file, bytes):
        return file
    path = Path(file.path if isinstance(file, ExportResult) else file)
    if not path.is_file():
        raise DDQError(f"the .tflite file does not exist. Received: {str(path)!r}")
    return path.read_bytes()


def _target(model: Any, file: Any, target: str | None) -> Target:
    if target is None and isinstance(file, ExportResult):
        return file.target
    config = getattr(model, "ddq_config", None)
    return get_target(target or (config.target if config else "litert"))


def _output_grid(model: keras.Model) -> Grid:
    """The grid of the model's output, whatever type the file shows it in."""
    graph = flatten(model)
    return grid_of(graph, graph.outputs[0])


def _codes(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Real numbers as codes of a grid, int64."""
    codes = np.rint(np.asarray(values, np.float64) / np.float64(grid.scale))
    return np.clip(codes, grid.qmin, grid.qmax).astype(np.int64)


def _same_weights(model: keras.Model, written: Graph, target: Target) -> bool:
    """Whether the file's weights, unpacked, are the codes that the layers train with."""
    expected = run_passes(lower(model), target)
    trained = [t.data for t in _weights(expected)]
    stored = [t.data for t in _weights(written)]
    return len(trained) == len(stored) and all(
        a is not None and b is not None and np.array_equal(a, b)
        for a, b in zip(trained, stored, strict=True)
    )


def _weights(graph: Graph) -> list[Any]:
    """The weight tensors in the order of the ops that read them."""
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return [graph.tensors[op.inputs[1]] for op in graph.ops if op.kind in kinds]
