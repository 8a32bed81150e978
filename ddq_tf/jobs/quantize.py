"""`ddq quantize`: a float model becomes a DDQ model that meets a budget."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import keras

from ddq_tf import data
from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes
from ddq_tf.jobs import plan
from ddq_tf.jobs.images import Images, open_for_model
from ddq_tf.jobs.loading import check_output, load_float_model, read_notes, save_model
from ddq_tf.jobs.measure import DDQOutcome, keras_accuracy
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import Augment, DataOptions
from ddq_tf.report import codec
from ddq_tf.search import DDQModel
from ddq_tf.training import QuantizerLogger, TrainConfig, fit_classifier
from ddq_tf.transform import quantize_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """What a training recorded, epoch by epoch.

    Attributes:
        history: values by name, as in `keras.callbacks.History`.
        bits_history: precision by layer.
        error_history: quantization error by layer, relative to its weights' power.
        range_history: mean range of its channels by layer.
        level_history: levels in force by layer, in units of the range, ascending.
    """

    history: dict[str, tuple[float, ...]] = dataclasses.field(repr=False)
    bits_history: dict[str, tuple[float, ...]] = dataclasses.field(repr=False)
    error_history: dict[str, tuple[float, ...]] = dataclasses.field(repr=False)
    range_history: dict[str, tuple[float, ...]] = dataclasses.field(repr=False)
    level_history: dict[str, tuple[tuple[float, ...], ...]] = dataclasses.field(repr=False)


_SERIES = tuple(field.name for field in dataclasses.fields(TrainingHistory))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized(TrainingHistory, DDQOutcome):
    """A trained DDQ model and what was measured of it.

    Attributes:
        accuracy: by split, in [0, 1].
    """

    accuracy: dict[str, float]

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        kept = ("accuracy", "history", "bits_history", "error_history")
        return {
            **super().results,
            "num_samples": {split: self.images.count(split) for split in self.accuracy},
            **{name: getattr(self, name) for name in kept},
        }


def quantize_float(
    source: str | os.PathLike[str] | keras.Model,
    options: DataOptions,
    ddq: DDQConfig,
    config: TrainConfig,
    *,
    out: str | os.PathLike[str],
    augment: Augment | str | None = "auto",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    screen: Screen | None = None,
) -> Quantized:
    """Quantizes a float classifier, trains precisions and weights, and saves the result.

    Writes `out` and, beside it, the training history (see `history_path`). With `config.distill`
    the float model teaches.

    Args:
        source: the float model, or its .keras or .h5 file.
        options: the data.
        ddq: target, budget and the rest.
        config: the recipe; its batch size must be that of `options`.
        out: the .keras file to write.
        augment: random changes to training images; see `ddq_tf.data.augment_for`.
        checkpoint_dir: see `fit_classifier`.
        screen: where to tell what is going on.

    Raises:
        DDQError: if model, data, budget or file cannot be had; before any training.
    """
    screen = screen or Screen()
    out = check_output(out, ".keras")
    model, notes = _opened(source)
    images = open_for_model(options, model, notes)
    quantized = quantize_model(model, ddq, images.calibration(ddq.calibration_images, ddq.seed))
    changes = data.augment_for(images.dataset.name, augment)
    train, steps = images.training(changes, config.seed)
    screen.heading(
        f"DDQ on {model.name}: {images.count('train'):,} images of {images.dataset.name}, "
        f"{config.epochs} epochs"
    )
    screen.table(
        [
            *plan.data_rows(images),
            *plan.float_rows(keras_accuracy(model, images, "val", screen), images),
            *plan.quantization_rows(quantized, ddq),
            *plan.training_rows(config, steps, changes),
        ]
    )
    logger = QuantizerLogger()
    history = fit_classifier(
        quantized,
        train,
        images.batches("val"),
        config,
        steps_per_epoch=steps,
        teacher=model,
        checkpoint_dir=checkpoint_dir,
        callbacks=[logger, plan.Forecast(screen, images.num_batches("val"))],
        verbose=screen.fit_verbose,
    )
    save_model(quantized, out, {**images.notes, "seed": config.seed})
    result = _measured(quantized, out, images, history, logger, screen)
    _save_history(result)
    return result


def history_path(model_path: str | os.PathLike[str]) -> Path:
    """Returns where the training history of a saved DDQ model lies."""
    return Path(model_path).with_suffix(".history.json")


def load_history(model_path: str | os.PathLike[str]) -> TrainingHistory:
    """Returns the history of a saved DDQ model's training; empty if there is none.

    Raises:
        DDQError: if the file beside the model is broken.
    """
    path = history_path(model_path)
    if not path.is_file():
        return TrainingHistory(**{name: {} for name in _SERIES})
    try:
        return codec.decode(TrainingHistory, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DDQError(f"cannot read the training history {str(path)!r}: {error}") from error


def _opened(source: Any) -> tuple[keras.Model, dict[str, Any]]:
    if isinstance(source, keras.Model):
        return source, {}
    return load_float_model(source), read_notes(source)


def _measured(
    model: DDQModel,
    path: Path,
    images: Images,
    history: keras.callbacks.History,
    logger: QuantizerLogger,
    screen: Screen,
) -> Quantized:
    return Quantized(
        model=model,
        path=path,
        images=images,
        accuracy={split: keras_accuracy(model, images, split, screen) for split in ("val", "test")},
        history=codec.plain(history.history),
        bits_history=codec.plain(logger.bits),
        error_history=codec.plain(logger.errors),
        range_history=codec.plain(logger.ranges),
        level_history=codec.plain(logger.levels),
    )


def _save_history(result: Quantized) -> None:
    values = codec.encode({name: getattr(result, name) for name in _SERIES})
    atomic_write_bytes(history_path(result.path), f"{json.dumps(values, indent=1)}\n".encode())
