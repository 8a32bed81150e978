"""`ddq export`: a DDQ model becomes a .tflite file, and the asset of an app."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddq_tf.errors import DDQError
from ddq_tf.export.exporter import ExportResult, export_tflite
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.export.stream import told_states
from ddq_tf.files import atomic_write_bytes
from ddq_tf.jobs import android as app
from ddq_tf.jobs.latency import measured
from ddq_tf.jobs.loading import check_output, load_ddq_model, read_notes
from ddq_tf.jobs.pixels import pixels_of_model
from ddq_tf.pictures import DataOptions


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
    android: str | os.PathLike[str] | None = None,
    streaming: bool = False,
) -> ExportResult:
    """Exports a saved DDQ model; see `ddq_tf.export.export_tflite`.

    Metadata also tell how pictures are fitted to the model, if its file notes that.

    Args:
        source: the DDQ .keras file.
        out: the .tflite file to write.
        target: as for `export_tflite`, like all others that are not named here.
        input_type: likewise.
        output_type: likewise.
        keep_names: likewise.
        labels: a text file with the name of a class on each line, for the file's metadata.
        input_range: the values that pixels 0 and 255 become, for the file's metadata.
        android: an Android project that gets a copy as its asset; it needs labels, and an input
            range given here or noted in the model's file. None for none.
        streaming: as for `export_tflite`; an app for pictures has no use for it.

    Raises:
        DDQError: if the model cannot be loaded or exported, or a file cannot be written, or the
            Android project is none or could not use the file.
    """
    if streaming and android is not None:
        raise DDQError(
            "--android puts a model of whole pictures into an app for pictures. Received: "
            "--streaming too. Leave one of the two out; docs/android.md shows the loop of a stream"
        )
    out = check_output(out, ".tflite")
    asset = None if android is None else app.asset_of(android)
    notes = read_notes(source)
    if asset is not None and Path(source).is_file():
        app.check_told(labels is not None, input_range is not None or "input_range" in notes)
    metadata = _metadata(labels, input_range, notes, for_app=asset is not None)
    model = load_ddq_model(source)
    if asset is not None:
        app.check_model(model, metadata, target)
    result = export_tflite(
        model,
        out,
        target=target,
        input_type=input_type,
        output_type=output_type,
        keep_names=keep_names,
        metadata=metadata,
        streaming=streaming,
    )
    if asset is not None:
        atomic_write_bytes(asset, out.read_bytes())
    return result


def _metadata(
    labels: str | os.PathLike[str] | None,
    input_range: tuple[float, float] | None,
    notes: Mapping[str, Any],
    *,
    for_app: bool,
) -> ModelMetadata | None:
    """Returns what the file should say of its input and output, None if nothing is asked for.

    An app gets the range that the model's file notes, where none is given.
    """
    if labels is None and input_range is None:
        return None
    names = [] if labels is None else read_lines(Path(labels))
    pixels = pixels_of_model(DataOptions(spec=""), notes)
    known = input_range or (pixels.input_range if for_app else None)
    metadata = (
        ModelMetadata(labels=names)
        if known is None
        else ModelMetadata.for_range(*known, labels=names)
    )
    fit = dataclasses.asdict(pixels.fit)
    return dataclasses.replace(metadata, channels=pixels.channels, **fit)


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DDQError(f"cannot read the labels {str(path)!r}: {error}") from error


def export_results(result: ExportResult) -> dict[str, Any]:
    """Returns what JSON should hold of an export.

    That is also the file's time, if the model has a table of times, of this computer.
    """
    kinds: dict[str, int] = {}
    for op in result.graph.ops:
        kinds[op.kind] = kinds.get(op.kind, 0) + 1
    predicted, timed = result.prediction, measured(result)
    return {
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "target": result.target.name,
        "min_runtime": result.min_runtime,
        "floor_bytes": result.sizes.floor,
        "above_floor_bytes": result.sizes.above_floor,
        "deflate_bytes": result.compressed.deflate,
        "code_entropy_bytes": result.compressed.code_entropy,
        "num_ops": len(result.graph.ops),
        "ops": kinds,
        "states": list(told_states(result.graph)),
        "predicted_us": None if predicted is None else predicted.us,
        "predicted_int8_us": None if predicted is None else predicted.int8_us,
        "measured_us": None if timed is None else timed.us,
        "measured_int8_us": None if timed is None else timed.int8_us,
        "measured_ratio": None if timed is None else timed.ratio,
    }
