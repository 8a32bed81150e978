"""`ddq export`: a DDQ model becomes a .tflite file."""

from __future__ import annotations

import os
from typing import Any

from ddq_tf.export.exporter import ExportResult, export_tflite
from ddq_tf.jobs.loading import check_output, load_ddq_model


def export_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str | None = None,
    input_type: str = "int8",
    output_type: str = "int8",
    keep_names: bool = False,
) -> ExportResult:
    """Exports a saved DDQ model; see `ddq_tf.export.export_tflite`.

    Raises:
        DDQError: if the model cannot be loaded or exported, or the file cannot be written.
    """
    out = check_output(out, ".tflite")
    return export_tflite(
        load_ddq_model(source),
        out,
        target=target,
        input_type=input_type,
        output_type=output_type,
        keep_names=keep_names,
    )


def export_results(result: ExportResult) -> dict[str, Any]:
    """Returns what JSON should hold of an export."""
    kinds: dict[str, int] = {}
    for op in result.graph.ops:
        kinds[op.kind] = kinds.get(op.kind, 0) + 1
    return {
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "target": result.target.name,
        "min_runtime": result.min_runtime,
        "num_ops": len(result.graph.ops),
        "ops": kinds,
    }
