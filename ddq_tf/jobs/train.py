"""`ddq train`: a float model from scratch."""

from __future__ import annotations

import dataclasses
import inspect
import os
from typing import Any

import keras

from ddq_tf import data, models
from ddq_tf.errors import DDQError
from ddq_tf.jobs import plan
from ddq_tf.jobs.images import Images, as_pictured
from ddq_tf.jobs.loading import check_output, save_model
from ddq_tf.jobs.measure import ModelOutcome, keras_accuracy
from ddq_tf.jobs.pixels import pixels_of_builder
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import Augment, DataOptions
from ddq_tf.recipes import TrainConfig
from ddq_tf.training import fit_classifier

_SMALLEST_MOMENTUM = 0.9
_HORIZON = 50  # steps of moving statistics in a training; as 0.999 has in 50,000 steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(ModelOutcome):
    """A trained float model and what was measured of it.

    Attributes:
        num_params: how many parameters it has.
        accuracy: by split, in [0, 1].
        history: per-epoch values by name.
    """

    num_params: int
    accuracy: dict[str, float]
    history: dict[str, list[float]] = dataclasses.field(repr=False)

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        return {
            **super().results,
            "num_params": self.num_params,
            "accuracy": self.accuracy,
            "num_samples": {split: self.images.count(split) for split in self.accuracy},
            "history": self.history,
        }


def train_float(
    name: str,
    options: DataOptions,
    config: TrainConfig,
    *,
    out: str | os.PathLike[str],
    image_size: int | None = None,
    model_options: dict[str, Any] | None = None,
    augment: Augment | str | None = "auto",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    screen: Screen | None = None,
) -> Trained:
    """Builds a model by name, trains it and saves it as a .keras file.

    Args:
        name: a key of `ddq_tf.models.MODELS`.
        options: the data; an input range of None is what the model was published with.
        config: the recipe; its batch size must be that of `options`.
        out: the .keras file to write.
        image_size: side in pixels; None for that of the data.
        model_options: for the builder, such as alpha.
        augment: random changes to training images; see `ddq_tf.data.augment_for`.
        checkpoint_dir: see `fit_classifier`.
        screen: where to tell what is going on.

    Raises:
        DDQError: if the model, the data or the file cannot be had; before any training.
    """
    screen = screen or Screen()
    out = check_output(out, ".keras")
    _check_options(name, model_options or {})
    images = as_pictured(options, pixels_of_builder(options, name), image_size=image_size)
    dataset = images.dataset
    changes = data.augment_for(dataset.name, augment)
    train, steps = images.training(changes, config.seed)
    model = _build(name, images, config, steps, model_options or {})
    screen.heading(
        f"Training {model.name}: {images.count('train'):,} images of {dataset.name}, "
        f"{config.epochs} epochs"
    )
    screen.table([*plan.data_rows(images), *plan.training_rows(config, steps, changes)])
    history = fit_classifier(
        model,
        train,
        images.batches("val"),
        config,
        steps_per_epoch=steps,
        checkpoint_dir=checkpoint_dir,
        callbacks=[plan.Forecast(screen, images.num_batches("val"))],
        verbose=screen.fit_verbose,
    )
    save_model(model, out, {**images.notes, "seed": config.seed})
    return Trained(
        model=model,
        path=out,
        images=images,
        num_params=model.count_params(),
        accuracy={split: keras_accuracy(model, images, split, screen) for split in ("val", "test")},
        history={key: [float(v) for v in values] for key, values in history.history.items()},
    )


def _build(
    name: str, images: Images, config: TrainConfig, steps: int, model_options: dict[str, Any]
) -> keras.Model:
    """Builds the model for the data."""
    keras.utils.set_random_seed(config.seed)
    dataset = images.dataset
    chosen = {"batch_norm_momentum": _momentum(name, config.epochs * steps), **model_options}
    return models.build(name, dataset.image_shape, len(dataset.class_names), **chosen)


def _check_options(name: str, model_options: dict[str, Any]) -> None:
    """Rejects options that the model's builder does not know."""
    if name not in models.MODELS:
        raise DDQError(f"model must be one of {sorted(models.MODELS)}. Received: model={name!r}")
    known = inspect.signature(models.MODELS[name]).parameters
    foreign = sorted(set(model_options) - set(known))
    if foreign:
        raise DDQError(f"model {name!r} has no {' and no '.join(foreign)}; leave it out")


def _momentum(name: str, total_steps: int) -> float:
    """Returns a BatchNorm momentum whose statistics settle well within the training."""
    default = inspect.signature(models.MODELS[name]).parameters["batch_norm_momentum"].default
    return min(default, max(_SMALLEST_MOMENTUM, 1 - _HORIZON / total_steps))
