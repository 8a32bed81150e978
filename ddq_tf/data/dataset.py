"""An image classification data set, held decoded in memory or decoded as it streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from ddq_tf.errors import DDQError

SPLITS = ("train", "val", "test")
_STREAM_SHUFFLE_BUFFER = 2048  # items: read from disk, but not yet decoded


class Split(Protocol):
    """Some images of a data set, in a fixed order."""

    @property
    def size(self) -> int:
        """Number of images."""
        ...

    def select(self, indices: np.ndarray) -> Split:
        """Returns the images at `indices` (int64, distinct, ascending)."""
        ...

    def stream(self, shuffle_seed: int | None = None) -> tf.data.Dataset:
        """Returns (uint8 image (height, width, 3), int64 label), one by one.

        Args:
            shuffle_seed: for a new order in each iteration, or None for the fixed order.
        """
        ...

    def batched(
        self, batch_size: int, *, shuffle_seed: int | None, drop_remainder: bool
    ) -> tf.data.Dataset:
        """Returns (uint8 images (batch, height, width, 3), int64 labels (batch,))."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraySplit:
    """Images held decoded.

    Attributes:
        images: uint8 (n, height, width, 3).
        labels: int64 (n,).
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    def select(self, indices: np.ndarray) -> ArraySplit:
        """See `Split.select`."""
        return ArraySplit(images=self.images[indices], labels=self.labels[indices])

    def stream(self, shuffle_seed: int | None = None) -> tf.data.Dataset:
        """See `Split.stream`."""
        return self.batched(1, shuffle_seed=shuffle_seed, drop_remainder=False).unbatch()

    def batched(
        self, batch_size: int, *, shuffle_seed: int | None, drop_remainder: bool
    ) -> tf.data.Dataset:
        """See `Split.batched`; shuffles over the whole split."""
        with tf.device("cpu"):
            images, labels = tf.constant(self.images), tf.constant(self.labels)
        order = tf.data.Dataset.range(self.size)
        if shuffle_seed is not None:
            order = order.shuffle(max(self.size, 1), seed=shuffle_seed)
        # Shuffling and batching indices, then gathering once, beats doing it image by image.
        return order.batch(batch_size, drop_remainder).map(
            lambda indices: (tf.gather(images, indices), tf.gather(labels, indices)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSplit:
    """Images read and decoded anew in each epoch, for data sets that do not fit in memory.

    Attributes:
        items: (item, int64 label) in a fixed order; an item is what `decode` takes.
        decode: from an item to a uint8 image (height, width, 3).
        size: number of items.
    """

    items: tf.data.Dataset
    decode: Callable[[tf.Tensor], tf.Tensor]
    size: int

    def select(self, indices: np.ndarray) -> StreamSplit:
        """See `Split.select`; the others are skipped before they are decoded."""
        return StreamSplit(
            items=select_items(self.items, indices, self.size),
            decode=self.decode,
            size=len(indices),
        )

    def stream(self, shuffle_seed: int | None = None) -> tf.data.Dataset:
        """See `Split.stream`; shuffles within a window of 2048 images."""
        items = self.items
        if shuffle_seed is not None:
            items = items.shuffle(min(max(self.size, 1), _STREAM_SHUFFLE_BUFFER), shuffle_seed)
        return items.map(
            lambda item, label: (self.decode(item), label), num_parallel_calls=tf.data.AUTOTUNE
        )

    def batched(
        self, batch_size: int, *, shuffle_seed: int | None, drop_remainder: bool
    ) -> tf.data.Dataset:
        """See `Split.batched`."""
        return self.stream(shuffle_seed).batch(batch_size, drop_remainder)


def select_items(items: tf.data.Dataset, indices: np.ndarray, size: int) -> tf.data.Dataset:
    """Keeps the elements of `items` (there are `size`) at `indices`, in their order."""
    mask = np.zeros(size, bool)
    mask[indices] = True
    wanted = tf.constant(mask)
    numbered: Any = items.enumerate()
    kept = numbered.filter(lambda index, _: wanted[index])
    return kept.map(lambda _, element: element).apply(
        tf.data.experimental.assert_cardinality(len(indices))
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """An image classification data set with its three splits.

    Attributes:
        name: what it was loaded as.
        image_shape: (height, width, 3) in pixels.
        class_names: by label.
        splits: by "train", "val" and "test".
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    splits: Mapping[str, Split] = dataclasses.field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images by split."""
        return {name: split.size for name, split in self.splits.items()}

    def split(self, name: str) -> tf.data.Dataset:
        """Returns (uint8 image (height, width, 3), int64 label), one by one, in a fixed order.

        Raises:
            DDQError: if there is no such split.
        """
        return self.source(name).stream()

    def source(self, name: str) -> Split:
        """Returns the split called `name`.

        Raises:
            DDQError: if there is none.
        """
        if name not in self.splits:
            raise DDQError(f"split must be one of {sorted(self.splits)}. Received: split={name!r}")
        return self.splits[name]
