"""An image classification data set, held decoded in memory or decoded as it streams."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from ddq_tf.errors import DDQError

Cut = Callable[[tf.data.Dataset], tf.data.Dataset]
"""From (uint8 image of any size, label), one by one, to images of the split's size."""

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
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        drop_remainder: bool,
        cut: Cut | None = None,
    ) -> tf.data.Dataset:
        """Returns (uint8 images (batch, height, width, 3), int64 labels (batch,)).

        Args:
            batch_size: images per batch.
            shuffle_seed: as of `stream`.
            drop_remainder: whether an incomplete last batch is left out.
            cut: what takes a part of each image, of all that it shows; None for the usual one.
        """
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
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        drop_remainder: bool,
        cut: Cut | None = None,
    ) -> tf.data.Dataset:
        """See `Split.batched`; shuffles over the whole split."""
        with tf.device("cpu"):
            images, labels = tf.constant(self.images), tf.constant(self.labels)
        order = tf.data.Dataset.range(self.size)
        if shuffle_seed is not None:
            order = order.shuffle(max(self.size, 1), seed=shuffle_seed)

        def gathered(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.gather(images, indices), tf.gather(labels, indices)

        if cut is not None:
            one_by_one = order.map(gathered, num_parallel_calls=tf.data.AUTOTUNE)
            return cut(one_by_one).batch(batch_size, drop_remainder)
        # Shuffling and batching indices, then gathering once, beats doing it image by image.
        return order.batch(batch_size, drop_remainder).map(
            gathered, num_parallel_calls=tf.data.AUTOTUNE
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSplit:
    """Images read and decoded anew in each epoch, for data sets that do not fit in memory.

    Attributes:
        items: (item, int64 label) in a fixed order; an item is what `decode` takes.
        decode: from an item to a uint8 image (any height, any width, 3).
        fit: from that to one of the split's size.
        size: number of items.
    """

    items: tf.data.Dataset
    decode: Callable[[tf.Tensor], tf.Tensor]
    fit: Callable[[tf.Tensor], tf.Tensor]
    size: int

    def select(self, indices: np.ndarray) -> StreamSplit:
        """See `Split.select`; the others are skipped before they are decoded."""
        items = select_items(self.items, indices, self.size)
        return dataclasses.replace(self, items=items, size=len(indices))

    def stream(self, shuffle_seed: int | None = None) -> tf.data.Dataset:
        """See `Split.stream`; shuffles within a window of 2048 images."""
        return self._shuffled(shuffle_seed).map(
            lambda item, label: (self.fit(self.decode(item)), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def batched(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None,
        drop_remainder: bool,
        cut: Cut | None = None,
    ) -> tf.data.Dataset:
        """See `Split.batched`."""
        if cut is None:
            return self.stream(shuffle_seed).batch(batch_size, drop_remainder)
        whole = self._shuffled(shuffle_seed).map(
            lambda item, label: (self.decode(item), label), num_parallel_calls=tf.data.AUTOTUNE
        )
        return cut(whole).batch(batch_size, drop_remainder)

    def _shuffled(self, seed: int | None) -> tf.data.Dataset:
        if seed is None:
            return self.items
        return self.items.shuffle(min(max(self.size, 1), _STREAM_SHUFFLE_BUFFER), seed)


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
