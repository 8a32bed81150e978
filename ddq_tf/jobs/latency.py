"""The times of a model's operators, as a file; and what a file was predicted to take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.exporter import ExportResult
from ddq_tf.export.operator_times import device_times, host_times, shapes_in, side_by_side
from ddq_tf.files import atomic_write_bytes, check_writable
from ddq_tf.jobs.loading import load_model
from ddq_tf.jobs.record import machine, now
from ddq_tf.jobs.screen import Screen
from ddq_tf.latency import LatencyTable, OperatorShape
from ddq_tf.search import DDQModel
from ddq_tf.search.times import layer_shapes
from ddq_tf.targets import Target, get_target
from ddq_tf.transform.quantize import examine, in_float32, rebuilt

Source = str | os.PathLike[str] | keras.Model


def host_table(
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    *,
    target: str = "litert",
    runs: int = 200,
    num_threads: int = 1,
    screen: Screen | None = None,
) -> LatencyTable:
    """Times the operators with weights of models on this computer, and writes the table.

    Args:
        sources: float or DDQ models, or files: .keras, .h5 or .tflite.
        out: the JSON file to write.
        target: where the file will run: it says which widths are timed.
        runs: timed runs of each operator and width, in turns.
        num_threads: of each operator.
        screen: where to tell what is going on.

    Raises:
        DDQError: if a file cannot be read, a model cannot be quantized, or the table cannot be
            written.
    """
    return _written(
        sources,
        out,
        target,
        screen,
        lambda shapes, chosen, on_round: host_times(
            shapes,
            chosen,
            machine=_this_machine(),
            created=now(),
            runs=runs,
            num_threads=num_threads,
            on_round=on_round,
        ),
    )


def device_table(
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    *,
    target: str = "litert",
    num_threads: int = 1,
    screen: Screen | None = None,
    **options: Any,
) -> LatencyTable:
    """Times the operators with weights of models on a phone, and writes the table.

    Args:
        sources: as for `host_table`.
        out: likewise.
        target: likewise.
        num_threads: of each operator.
        screen: where to tell what is going on.
        options: of `ddq_tf.export.deploy`.

    Raises:
        DDQError: as `host_table` and `deploy`.
    """
    return _written(
        sources,
        out,
        target,
        screen,
        lambda shapes, chosen, on_round: device_times(
            shapes,
            chosen,
            created=now(),
            num_threads=num_threads,
            on_round=on_round,
            **options,
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """A file's time on this computer, of one example.

    Attributes:
        us: the median of its inferences, in microseconds.
        int8_us: the same with the codes stored in INT8.
        ratio: the median of both times' ratio, inference by inference.
    """

    us: float
    int8_us: float
    ratio: float


def measured(result: ExportResult) -> Measured | None:
    """Times an exported file, if it was predicted by a table of this computer; None else.

    Args:
        result: of the export.
    """
    told = result.prediction
    twin = result.int8_graph
    if told is None or twin is None or told.table.machine != _this_machine():
        return None
    us, int8_us, ratio = side_by_side(result.graph, twin, num_threads=told.table.num_threads)
    return Measured(us=us, int8_us=int8_us, ratio=ratio)


def _this_machine() -> str:
    """What tables call this computer."""
    cpu = machine()
    return f"{cpu['cpu']} ({cpu['system']})"


Measure = Callable[[list[OperatorShape], Target, Callable[[int, int], None]], LatencyTable]


def _written(
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    target: str,
    screen: Screen | None,
    measure: Measure,
) -> LatencyTable:
    check_writable(out, "the table")
    chosen = get_target(target)
    if chosen.runtime != "LiteRT":
        raise DDQError(f"a table is of a target that runs in LiteRT. Received: target={target!r}")
    shapes = list(dict.fromkeys(s for source in sources for s in shapes_of(source, chosen)))
    with (screen or Screen()).bar() as show:
        table = measure(shapes, chosen, lambda done, total: show("operators", done, total))
    atomic_write_bytes(out, table.dumps())
    return table


def shapes_of(source: Source, target: Target) -> list[OperatorShape]:
    """Returns the operators with weights that a model has, or becomes when it is quantized.

    Args:
        source: see `host_table`.
        target: where the file will run.

    Raises:
        DDQError: likewise.
    """
    if not isinstance(source, keras.Model):
        path = Path(source)
        if path.suffix.lower() == ".tflite":
            return shapes_in(tflite.read(_content(path)), target)
        source = load_model(path)
    found = layer_shapes(_quantized(source, target), target)
    return [shape for shapes in found.values() for shape in shapes]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DDQError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _quantized(model: keras.Model, target: Target) -> keras.Model:
    """The DDQ model, which need not be calibrated."""
    if isinstance(model, DDQModel):
        return model
    with in_float32():
        _, graph = examine(model, target).checked()
        return rebuilt(graph, DDQConfig(target=target.name, budget=None), model).model
