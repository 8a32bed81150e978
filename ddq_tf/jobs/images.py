"""A data set opened for a model: its image size, its input range."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddq_tf import data
from ddq_tf.data import Augment, Dataset, Fit, Range
from ddq_tf.errors import DDQError
from ddq_tf.layers import activation_layers

DEFAULT_INPUT_RANGE = (-1.0, 1.0)
MODEL_INPUT_RANGES = {"resnet8": (0.0, 255.0)}  # as published by MLPerf Tiny
_KNOWN_RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
_RANGE_TOLERANCE = 0.05
# What is held out must not depend on the seed of a training, or test images would be trained on.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What a user says about the data.

    Attributes:
        spec: as `ddq_tf.data.load` takes it.
        input_range: values that pixels 0 and 255 become, also one for each channel; None for what
            the model file notes, keras.applications says of such a network, or the input quantizer
            shows, else (-1, 1).
        mean: instead of `input_range`, with `std`: inputs are (pixel - mean) / std, pixels from 0
            to 255; one number, or one for each channel in the network's order.
        std: likewise.
        channels: their order, "rgb" or "bgr"; None for what the model file notes or
            keras.applications says, else "rgb".
        crop: share of an image's centre that the network sees; None for what the model file
            notes, else 1. See `ddq_tf.data.Fit`.
        resize: how it comes to the network's size; None for what the model file notes, else
            "bilinear".
        batch_size: images per batch.
        limit: at most so many images of each split; None for all.
    """

    spec: str
    input_range: Range | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str | None = None
    crop: float | None = None
    resize: str | None = None
    batch_size: int = 128
    limit: int | None = None

    def __post_init__(self) -> None:
        given = [self.input_range is not None, self.mean is not None, self.std is not None]
        if given not in ([False] * 3, [True, False, False], [False, True, True]):
            raise DDQError(
                "give input_range, or mean and std together, or none of them. Received: "
                f"input_range={self.input_range}, mean={self.mean}, std={self.std}"
            )

    @property
    def range_said(self) -> Range | None:
        """What pixels 0 and 255 become, as far as the user says so."""
        if self.mean is not None and self.std is not None:
            return data.range_of(self.mean, self.std)
        return None if self.input_range is None else data.as_range(*self.input_range)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """An open data set as a model takes it."""

    dataset: Dataset
    input_range: Range
    channels: str
    fit: Fit
    batch_size: int
    limit: int | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """What a model file notes of the images that it was made for."""
        return {
            "data": self.dataset.name,
            "input_range": self.input_range,
            "channels": self.channels,
            **dataclasses.asdict(self.fit),
        }

    def count(self, split: str) -> int:
        """Returns the number of images in use."""
        size = self.dataset.source(split).size
        return size if self.limit is None else min(size, self.limit)

    def batches(self, split: str) -> tf.data.Dataset:
        """Returns (float32 images, int labels), in order, whole."""
        return data.batches(
            self.dataset,
            split,
            batch_size=self.batch_size,
            input_range=self.input_range,
            channels=self.channels,
            limit=self.limit,
        )

    def training(self, augment: Augment | None, seed: int) -> tuple[tf.data.Dataset, int]:
        """Returns shuffled, augmented batches, and how many there are in an epoch."""
        train = data.batches(
            self.dataset,
            "train",
            batch_size=self.batch_size,
            input_range=self.input_range,
            channels=self.channels,
            augment=augment,
            shuffle=True,
            seed=seed,
            drop_remainder=True,
            limit=self.limit,
        )
        return train, max(self.count("train") // self.batch_size, 1)

    def calibration(self, num_samples: int, seed: int = 0) -> list[np.ndarray]:
        """Returns batches of random training images."""
        return data.calibration_batches(
            self.dataset,
            num_samples=num_samples,
            input_range=self.input_range,
            channels=self.channels,
            seed=seed,
        )


def open_images(
    options: DataOptions,
    *,
    input_shape: tuple[int | None, ...],
    num_classes: int | None = None,
    known: tuple[Range, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Images:
    """Opens a data set for a model.

    Args:
        options: what the user said.
        input_shape: of the model, (batch, height, width, channels).
        num_classes: outputs of the model; None where they do not matter.
        known: range and order of channels that the model is known to take, if neither the user nor
            its file says.
        notes: those of the model's file, for what the user does not say.

    Raises:
        DDQError: if the data cannot be read, or do not fit the model.
    """
    sides = tuple(input_shape[1:3])
    if len(input_shape) != 4 or input_shape[3] != 3:
        raise DDQError(
            "the model must take images (batch, height, width, 3) to run on a data set. "
            f"Received: input shape {tuple(input_shape)}"
        )
    square = sides[0] is not None and sides[0] == sides[1]
    fit = fit_of(options, notes)
    size = sides[0] if square else None
    dataset = data.load(options.spec, image_size=size, fit=fit, seed=SPLIT_SEED)
    shown = dataset.image_shape[:2]
    if any(side not in (None, found) for side, found in zip(sides, shown, strict=True)):
        raise DDQError(
            f"the model takes images of {sides[0]}x{sides[1]} px; those of {options.spec} have "
            f"{shown[0]}x{shown[1]}"
        )
    # One output tells two classes apart.
    if num_classes is not None and max(num_classes, 2) < len(dataset.class_names):
        raise DDQError(
            f"the model tells {num_classes} classes apart; {options.spec} has "
            f"{len(dataset.class_names)}. Choose the data that it was trained on"
        )
    noted = notes or {}
    if "input_range" in noted:
        known = noted_range(noted)
    input_range, channels = known or (DEFAULT_INPUT_RANGE, "rgb")
    return Images(
        dataset=dataset,
        fit=fit,
        input_range=options.range_said or input_range,
        channels=options.channels or channels,
        batch_size=options.batch_size,
        limit=options.limit,
    )


def fit_of(options: DataOptions, notes: Mapping[str, Any] | None = None) -> Fit:
    """Returns how images are fitted: as the user says, else as the model's file notes."""
    noted = notes or {}
    crop = noted.get("crop", 1.0)
    if not isinstance(crop, int | float):
        raise DDQError(f"the model's file must note a number as crop. Received: {crop!r}")
    return Fit(
        crop=options.crop or float(crop),
        resize=options.resize or str(noted.get("resize", "bilinear")),
    )


def noted_range(notes: Mapping[str, Any]) -> tuple[Range, str]:
    """Returns the range and the order of channels that a model's file notes.

    Args:
        notes: with an "input_range".

    Raises:
        DDQError: if that is none.
    """
    try:
        return data.as_range(*notes["input_range"]), str(notes.get("channels", "rgb"))
    except (TypeError, ValueError) as error:
        raise DDQError(
            "the model's file must note an input range of two ends. "
            f"Received: {notes['input_range']!r}"
        ) from error


def open_for_model(
    options: DataOptions, model: keras.Model, notes: dict[str, Any] | None = None
) -> Images:
    """Opens a data set for a Keras model.

    Args:
        options: what the user said.
        model: with one input and one output.
        notes: those of the model's file (`loading.read_notes`).

    Raises:
        DDQError: if the data cannot be read, or do not fit the model.
    """
    takes, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not (isinstance(takes, tuple) and isinstance(gives, tuple) and takes and gives):
        raise DDQError(f"model {model.name!r} must be built, with one input and one output")
    return open_images(
        options,
        input_shape=takes,
        num_classes=gives[-1],
        known=data.published(model) or _learned_range(model),
        notes=notes,
    )


def range_of_grid(scale: float, qmin: int, qmax: int) -> tuple[Range, str] | None:
    """Returns the usual input range that an input's grid was made for, if one fits, in RGB."""
    low, high = scale * qmin, scale * qmax
    for known in _KNOWN_RANGES:
        reach = _RANGE_TOLERANCE * max(map(abs, known))
        if abs(low - known[0]) <= reach and abs(high - known[1]) <= reach:
            return known, "rgb"
    return None


def _learned_range(model: keras.Model) -> tuple[Range, str] | None:
    """Returns what the input quantizer of a DDQ model shows."""
    for layer in activation_layers(model)[:1]:
        quantizer = layer.quantizer
        return range_of_grid(float(quantizer.export_scale()), quantizer.qmin, quantizer.qmax)
    return None
