"""What a report says, as frozen records that go to JSON and back (no TensorFlow, no plotting)."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import codec

SCHEMA = 2
FLOAT_LABEL = "float"
STOCK_LABEL = "stock int8"
DDQ_KERAS_LABEL = "DDQ (Keras)"
DDQ_LITERT_LABEL = "DDQ (LiteRT)"
THIS_LABEL = "this model"
ERROR_NAME = "quantization_error"
_MAX_HISTOGRAM_RANGE = 1.5


class _Record:
    """Gives a dataclass plain attributes (numpy values are converted), `to_dict`, `from_dict`."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, codec.plain(value))

    def to_dict(self) -> dict[str, Any]:
        """Returns values that JSON holds, from which `from_dict` restores the record."""
        return codec.encode(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        """Restores a record; raises DDQError if `values` does not describe one."""
        return codec.decode(cls, values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightHistogram(_Record):
    """How the weights of one layer lie, in units of the range of their channel.

    Attributes:
        edges: of the bins, ascending; one more than `counts`.
        counts: weights in each bin. Those outside count in the first and the last.
        levels: the values that a weight can take, ascending, in the same units.
        level_counts: weights that each level serves.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    levels: tuple[float, ...]
    level_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.edges) != len(self.counts) + 1 or len(self.levels) != len(self.level_counts):
            raise DDQError(
                "WeightHistogram needs one more edge than counts and one count per level. "
                f"Received: {len(self.edges)} edges, {len(self.counts)} counts, "
                f"{len(self.levels)} levels, {len(self.level_counts)} level_counts"
            )

    @classmethod
    def measure(
        cls, weights: np.ndarray, levels: np.ndarray, *, num_bins: int = 64
    ) -> WeightHistogram:
        """Counts weights by bin and by nearest level.

        Args:
            weights: unquantized weights, divided by the range of their channel.
            levels: level values, in units of the range.
            num_bins: number of bins.

        Raises:
            DDQError: if a weight is not finite or there are no levels.
        """
        flat = np.ravel(weights).astype(np.float64)
        num_odd = int(np.sum(~np.isfinite(flat)))
        if num_odd or not np.size(levels):
            raise DDQError(
                "A histogram needs finite weights and at least one level. "
                f"Received: {num_odd} weights that are not finite, {np.size(levels)} levels"
            )
        ordered = np.unique(np.asarray(levels, dtype=np.float64))
        largest = float(np.max(np.abs(flat), initial=1.0))
        limit = min(_MAX_HISTOGRAM_RANGE, largest)
        counts, edges = np.histogram(
            np.clip(flat, -limit, limit), bins=num_bins, range=(-limit, limit)
        )
        nearest = np.searchsorted((ordered[1:] + ordered[:-1]) / 2, flat)
        served = np.bincount(nearest, minlength=len(ordered))
        return cls(
            edges=codec.plain(edges),
            counts=codec.plain(counts),
            levels=codec.plain(ordered),
            level_counts=codec.plain(served),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerReport(_Record):
    """One weight-carrying layer.

    Attributes:
        name: of the layer.
        kind: what it computes, for example `OpKind.DEPTHWISE.value`.
        kernel_shape: as in Keras.
        num_weights: in the kernel.
        precisions: the bits that were learned over.
        num_bits: the precision in force, of channels with their own the mean.
        stored_bits: the width of a weight in the file.
        size_bytes: of the kernel in the file.
        quantization_error: sum (w - x_q)^2 / sum w^2 over the kernel.
        family: of its levels, "uniform" or "free".
        scale_min: the smallest channel scale.
        scale_max: the largest channel scale.
        float_zeros: the share of zeros among the float weights that training started from.
        zeros: the share of zeros among the codes.
        histogram: of the weights, if measured.
    """

    name: str
    kind: str
    kernel_shape: tuple[int, ...]
    num_weights: int
    precisions: tuple[int, ...]
    num_bits: float
    stored_bits: int
    size_bytes: int
    quantization_error: float
    family: str
    scale_min: float
    scale_max: float
    float_zeros: float = 0.0
    zeros: float = 0.0
    histogram: WeightHistogram | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActivationReport(_Record):
    """One quantized activation: real value = scale * (code - zero_point)."""

    name: str
    kind: str
    num_bits: int
    scale: float
    zero_point: int
    range_min: float
    range_max: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelVariant(_Record):
    """One form of the model, with what was measured of it.

    Attributes:
        label: `FLOAT_LABEL`, `STOCK_LABEL`, `DDQ_KERAS_LABEL`, `DDQ_LITERT_LABEL` or another.
        size_bytes: of the whole file, or None where there is no file.
        accuracy: in [0, 1].
        num_samples: that the accuracy was measured on.
        average_bits: per weight.
        deflate_bytes: of the whole file as a zip archive packs it, or None where there is no file.
    """

    label: str
    size_bytes: int | None = None
    accuracy: float | None = None
    num_samples: int | None = None
    average_bits: float | None = None
    deflate_bytes: int | None = None

    @property
    def is_ddq(self) -> bool:
        """Whether this form came from DDQ."""
        return self.label.startswith("DDQ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement(_Record):
    """How far the exported file computes what the trained model computes.

    Attributes:
        num_samples: that both were run on.
        top1_agreement: share of samples with the same answer, in [0, 1].
        equal_codes_share: share of output codes that are equal, in [0, 1].
        max_lsb: the largest difference of two output codes.
        weight_codes_identical: whether the file holds exactly the trained weight codes.
        delegated_ops: operators that the delegate runs, or None if not measured.
        total_ops: operators in the file, or None if not measured.
        partitions: connected pieces that the delegate runs, or None if not measured.
        undelegated: names of the operators that the delegate leaves to built-in kernels.
    """

    num_samples: int
    top1_agreement: float
    equal_codes_share: float
    max_lsb: int
    weight_codes_identical: bool
    delegated_ops: int | None = None
    total_ops: int | None = None
    partitions: int | None = None
    undelegated: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(_Record):
    """Everything that a report says.

    Attributes:
        title: headline.
        created: when, in ISO 8601.
        model_name: of the model.
        dataset: that the accuracies were measured on.
        target: deployment target.
        budget: as the user gave it, "" for none.
        rules: for each rule of the configuration, what it says and which layers it took.
        budget_average_bits: the budget as mean bits per weight, for the training curves.
        versions: of the packages involved.
        seed: of the training.
        command: that made the report.
        layers: in network order.
        activations: in network order.
        variants: in the order in which they should be read.
        agreement: of file and trained model, if verified.
        min_runtime: the oldest release that runs the file, as in "LiteRT 1.3.0"; "" without a file.
        floor_bytes: what the file's weight codes, biases and weight scales take.
        above_floor_bytes: what the rest of the file is spent on, by what it holds.
        code_entropy_bytes: what the weight codes would take at their entropy.
        history: per-epoch values by name, as in `keras.callbacks.History`; names with "loss",
            "acc", "error", "bits" and "price" are drawn.
        bits_history: per-epoch bits by layer name.
        error_history: per-epoch quantization error by layer name, as in `LayerReport`.
        compared_errors: of other trainings, by label: per-epoch quantization error of all weights.
        schema: version of this record.
    """

    title: str
    created: str
    model_name: str
    dataset: str = ""
    target: str = ""
    budget: str = ""
    rules: tuple[str, ...] = ()
    budget_average_bits: float | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    seed: int | None = None
    command: str = ""
    layers: tuple[LayerReport, ...] = ()
    activations: tuple[ActivationReport, ...] = ()
    variants: tuple[ModelVariant, ...] = ()
    agreement: Agreement | None = None
    min_runtime: str = ""
    floor_bytes: int | None = None
    above_floor_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    code_entropy_bytes: int | None = None
    history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    bits_history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    error_history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    compared_errors: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def num_weights(self) -> int:
        """Weights in all layers."""
        return sum(layer.num_weights for layer in self.layers)

    @property
    def weights_size_bytes(self) -> int:
        """Stored bytes of all kernels."""
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def average_bits(self) -> float | None:
        """Mean bits per weight, or None without layers."""
        if not self.num_weights:
            return None
        return sum(layer.num_weights * layer.num_bits for layer in self.layers) / self.num_weights

    def share_of_zeros(self, name: str) -> float:
        """Returns `float_zeros` or `zeros` of all weights together."""
        found = sum(layer.num_weights * getattr(layer, name) for layer in self.layers)
        return found / self.num_weights if self.num_weights else 0.0

    @property
    def errors(self) -> dict[str, tuple[float, ...]]:
        """Per-epoch quantization error of all weights by label, this model's training first."""
        own = self.history.get(ERROR_NAME, ())
        return {**({THIS_LABEL: own} if own else {}), **self.compared_errors}

    @property
    def result(self) -> ModelVariant | None:
        """The last DDQ form that is a file, else the last DDQ form, else None."""
        ours = [variant for variant in self.variants if variant.is_ddq]
        files = [variant for variant in ours if variant.size_bytes is not None]
        return (files or ours or [None])[-1]

    def variant(self, label: str) -> ModelVariant | None:
        """Returns the form called `label`, or None."""
        return next((variant for variant in self.variants if variant.label == label), None)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """Restores a report; raises DDQError if `values` does not describe one."""
        if not isinstance(values, Mapping) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, Mapping) else type(values).__name__
            raise DDQError(f"This is no ddq_tf report of schema {SCHEMA}. Received: {found!r}")
        return codec.decode(cls, values)


def save(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes a report as JSON."""
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write_bytes(pathlib.Path(path), (text + "\n").encode())


def load(path: str | os.PathLike[str]) -> Report:
    """Reads a report that `save` wrote.

    Raises:
        DDQError: if the file cannot be read or holds no report.
    """
    try:
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DDQError(f"Cannot read a report from {os.fspath(path)!r}: {error}") from error
    try:
        return Report.from_dict(values)
    except DDQError as error:
        raise DDQError(f"Cannot read a report from {os.fspath(path)!r}: {error}") from error
