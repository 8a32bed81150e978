"""What a job will do, told before it starts, and about how long it takes once that is measured."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable
from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.jobs.collect import budget_text, time_text
from ddq_tf.jobs.images import Images
from ddq_tf.jobs.pixels import BY_DEFAULT
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import Augment, range_words
from ddq_tf.recipes import TrainConfig
from ddq_tf.report import wording
from ddq_tf.search import DDQModel, weight_budget

Row = tuple[str, str]

_TIMED_STEPS = 5  # behind the first, which is traced
_FORWARD = 1 / 3  # of a training step's time: about what an evaluated batch takes
_GUESSING = 1.5  # times the accuracy of guessing
_TIMED_SHARE = 0.05  # of a reconstruction's steps


def data_rows(images: Images) -> list[Row]:
    """Returns what the data are."""
    splits = ", ".join(f"{images.count(split):,} {split}" for split in ("train", "val", "test"))
    height, width = images.dataset.image_shape[:2]
    classes = len(images.dataset.class_names)
    told = f"{splits}; {height}x{width} px"
    rows = [("images", f"{told}; {classes} classes" if classes > 1 else told)]
    return [*rows, ("pixels", _pixel_words(images))]


def _pixel_words(images: Images) -> str:
    words = f"{range_words(images.input_range)}, {images.range_from}"
    guessed = images.range_from == BY_DEFAULT
    return f"{words}: give --input_range if that is wrong" if guessed else words


def float_rows(accuracy: float, images: Images) -> list[Row]:
    """Returns how good the float model is on these data, and what may be wrong if it only guesses.

    Args:
        accuracy: on the validation images.
        images: the data.
    """
    words = f"{wording.percent(accuracy)} of {images.count('val'):,} validation images"
    if accuracy > _GUESSING / len(images.dataset.class_names):
        return [("float model", words)]
    return [
        (
            "float model",
            f"{words}: hardly more than guessing. Do pixels have the range that it was trained "
            "with (--input_range)? Are the classes in its order (folders are taken by name)? Does "
            "model.evaluate find it good?",
        )
    ]


def quantization_rows(model: DDQModel, config: DDQConfig) -> list[Row]:
    """Returns what is quantized, and what it may take.

    Args:
        model: the DDQ model; need not be calibrated.
        config: of it.
    """
    budget = weight_budget(model, config)
    kinds = collections.Counter(wording.short_kind(layer.kind.value) for layer in budget.layers)
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    learned = sorted({bits for layer in budget.layers for bits in layer.quantizer.precisions})
    words = "none: every layer keeps its highest precision"
    if budget.capacity_bits is not None:
        size, full = (math.floor(bits / 8) for bits in (budget.capacity_bits, budget.full_bits))
        words = f"{size:,} bytes ({budget_text(config)}); {full:,} at the highest precisions"
    return [
        (
            "quantized",
            f"{counted(len(budget.layers), 'layer')}: {parts}; {budget.num_values:,} weights",
        ),
        ("target", f"{config.target}, precisions of {', '.join(map(str, learned))} bits"),
        ("budget", words),
        *([("latency", f"{time_text(budget)} now")] if budget.times_ns else []),
    ]


def training_rows(
    config: TrainConfig, steps_per_epoch: int, changes: Augment | None = None
) -> list[Row]:
    """Returns how long a training is, in steps, and how its images are changed.

    Args:
        config: the recipe.
        steps_per_epoch: batches per epoch.
        changes: random ones, None for none.
    """
    steps = config.epochs * steps_per_epoch
    words = (
        f"{counted(config.epochs, 'epoch')} of {counted(steps_per_epoch, 'step')} of "
        f"{counted(config.batch_size, 'image')}: {counted(steps, 'step')}, {config.optimizer}"
    )
    more = [("time", "told once a few steps are timed; the first takes longest")]
    augment = ("augmentation", "none" if changes is None else changes.words)
    return [("training", words), augment, *(more if steps > _TIMED_STEPS else [])]


class Forecast(keras.callbacks.Callback):
    """Says about how long a training takes, once a few steps behind the first are timed.

    Evaluated batches count as a third of a training step.

    Args:
        screen: where to.
        evaluated_batches: in each epoch.
        clock: seconds of a clock.
    """

    def __init__(
        self,
        screen: Screen,
        evaluated_batches: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._screen, self._clock = screen, clock
        self._evaluated = evaluated_batches
        self._seen, self._epochs_done = 0, 0
        self._begin = self._first = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Learns where a training that goes on begins."""
        if not self._seen:
            self._epochs_done, self._begin = epoch, self._clock()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Tells, once."""
        self._seen += 1
        if self._seen == 1:
            self._first, self._begin = self._clock() - self._begin, self._clock()
        if self._seen == 1 + _TIMED_STEPS:
            params: Any = self.params
            step = (self._clock() - self._begin) / _TIMED_STEPS
            epochs = params["epochs"] - self._epochs_done
            each = params["steps"] + _FORWARD * self._evaluated
            total = self._first - step + epochs * each * step
            self._screen.aside(
                f"about {duration(total)} in all: {seconds(step)} for a step, of "
                f"{epochs * params['steps']:,}; the first took {seconds(self._first)}"
            )


class ProgressForecast:
    """Says about how long a job takes, once a share of its steps is done.

    Args:
        screen: where to.
        clock: seconds of a clock.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._clock = screen, clock
        self._start: tuple[int, float] | None = None
        self._told = False

    def update(self, done: int, total: int) -> None:
        """Takes note of the steps done, of all; tells once."""
        if self._start is None:
            self._start = done, self._clock()
        first, start = self._start
        if self._told or done - first < max(1, math.ceil(_TIMED_SHARE * total)):
            return
        self._told = True
        left = (self._clock() - start) / (done - first) * (total - done)
        self._screen.aside(f"about {duration(left)} left, at the speed of the first steps")


def counted(count: int, noun: str) -> str:
    """Returns a number of things in words, as in 1 step or 2,000 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(total_s: float) -> str:
    """Returns a time in words, in its two largest units at most.

    Example:
        >>> duration(4000)
        '1 h 7 min'
    """
    if total_s < 60:
        return f"{max(total_s, 1):.0f} s"
    minutes = round(total_s / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def seconds(value: float) -> str:
    """Returns a short time in words."""
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"
