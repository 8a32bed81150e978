"""A data set opened for a model: its image size, as many classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddq_tf import data
from ddq_tf.data import Dataset, Fit
from ddq_tf.errors import DDQError
from ddq_tf.graph.functional import functional_of, input_names
from ddq_tf.jobs.pixels import DEFAULT_INPUT_RANGE, Pixels, pixels_of_model
from ddq_tf.pictures import Augment, DataOptions, Range

# What is held out must not depend on the seed of a training, or test images would be trained on.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """An open data set as a model takes it.

    Attributes:
        dataset: of pictures.
        input_range: what pixels 0 and 255 become.
        range_from: who says so, in words.
        channels: their order, "rgb" or "bgr".
        fit: how pictures come to the input's size.
        batch_size: of all batches.
        limit: how many pictures of each split are used at most; None for all.
    """

    dataset: Dataset
    input_range: Range
    range_from: str
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

    def num_batches(self, split: str) -> int:
        """Returns the number of batches in an epoch."""
        return math.ceil(self.count(split) / self.batch_size)

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
    pixels: Pixels | None = None,
) -> Images:
    """Opens a data set for a model.

    Args:
        options: what the user said.
        input_shape: of the model, (batch, height, width, channels).
        num_classes: outputs of the model; None where they do not matter.
        pixels: how pictures become its inputs; None for what `options` says.

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
    pixels = pixels or pixels_of_model(options)
    images = as_pictured(options, pixels, image_size=sides[0] if square else None)
    dataset = images.dataset
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
    return images


def as_pictured(options: DataOptions, pixels: Pixels, *, image_size: int | None) -> Images:
    """Opens a data set as `pixels` say, whatever the model.

    Args:
        options: what the user said.
        pixels: how pictures become inputs.
        image_size: side in pixels; None for that of the data.

    Raises:
        DDQError: if the data cannot be read.
    """
    return Images(
        dataset=data.load(options.spec, image_size=image_size, fit=pixels.fit, seed=SPLIT_SEED),
        fit=pixels.fit,
        input_range=pixels.input_range or DEFAULT_INPUT_RANGE,
        range_from=pixels.sources["input_range"],
        channels=pixels.channels,
        batch_size=options.batch_size,
        limit=options.limit,
    )


def num_classes_of(name: str, outputs: Mapping[str, Sequence[int | None]]) -> int:
    """Returns how many classes a classifier of images tells apart.

    Args:
        name: of the model or file.
        outputs: their shapes by name, the batch first.

    Raises:
        DDQError: if it has several outputs, or one for each pixel.
    """
    shapes = list(outputs.values())
    if len(shapes) == 1 and len(shapes[0]) > 1 and math.prod(n or 0 for n in shapes[0][1:-1]) == 1:
        return shapes[0][-1] or 0
    given = ", ".join(f"{label!r} {tuple(shape)}" for label, shape in outputs.items())
    raise DDQError(
        f"{name} must be a classifier of images, with one output (batch, classes), for the labels "
        f"of a data set to fit. Received the outputs {given}. Train other models by quantize_model "
        "and fit in Python, and measure their files by ddq_tf.export.evaluate(file, data, "
        "metrics={output: [...]})"
    )


def is_classifier(model: keras.Model) -> bool:
    """Returns whether labels of a data set can fit a model; see `num_classes_of`."""
    try:
        num_classes_of(model.name, _outputs(model))
    except DDQError:
        return False
    return True


def open_for_model(
    options: DataOptions,
    model: keras.Model,
    notes: Mapping[str, Any] | None = None,
    *,
    labelled: bool = True,
) -> Images:
    """Opens a data set for a Keras model.

    Args:
        options: what the user said; a spec of "" stands for the data that the notes tell.
        model: of one input.
        notes: those of the model's file (`loading.read_notes`).
        labelled: whether labels are to fit its output, as of a classifier.

    Raises:
        DDQError: if the data cannot be read, or do not fit the model.
    """
    inputs = functional_of(model).inputs
    if len(inputs) != 1:
        raise DDQError(
            f"model {model.name!r} must have one input, an image, to run on a data set. Received: "
            f"the inputs {', '.join(map(repr, input_names(functional_of(model))))}"
        )
    label = f"model {model.name!r}"
    num_classes = num_classes_of(label, _outputs(model)) if labelled else None
    if not options.spec:
        if not (notes or {}).get("data"):
            raise DDQError(
                f"the data must be told (--data): the file of model {model.name!r} notes none"
            )
        options = dataclasses.replace(options, spec=str((notes or {})["data"]))
    return open_images(
        options,
        input_shape=tuple(inputs[0].shape),
        num_classes=num_classes,
        pixels=pixels_of_model(options, notes, model),
    )


def _outputs(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Shapes by name."""
    functional = functional_of(model)
    shapes = [tuple(tensor.shape) for tensor in functional.outputs]
    names = getattr(functional, "output_names", None) or [f"{n}" for n in range(len(shapes))]
    return dict(zip(names, shapes, strict=True))
