"""Batches for training, evaluation and calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ddq_tf.data.dataset import Cut, Dataset, Split
from ddq_tf.data.pixels import as_range, check_channels
from ddq_tf.errors import DDQError
from ddq_tf.pictures import Augment, Range

_ASPECTS = (3 / 4, 4 / 3)  # of random parts, as in the trainings of most ImageNet networks
_UPRIGHT = ("digits", "mnist")  # mirrored digits are no digits


def default_augment(dataset_name: str) -> Augment:
    """Returns changes that keep the meaning of such images: digits are never mirrored.

    Args:
        dataset_name: a `Dataset.name`.
    """
    name = dataset_name.lower().removeprefix("tfds:")
    if name.startswith(_UPRIGHT):
        return Augment(pad_crop=2)
    return Augment(flip=True, pad_crop=4)


def augment_for(dataset_name: str, changes: Augment | str | None) -> Augment | None:
    """Returns the random changes to a data set's training images, None for none.

    Args:
        dataset_name: a `Dataset.name`.
        changes: "auto" for `default_augment`, "none" or None, text for `Augment.parse`, or what
            they are.

    Raises:
        DDQError: if the text has another form.
    """
    if changes == "auto":
        return default_augment(dataset_name)
    if changes == "none" or changes is None:
        return None
    return changes if isinstance(changes, Augment) else Augment.parse(changes)


def batches(
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    input_range: Range = (-1.0, 1.0),
    channels: str = "rgb",
    augment: Augment | None = None,
    shuffle: bool = False,
    seed: int = 0,
    drop_remainder: bool = False,
    limit: int | None = None,
    image_size: int | None = None,
) -> tf.data.Dataset:
    """Returns one epoch of (float32 images (batch, height, width, 3), int64 labels (batch,)).

    Each iteration shuffles and augments anew. Two data sets made alike, after the same
    `keras.utils.set_random_seed`, give the same batches.

    Args:
        dataset: where the images come from.
        split: "train", "val" or "test".
        batch_size: images per batch.
        input_range: values that 0 and 255 become, also one for each channel.
        channels: their order, "rgb" or "bgr".
        augment: random changes, or None for none.
        shuffle: whether the order is random.
        seed: of order and changes.
        drop_remainder: whether an incomplete last batch is left out.
        limit: at most so many images, spread evenly over the split; None for all.
        image_size: side in pixels to resize batches to; None keeps the size of the data set.

    Raises:
        DDQError: if an argument is out of its range.
    """
    _check(batch_size, limit, image_size)
    pixels = _Pixels(input_range, channels)
    source = dataset.source(split)
    if limit is not None and limit < source.size:
        source = source.select(np.arange(limit) * source.size // limit)
    height, width, _ = dataset.image_shape
    if augment is not None and augment.pad_crop >= min(height, width):
        raise DDQError(
            f"pad_crop must be less than the images' {min(height, width)} px. "
            f"Received: pad_crop={augment.pad_crop!r}"
        )
    if drop_remainder and source.size < batch_size:
        raise DDQError(
            f"drop_remainder needs at least one whole batch; lower batch_size to {source.size} or "
            f"less. Received: batch_size={batch_size}, {source.size} images in {split!r}"
        )
    return _pipeline(
        source,
        batch_size=batch_size,
        pixels=pixels,
        augment=augment,
        shuffle_seed=seed if shuffle else None,
        seed=seed,
        drop_remainder=drop_remainder,
        size=(image_size, image_size) if image_size else (height, width),
    )


def calibration_batches(
    dataset: Dataset,
    *,
    num_samples: int = 256,
    batch_size: int = 64,
    input_range: Range = (-1.0, 1.0),
    channels: str = "rgb",
    seed: int = 0,
) -> list[np.ndarray]:
    """Returns random training images, not augmented, as float32 (batch, height, width, 3).

    Args:
        dataset: where the images come from.
        num_samples: images in all; the whole of train if it has fewer.
        batch_size: images per batch; the last may have fewer.
        input_range: values that 0 and 255 become, also one for each channel.
        channels: their order, "rgb" or "bgr".
        seed: chooses the images.

    Raises:
        DDQError: if an argument is out of its range.
    """
    _check(batch_size, num_samples, None)
    pixels = _Pixels(input_range, channels)
    source = dataset.source("train")
    chosen = np.random.default_rng(seed).choice(
        source.size, min(num_samples, source.size), replace=False
    )
    batched = source.select(np.sort(chosen)).batched(
        batch_size, shuffle_seed=None, drop_remainder=False
    )
    return [pixels.scaled(images).numpy() for images, _ in batched]


def _check(
    batch_size: int,
    num_images: int | None,
    image_size: int | None,
) -> None:
    for name, value in (
        ("batch_size", batch_size),
        ("the number of images", num_images),
        ("image_size", image_size),
    ):
        if value is not None and value < 1:
            raise DDQError(f"{name} must be at least 1. Received: {value!r}")


class _Pixels:
    """Makes inputs of uint8 images."""

    def __init__(self, input_range: Range, channels: str) -> None:
        check_channels(channels)
        low, high = (np.asarray(end, np.float64) for end in as_range(*input_range))
        self._is_reversed = channels == "bgr"
        self._low, self._high = (end.astype(np.float32) for end in (low, high))
        self._step = ((high - low) / 255).astype(np.float32)

    def scaled(self, images: tf.Tensor) -> tf.Tensor:
        """Maps uint8 0..255 to float32 low..high."""
        if self._is_reversed:
            images = tf.reverse(images, [-1])
        return tf.cast(images, tf.float32) * self._step + self._low

    def clipped(self, inputs: tf.Tensor) -> tf.Tensor:
        """Inputs within low..high."""
        return tf.clip_by_value(inputs, self._low, self._high)


def _pipeline(
    source: Split,
    *,
    batch_size: int,
    pixels: _Pixels,
    augment: Augment | None,
    shuffle_seed: int | None,
    seed: int,
    drop_remainder: bool,
    size: tuple[int, int],
) -> tf.data.Dataset:
    least_area = None if augment is None else augment.least_area
    images = source.batched(
        batch_size,
        shuffle_seed=shuffle_seed,
        drop_remainder=drop_remainder,
        # Another seed than that of the other changes.
        cut=None if least_area is None else _random_part(least_area, size, seed + 1),
    )

    def finish(x: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = pixels.scaled(x)
        if x.shape[1:3] != size:
            x = pixels.clipped(tf.image.resize(x, size, antialias=True))
        return x, label

    if augment is None:
        return images.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def change(x: tf.Tensor, label: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return finish(_augment(x, augment, own), label)

    return _changed(images, change, seed).prefetch(tf.data.AUTOTUNE)


def _changed(
    items: tf.data.Dataset, change: Callable[..., tuple[tf.Tensor, tf.Tensor]], seed: int
) -> tf.data.Dataset:
    """Returns change(x, label, int64 seed (2,)) of each item, anew in each iteration.

    Seeds come as data: stateful random operations in a parallel map depend on timing.
    """
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip((items, seeds)).map(
        lambda item, own: change(*item, own), num_parallel_calls=tf.data.AUTOTUNE
    )


def _random_part(least_area: float, size: tuple[int, int], seed: int) -> Cut:
    """Returns what takes a part of random area, proportions and place, and resizes it to `size`."""

    def part(image: tf.Tensor, label: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        start, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            own,
            min_object_covered=0.0,
            aspect_ratio_range=_ASPECTS,
            area_range=(least_area, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        found = tf.ensure_shape(tf.slice(image, start, extent), (None, None, 3))
        resized = tf.image.resize(found, size, antialias=True)
        return tf.cast(tf.round(resized), tf.uint8), label

    return lambda images: _changed(images, part, seed)


def _augment(images: tf.Tensor, augment: Augment, seed: tf.Tensor) -> tf.Tensor:
    """Changes a batch of uint8 images; `seed` is int64 (2,)."""
    seeds = tf.random.split(seed, 3)
    if augment.flip or augment.pad_crop:
        images = _shift_and_flip(images, augment, seeds[0], seeds[1])
    if augment.cutout is not None:
        images = _cut_out(images, augment.cutout, seeds[2])
    return images


def _shift_and_flip(
    images: tf.Tensor, augment: Augment, shift_seed: tf.Tensor, flip_seed: tf.Tensor
) -> tf.Tensor:
    """Moves all pixels of a batch at once, by one gather from source row and column numbers."""
    count, (height, width, channels) = _extent(images)
    rows, columns = tf.range(height)[None], tf.range(width)[None]
    if augment.pad_crop:
        reach = augment.pad_crop
        shift = tf.random.stateless_uniform((2, count, 1), shift_seed, -reach, reach + 1, tf.int32)
        rows = _reflect(rows + shift[0], height)
        columns = _reflect(columns + shift[1], width)
    if augment.flip:
        flipped = tf.random.stateless_uniform((count, 1), flip_seed) < 0.5
        columns = tf.where(flipped, width - 1 - columns, columns)
    pixels = rows[:, :, None] * width + columns[:, None, :]
    pixels = tf.broadcast_to(pixels, (count, height, width))
    flat = tf.reshape(images, (count, height * width, channels))
    return tf.gather(flat, pixels, batch_dims=1)


def _extent(images: tf.Tensor) -> tuple[Any, tuple[int, int, int]]:
    """Returns the number of images, known only when running, and their static shape."""
    height, width, channels = (int(n or 0) for n in images.shape[1:])
    return tf.shape(images)[0], (height, width, channels)


def _reflect(position: tf.Tensor, size: int) -> tf.Tensor:
    """Folds positions beyond 0..size-1 back, without repeating the border pixel."""
    return (size - 1) - tf.abs((size - 1) - tf.abs(position))


def _cut_out(images: tf.Tensor, side: int, seed: tf.Tensor) -> tf.Tensor:
    count, (height, width, _) = _extent(images)
    seeds = tf.random.split(seed, 2)
    top = tf.random.stateless_uniform((count, 1), seeds[0], 0, height, tf.int32) - side // 2
    left = tf.random.stateless_uniform((count, 1), seeds[1], 0, width, tf.int32) - side // 2
    row_offset, column_offset = tf.range(height)[None] - top, tf.range(width)[None] - left
    in_rows = (row_offset >= 0) & (row_offset < side)
    in_columns = (column_offset >= 0) & (column_offset < side)
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    return tf.where(inside[..., None], tf.constant(128, tf.uint8), images)
