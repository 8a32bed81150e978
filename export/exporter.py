"""`export_tflite`: from a trained DDQ model to a file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ddq_tf.export import tflite
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.files import atomic_write_bytes
from ddq_tf.targets import Target, get_target

# The converter's name for it, and its width in bytes; here in releases of LiteRT.
_MIN_RUNTIME, _MIN_RUNTIME_BYTES = "min_runtime_version", 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file.
        size_bytes: its size.
        target: what it was written for.
        graph: the integer graph in the file.
        min_runtime: the oldest LiteRT release that runs it delegated.
    """

    path: Path
    size_bytes: int
    target: Target
    graph: Graph
    min_runtime: str


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    input_type: str = "int8",
    output_type: str = "int8",
    keep_names: bool = False,
) -> ExportResult:
    """Writes a DDQ model as an integer-only .tflite file.

    Args:
        model: as `quantize_model` returns it; any state of training.
        path: the file to write. It appears whole or not at all.
        target: a name of `ddq_tf.targets.TARGETS`; None for the one the model was made for.
        input_type: "int8", "uint8" or "float32".
        output_type: likewise.
        keep_names: whether to keep the names of inner tensors, for looking at the file.

    Raises:
        DDQError: if layers have no integer form (all are named), or an argument is unknown.
    """
    config = getattr(model, "ddq_config", None)
    chosen = get_target(target or (config.target if config else "litert"))
    graph = run_passes(lower(model, input_type=input_type, output_type=output_type), chosen)
    min_runtime = chosen.min_runtime[_narrowest(graph)]
    entry = {_MIN_RUNTIME: min_runtime.encode().ljust(_MIN_RUNTIME_BYTES, b"\0")}
    graph = dataclasses.replace(graph, metadata={**graph.metadata, **entry})
    data = tflite.write(graph, keep_names=keep_names)
    atomic_write_bytes(Path(path), data)
    return ExportResult(
        path=Path(path),
        size_bytes=len(data),
        target=chosen,
        graph=graph,
        min_runtime=min_runtime,
    )


def _narrowest(graph: Graph) -> int:
    """Bits of the narrowest constant."""
    narrow = {DType.INT4, DType.INT2}
    return min((t.dtype.bits for t in graph.tensors.values() if t.dtype in narrow), default=8)
