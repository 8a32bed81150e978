"""`export_tflite`: from a trained DDQ model to a file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from absl import logging

from ddq_tf.arguments import check_is, check_path
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export import metadata_schema, model_metadata, runtime_check, tflite, tflm
from ddq_tf.export.interpreter import check_loads
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.lower import lower, named_target
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.export.operator_times import prediction_of
from ddq_tf.export.passes import run_passes
from ddq_tf.export.sizes import ByteSizes, CompressedSizes, compressed, itemize
from ddq_tf.files import atomic_write_bytes, check_writable
from ddq_tf.grids import align_if_needed
from ddq_tf.latency import LatencyPrediction, LatencyTable
from ddq_tf.layers import weighted_layers
from ddq_tf.scheme import MAX_BITS
from ddq_tf.targets import Target

# The stock converter's name and width in bytes. Its numbers are releases of TensorFlow, ours are
# releases of LiteRT, whose count began again at 1.0.
_MIN_RUNTIME, _MIN_RUNTIME_BYTES = "min_runtime_version", 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the file.
        size_bytes: its size.
        target: what it was written for.
        graph: the integer graph in the file.
        min_runtime: the oldest release of the target's runtime that runs it as intended; the file
            holds it too.
        sizes: what the bytes are spent on.
        compressed: how few they are behind a compressor.
        prediction: what the operators with weights take in time by the model's `latency_table`;
            None without one, or where it lacks an operator, as of a file for another target.
        int8_graph: with a prediction, the graph with the same codes stored in INT8; else None.
    """

    path: Path
    size_bytes: int
    target: Target = dataclasses.field(repr=False)
    graph: Graph = dataclasses.field(repr=False)
    min_runtime: str
    sizes: ByteSizes
    compressed: CompressedSizes
    prediction: LatencyPrediction | None = None
    int8_graph: Graph | None = dataclasses.field(default=None, repr=False)

    def __fspath__(self) -> str:
        """Stands for its file, wherever a path is taken."""
        return os.fspath(self.path)


def export_tflite(
    model: Any,
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    input_type: str = "int8",
    output_type: str = "int8",
    keep_names: bool = False,
    metadata: ModelMetadata | None = None,
    streaming: bool = False,
) -> ExportResult:
    """Writes a DDQ model as an integer-only .tflite file, which LiteRT has loaded before.

    A model that exceeds its own budget, for want of training, is exported with a warning; so is one
    with scales that XNNPACK leaves to slower kernels. One that was trained without `fit` is aligned
    first, as `fit` does at its end: its scales and biases move by about a thousandth, so that the
    file computes what the model then does.

    Args:
        model: as `quantize_model` returns it; any state of training.
        path: the file to write. It appears whole or not at all.
        target: a name of `ddq_tf.targets.TARGETS`; None for the one the model was made for.
        input_type: "int8", "uint8" or "float32".
        output_type: likewise.
        keep_names: whether to keep the names of inner tensors, for looking at the file. Inputs and
            outputs keep theirs anyway, and the signature shows the Keras names.
        metadata: labels and normalization, as apps and tools read them; None for none.
        streaming: whether the file computes one time step of a model with recurrent layers. It
            takes the step's features, (batch, features), and the states that the step before left,
            and gives the output and the new states under the same names: "lstm_h" and "lstm_c" of
            a layer "lstm". States are int8 codes, at first their zero points. `Stream` runs such a
            file. After all steps its codes are those of the file of the whole sequence.

    Raises:
        DDQError: if layers have no integer form, or scales or sums that LiteRT cannot run, or need
            more than one step and the states to stream (all are named), or LiteRT refuses the file,
            or an argument is unknown or does not fit the model, or the target needs a package that
            is missing.
    """
    check_path("path", path)
    check_writable(path)
    check_is("metadata", metadata, ModelMetadata | None)
    check_is("streaming", streaming, bool)
    named = named_target(model, target)
    if streaming and named.runtime != "LiteRT":
        raise DDQError(
            "streaming=True needs a target that runs in LiteRT, where a step is proved exact. "
            f"Received: {named.name!r}. Choose 'litert', or export the whole sequence"
        )
    if named.lookup_tables:
        tflm.package()
    types = {"input_type": input_type, "output_type": output_type}
    lowered = lower(model, named, **types, streaming=streaming)
    chosen = target_of(model, target)
    if align_if_needed(model):
        lowered = lower(model, named, **types, streaming=streaming)
    graph = run_passes(lowered, chosen)
    _check_operators(graph, chosen)
    runs_in_litert = chosen.runtime == "LiteRT"
    if runs_in_litert:
        runtime_check.check(graph)
    oldest = chosen.min_runtime[_narrowest(graph)]
    entries = {_MIN_RUNTIME: oldest.encode().ljust(_MIN_RUNTIME_BYTES, b"\0")}
    if metadata is not None:
        model_metadata.check(metadata, graph)
        entries[metadata_schema.ENTRY] = model_metadata.encode(metadata, graph)
    graph = dataclasses.replace(graph, metadata={**graph.metadata, **entries})
    data = plain = tflite.write(graph, keep_names=keep_names)
    if chosen.lookup_tables:
        data = tflm.compress(plain)
    if metadata is not None:
        data = model_metadata.attach(data, metadata)
    if runs_in_litert:
        check_loads(data)
        _warn_of_slow_ops(graph)
    atomic_write_bytes(Path(path), data)
    _warn_above_budget(model)
    prediction = _prediction(model, graph)
    return ExportResult(
        path=Path(path),
        size_bytes=len(data),
        target=chosen,
        graph=graph,
        min_runtime=oldest,
        sizes=tflm.itemize_compressed(plain, data) if chosen.lookup_tables else itemize(data),
        compressed=compressed(data, plain),
        prediction=prediction,
        int8_graph=prediction and run_passes(lowered, chosen.at_least(MAX_BITS)),
    )


def target_of(model: Any, name: str | None = None) -> Target:
    """Returns what a model is stored for, without storage narrower than it may learn.

    Codes that happen to fit into fewer bits would ask for a runtime that nobody chose.

    Args:
        model: a DDQ model.
        name: of the target; None for the model's own.

    Raises:
        DDQError: if there is no such target.
    """
    offered = [layer.quantizer.precisions[0] for layer in weighted_layers(model)]
    return named_target(model, name).at_least(min(offered, default=MAX_BITS))


def min_runtime(data: bytes) -> str:
    """Returns the oldest release that runs a file, as the file says; "" if it does not.

    Args:
        data: the content of a .tflite file.

    Raises:
        DDQError: if it cannot be read; see `ddq_tf.export.tflite.read`.
    """
    return tflite.read(data).metadata.get(_MIN_RUNTIME, b"").rstrip(b"\0").decode()


def _check_operators(graph: Graph, target: Target) -> None:
    lines = [
        f"layer {op.source!r}: {target.runtime} has no {op.kind}"
        for op in graph.ops
        if op.kind in target.missing_operators
    ]
    raise_all(f"the target {target.name!r} cannot run the model; choose another:", lines)


def _warn_of_slow_ops(graph: Graph) -> None:
    lines = runtime_check.left_to_built_in_kernels(graph)
    if lines:
        logging.warning("XNNPACK leaves to slower kernels:\n  - %s", "\n  - ".join(lines))


def _warn_above_budget(model: Any) -> None:
    budget = getattr(model, "weight_budget", None)
    if budget is None or budget.capacity_bits is None or budget.used_bits <= budget.capacity_bits:
        return
    logging.warning(
        "model %r takes %d weight bytes, more than its budget of %d: its precisions are not final. "
        "They become so in `fit`; what a callback saves before that, as ModelCheckpoint with "
        "save_best_only may, is larger. Export the model that `fit` has left.",
        model.name,
        budget.used_bits // 8,
        int(budget.capacity_bits / 8),
    )


def _prediction(model: Any, graph: Graph) -> LatencyPrediction | None:
    config = getattr(model, "ddq_config", None)
    table = None if config is None else config.latency_table
    if not isinstance(table, LatencyTable):
        return None
    return prediction_of(graph, table, {layer.name for layer in weighted_layers(model)})


def _narrowest(graph: Graph) -> int:
    """Bits of the narrowest constant."""
    narrow = {DType.INT4, DType.INT2}
    return min((t.dtype.bits for t in graph.tensors.values() if t.dtype in narrow), default=8)
