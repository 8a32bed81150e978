"""A training that suits float and DDQ models alike: compile, `fit`, and resume."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.answers import right_answers, threshold_of
from ddq_tf.backend import need_tensorflow
from ddq_tf.errors import DDQError
from ddq_tf.recipes import TrainConfig
from ddq_tf.search import DDQModel, FiniteGuard
from ddq_tf.training.batch_norm import BatchNormReestimation
from ddq_tf.training.checkpoint import Checkpoint, Resumable
from ddq_tf.training.distillation import Distillation
from ddq_tf.training.optimizer import QuantizerLearningRate
from ddq_tf.training.oscillation import OscillationDampening, OscillationFreezing
from ddq_tf.training.outputs import answers_of, output_activation, outputs_logits

if TYPE_CHECKING:
    import tensorflow as tf

# Decay pulls towards 0, which means something only for kernels.
_NEVER_DECAYED = ("beta", "gamma", "bias", "log_range", "levels", "evidence")


def fit_classifier(
    model: keras.Model,
    train: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    config: TrainConfig,
    *,
    steps_per_epoch: int,
    from_logits: bool | None = None,
    teacher: keras.Model | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> keras.callbacks.History:
    """Compiles and trains a classifier with cross-entropy.

    Args:
        model: from images to (batch, classes), logits or probabilities.
        train: batches of (images, int labels (batch,)); repeated as often as needed.
        validation: like `train`, evaluated after each epoch, or None.
        config: the recipe.
        steps_per_epoch: batches per epoch.
        from_logits: whether the model gives logits; None looks (`outputs_logits`).
        teacher: whom a model with `config.distill` learns from.
        checkpoint_dir: folder for a `Checkpoint`: the same call after an interruption goes on at
            the first unfinished epoch, with the bits and losses of an undisturbed training. What is
            kept stays until `Checkpoint.remove`.
        callbacks: further Keras callbacks.
        verbose: as for `keras.Model.fit`.

    Returns:
        The Keras history of all epochs, those before an interruption too.

    Raises:
        DDQError: if TensorFlow is missing, an argument does not fit, the model's output tells
            neither way, the training diverges, or its data vanish; what is said then is where the
            finished epochs are.
    """
    need_tensorflow(
        "fit_classifier, which reads tf.data pipelines,", "Call compile and fit of the model"
    )
    import tensorflow as tf

    if steps_per_epoch < 1:
        raise DDQError(f"steps_per_epoch must be at least 1. Received: {steps_per_epoch!r}")
    if config.distill and teacher is None:
        raise DDQError(f"distill={config.distill!r} needs a teacher. Received: teacher=None")
    if from_logits is None:
        from_logits = outputs_logits(model)
    keras.utils.set_random_seed(config.seed)
    if config.label_smoothing:
        # The sparse loss cannot smooth.
        train = _one_hot(train, model)
        validation = None if validation is None else _one_hot(validation, model)
        loss: keras.losses.Loss = keras.losses.CategoricalCrossentropy(
            from_logits, config.label_smoothing
        )
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(
        optimizer=make_optimizer(config, config.epochs * steps_per_epoch),
        loss=loss,
        metrics=["accuracy"],
    )
    guard = [] if isinstance(model, DDQModel) else [FiniteGuard()]  # DDQModel.fit has its own
    given = [*guard, *_aids(config, train, teacher), *callbacks]
    kept = _kept(model, config, steps_per_epoch, given, checkpoint_dir)
    done = 0 if kept is None else kept.epochs_done
    try:
        history: Any = model.fit(
            train.repeat().skip(done * steps_per_epoch),
            validation_data=validation,
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            # What keeps comes last, to keep what the others leave.
            callbacks=given if kept is None else [*given, kept],
            shuffle=False,  # the default, True, draws a warning for every tf.data.Dataset
            verbose=verbose,  # type: ignore[arg-type]
        )
    except (
        tf.errors.NotFoundError,
        tf.errors.PermissionDeniedError,
        tf.errors.DataLossError,
    ) as error:
        saved = "nothing is kept" if kept is None else f"{kept.epochs_done} epochs are kept"
        where = "" if checkpoint_dir is None else f" in {os.fspath(checkpoint_dir)!r}"
        raise DDQError(
            f"training data cannot be read any more: {_reason(error)}. {saved}{where}"
        ) from error
    if kept is not None:
        history.history, history.epoch = kept.history, list(range(config.epochs))
    return history


def _reason(error: Exception) -> str:
    """What TensorFlow says beside the graph's nodes: "<file>; No such file or directory"."""
    lines = str(error).splitlines()
    said = next((line for line in lines if "; " in line), lines[0])
    return re.sub(r"\{\{.*?\}\}|\(\d+\) \w+:", "", said).strip()[:300]


def make_optimizer(config: TrainConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a recipe, its schedule laid over `total_steps` steps."""
    rate: Any = _schedule(config, total_steps)
    decay = config.weight_decay or None
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    elif config.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    else:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=list(_NEVER_DECAYED))
    if config.quantizer_learning_rate == 1:
        return optimizer
    return QuantizerLearningRate(optimizer, config.quantizer_learning_rate)


def accuracy(model: keras.Model, batches: tf.data.Dataset) -> float:
    """Returns the share of a model's answers that are right; see `ddq_tf.answers.right_answers`.

    Args:
        model: of one output; need not be compiled.
        batches: (inputs, labels), one epoch.

    Raises:
        DDQError: if there are no images, or labels are not of a classifier.
    """
    threshold = threshold_of(output_activation(model))
    correct, count = 0.0, 0
    for labels, outputs in answers_of(model, batches):
        correct += float(right_answers(labels, outputs, threshold).mean(axis=1).sum())
        count += len(outputs)
    if not count:
        raise DDQError("accuracy needs at least one batch of images. Received: none")
    return correct / count


def _schedule(
    config: TrainConfig, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    warmup = min(round(config.warmup_fraction * total_steps), total_steps - 1)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        decay_steps=total_steps - warmup,
        alpha=0.0 if config.schedule == "cosine" else 1.0,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _one_hot(batches: tf.data.Dataset, model: keras.Model) -> tf.data.Dataset:
    """Turns int labels (batch,) into float32 (batch, classes)."""
    import tensorflow as tf

    classes = model.output_shape[-1]
    return batches.map(lambda images, labels: (images, tf.one_hot(labels, classes)))


def _kept(
    model: Any,
    config: TrainConfig,
    steps_per_epoch: int,
    callbacks: Sequence[Any],
    checkpoint_dir: str | os.PathLike[str] | None,
) -> Checkpoint | None:
    """Returns the callback that keeps what an interruption would lose."""
    if checkpoint_dir is None:
        return None
    settings = {**dataclasses.asdict(config), "steps_per_epoch": steps_per_epoch}
    if hasattr(model, "ddq_config"):
        settings |= model.ddq_config.fingerprint()
    companions = [callback for callback in callbacks if isinstance(callback, Resumable)]
    return Checkpoint(checkpoint_dir, companions, settings)


def _aids(
    config: TrainConfig,
    train: tf.data.Dataset,
    teacher: keras.Model | None,
) -> list[keras.callbacks.Callback]:
    """Returns the training aids that a recipe asks for."""
    aids: list[keras.callbacks.Callback] = []
    if config.distill and teacher is not None:
        aids.append(Distillation(teacher, config.distill, config.distill_temperature))
    if config.dampening:
        aids.append(OscillationDampening(config.dampening))
    if config.freeze_oscillations:
        aids.append(OscillationFreezing(config.freeze_oscillations))
    if config.reestimate_batch_norm:
        aids.append(BatchNormReestimation(train, config.reestimate_batch_norm))
    return aids
