"""`ddq export`: a DDQ model becomes a .tflite file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ddq_tf.errors import DDQError
from ddq_tf.export.exporter import ExportResult, export_tflite
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.jobs.loading import check_output, load_ddq_model


def export_file(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    target: str | None = None,
    input_type: str = "int8",
    output_type: str = "int8",
    keep_names: bool = False,
    labels: str | os.PathLike[str] | None = None,
    input_range: tuple[float, float] | None = None,
) -> ExportResult:
    """Exports a saved DDQ model; see `ddq_tf.export.export_tflite`.

    Args:
        source: the DDQ .keras file.
        out: the .tflite file to write.
        target: as for `export_tflite`, like all others that are not named here.
        input_type: likewise.
        output_type: likewise.
        keep_names: likewise.
        labels: a text file with the name of a class on each line, for the file's metadata.
        input_range: the values that pixels 0 and 255 become, for the file's metadata.

    Raises:
        DDQError: if the model cannot be loaded or exported, or the file cannot be written.
    """
    out = check_output(out, ".tflite")
    metadata = _metadata(labels, input_range)
    return export_tflite(
        load_ddq_model(source),
        out,
        target=target,
        input_type=input_type,
        output_type=output_type,
        keep_names=keep_names,
        metadata=metadata,
    )


def _metadata(
    labels: str | os.PathLike[str] | None, input_range: tuple[float, float] | None
) -> ModelMetadata | None:
    """Returns what the file should say of its input and output, None if nothing is known."""
    if labels is None and input_range is None:
        return None
    names = [] if labels is None else read_lines(Path(labels))
    if input_range is None:
        return ModelMetadata(labels=names)
    return ModelMetadata.for_range(*input_range, labels=names)


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DDQError(f"cannot read the labels {str(path)!r}: {error}") from error


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
        "floor_bytes": result.sizes.floor,
        "above_floor_bytes": result.sizes.above_floor,
        "num_ops": len(result.graph.ops),
        "ops": kinds,
    }
