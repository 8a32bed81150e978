"""Where images come from: arrays, TFRecord files, image folders, TensorFlow Datasets.

Each reader checks its input whole (every record's framing and features, every label) before it
returns, so that no training starts on a file that breaks in the middle of it.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddq_tf.arguments import check_types, setting
from ddq_tf.data.dataset import ArraySplit, StreamSplit
from ddq_tf.errors import DDQError
from ddq_tf.pictures import RESIZES

_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# What TensorFlow raises for a broken picture, a dangling link, a file that is gone or forbidden.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
    tf.errors.DataLossError,
)
_MOST_CLASSES = 100_000
_MOST_PIXELS = 100_000_000  # 300 MB decoded
_FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
}
_CIFAR10_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How images come to the size that a model takes.

    Attributes:
        crop: share of the largest centred part of the right proportions that is kept, in (0, 1];
            0.875 is what most ImageNet networks were evaluated with.
        resize: of `tf.image.resize`; smoothed before shrinking.

    Raises:
        DDQError: if one is out of its range.
    """

    crop: float = setting(1.0, within="(0, 1]")
    resize: str = setting("bilinear", choices=RESIZES)

    def __post_init__(self) -> None:
        check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arrays:
    """Decoded images: uint8 (n, height, width) or (n, height, width, 1 or 3), int64 labels."""

    images: np.ndarray
    labels: np.ndarray

    def image_shape(self, image_size: int | None) -> tuple[int, int, int]:
        """Returns (height, width, 3) after resizing to `image_size`, if given."""
        height, width = self.images.shape[1:3]
        return (image_size or height, image_size or width, 3)

    def select(self, indices: np.ndarray) -> Arrays:
        """Returns the images at `indices`."""
        return Arrays(images=self.images[indices], labels=self.labels[indices])

    def open(self, shape: tuple[int, int, int], fit: Fit) -> ArraySplit:
        """Returns the images at `shape`, (height, width, 3).

        They are cut only if `fit` says so: whole arrays keep what they show.
        """
        images = self.images if self.images.ndim == 4 else self.images[..., None]
        if fit.crop < 1:
            height, width = (max(round(fit.crop * side), 1) for side in images.shape[1:3])
            top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
            images = images[:, top : top + height, left : left + width]
        if images.shape[1:3] != shape[:2]:
            images = np.concatenate([_resize(part, shape, fit) for part in _chunks(images)])
        if images.shape[-1] != shape[-1]:
            images = np.repeat(images, shape[-1], axis=-1)
        return ArraySplit(images=images, labels=self.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoded:
    """JPEG or PNG files, wherever they are.

    Attributes:
        origin: what an error message names.
        items: (item, int64 label) in a fixed order.
        read: from an item to the bytes of a file.
        labels: int64 (n,), in the order of `items`.
    """

    origin: str
    items: tf.data.Dataset
    read: Callable[[tf.Tensor], tf.Tensor]
    labels: np.ndarray

    def image_shape(self, image_size: int | None) -> tuple[int, int, int]:
        """Returns `image_size` squared, or else the shape of the first image."""
        if image_size:
            return (image_size, image_size, 3)
        item, _ = next(iter(self.items))
        try:
            image: Any = _decode(self.read(item))
        except UNREADABLE as error:
            raise self._broken(0, item, error) from error
        height, width, channels = image.shape
        return (height, width, channels)

    def open(
        self, shape: tuple[int, int, int], *, fit: Fit | None, in_memory: bool
    ) -> ArraySplit | StreamSplit:
        """Returns the images at `shape`, decoded now or as they are needed.

        Args:
            shape: (height, width, 3).
            fit: how images are fitted; None where other shapes are an error.
            in_memory: whether to decode now.

        Raises:
            DDQError: if an image cannot be decoded or has another shape (only if decoded now).
        """

        def fitted(image: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(image, shape) if fit is None else _fit(image, shape, fit)

        stream = StreamSplit(
            items=self.items,
            decode=lambda item: _decode(self.read(item)),
            fit=fitted,
            size=len(self.labels),
        )
        if not in_memory:
            return stream
        images = np.empty((stream.size, *shape), np.uint8)
        count = 0
        try:
            for part, _ in stream.batched(256, shuffle_seed=None, drop_remainder=False).prefetch(2):
                images[count : count + len(part)] = part
                count += len(part)
        except UNREADABLE as error:
            raise self._first_unfit(count, shape, error) from error
        return ArraySplit(images=images, labels=self.labels)

    def _first_unfit(self, start: int, shape: tuple[int, int, int], error: Exception) -> DDQError:
        """Names the image, looking from the batch that failed on."""
        for index, (item, _) in enumerate(self.items.skip(start), start=start):
            try:
                image = _decode(self.read(item))
            except UNREADABLE as reason:
                return self._broken(index, item, reason)
            if image.shape != shape:
                return DDQError(
                    f"{self.origin}: all images must have one size, or set image_size to resize "
                    f"them. Received: {shape[:2]} and, as image {index}, {tuple(image.shape[:2])}"
                )
        return self._broken(start, tf.constant(b""), error)

    def _broken(self, index: int, item: tf.Tensor, error: Exception) -> DDQError:
        name = bytes(item.numpy()).decode() if self.read is tf.io.read_file else f"image {index}"
        reason = str(error).splitlines()[0][:200]
        return DDQError(
            f"{self.origin}: {name} must be a whole JPEG or PNG file; replace or remove it. "
            f"Received: {reason}"
        )


Source = Arrays | Encoded


def read_digits() -> tuple[Arrays, tuple[str, ...]]:
    """Returns scikit-learn's 1,797 digits, 8x8 values of 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits  # takes a second, and only this data set needs it

    values, labels = load_digits(return_X_y=True)
    images = np.round(np.asarray(values).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Arrays(images=images, labels=np.asarray(labels, np.int64)), tuple("0123456789")


def read_keras(name: str) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Returns CIFAR-10 or Fashion-MNIST, downloaded by Keras unless they are there already.

    Raises:
        DDQError: if the download fails.
    """
    if name == "fashion_mnist" and _DEBIAN_FASHION_MNIST.is_dir():
        return _read_debian_fashion_mnist(), _FASHION_CLASSES
    cure = {
        "cifar10": "put cifar-10-batches-py.tar.gz into ~/.keras/datasets, or use a TFRecord file "
        "(tfrecord:TRAIN,TEST)",
        "fashion_mnist": "apt install dataset-fashion-mnist, or put its four files into "
        "~/.keras/datasets/fashion-mnist",
    }[name]
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception
        raise DDQError(
            f"{name} must be downloaded once, and that failed. Without a network: {cure}; or use "
            f"the data set that is included, 'digits'. Received: {error}"
        ) from error
    sources: dict[str, Source] = {
        split: Arrays(images=images, labels=np.asarray(labels, np.int64).reshape(-1))
        for split, (images, labels) in (("train", train), ("test", test))
    }
    return sources, _CIFAR10_CLASSES if name == "cifar10" else _FASHION_CLASSES


def _read_debian_fashion_mnist() -> dict[str, Source]:
    def values(name: str, header: int) -> np.ndarray:
        content = gzip.decompress((_DEBIAN_FASHION_MNIST / f"{name}-ubyte.gz").read_bytes())
        return np.frombuffer(content, np.uint8, offset=header)

    return {
        split: Arrays(
            images=values(f"{prefix}-images-idx3", 16).reshape(-1, 28, 28),
            labels=values(f"{prefix}-labels-idx1", 8).astype(np.int64),
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def read_tfrecord(path: Path) -> Encoded:
    """Reads a TFRecord file with features image/encoded (bytes) and image/class/label (int64).

    Raises:
        DDQError: if the file is missing, empty, truncated, or has other features.
    """
    if not path.is_file():
        raise DDQError(f"TFRecord file {path} does not exist; check the path")

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features: Any = tf.io.parse_single_example(record, _FEATURES)
        return features["image/encoded"], features["image/class/label"]

    def parse_labels(records: tf.Tensor) -> tf.Tensor:
        features: Any = tf.io.parse_example(records, _FEATURES)
        return features["image/class/label"]

    records = tf.data.TFRecordDataset(str(path))
    required = "a whole TFRecord file with features image/encoded and image/class/label"
    try:
        batches = list(records.batch(1024).map(parse_labels).as_numpy_iterator())
    except tf.errors.DataLossError as error:
        reason = "a truncated or foreign file"
        raise DDQError(f"{path} must be {required}; copy it again. Received: {reason}") from error
    except (UnicodeDecodeError, *UNREADABLE) as error:
        reason = str(error).splitlines()[0][:200]
        raise DDQError(f"{path} must be {required}; convert it. Received: {reason}") from error
    if not batches:
        raise DDQError(f"{path} must be {required}. Received: a file without records")
    labels = np.concatenate(batches).astype(np.int64)
    if labels.min() < 0 or labels.max() >= _MOST_CLASSES:
        raise DDQError(
            f"{path}: labels must be classes from 0 to below {_MOST_CLASSES:,}. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    items = records.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return Encoded(origin=str(path), items=items, read=tf.identity, labels=labels)


def labels_beside(path: Path) -> tuple[str, ...] | None:
    """Returns the lines of the `*labels.txt` beside `path` whose name begins like it, if any."""
    found: list[tuple[int, Path]] = []
    for candidate in path.parent.glob("*labels.txt"):
        prefix = candidate.name.removesuffix("labels.txt").rstrip("-_.")
        if path.name.startswith(prefix):
            found.append((len(prefix), candidate))
    if not found:
        return None
    chosen = max(found)[1]
    try:
        lines = chosen.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DDQError(f"cannot read the labels {str(chosen)!r}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def read_folder(path: Path) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Reads PATH/class/*.jpg, or PATH/{train,val,test}/class/*.jpg (also jpeg, png).

    Raises:
        DDQError: if there are no images, or val or test have classes that train has not.
    """
    if not path.is_dir():
        raise DDQError(f"image folder {path} does not exist; check the path")
    parts = {name: path / name for name in ("train", "val", "test") if (path / name).is_dir()}
    if "train" not in parts:
        parts = {"train": path}
    class_names = tuple(sorted(p.name for p in parts["train"].iterdir() if _holds_images(p)))
    if not class_names:
        raise DDQError(
            f"{path} must hold one folder of {', '.join(_IMAGE_SUFFIXES)} files per class (or "
            "train/, val/ and test/ of such). Received: a folder without them"
        )
    return {name: _read_classes(part, class_names) for name, part in parts.items()}, class_names


def read_images(path: Path) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Reads all images (jpg, jpeg, png) in a folder and those below it, as one class.

    Raises:
        DDQError: if there are none.
    """
    if not path.is_dir():
        raise DDQError(f"image folder {path} does not exist; check the path")
    files = sorted(str(f) for f in path.rglob("*") if _is_image(f))
    if not files:
        raise DDQError(
            f"{path} must hold {', '.join(_IMAGE_SUFFIXES)} files. Received: a folder without them"
        )
    return {"train": _files(path, files, [0] * len(files))}, ("unlabeled",)


def _holds_images(path: Path) -> bool:
    return path.is_dir() and bool(_images_in(path))


def _images_in(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if _is_image(file))


def _is_image(path: Path) -> bool:
    """Whether a path is named like an image and may be read: no folder, pipe or device.

    A link that leads nowhere counts, for its name to be told.
    """
    if path.suffix.lower() not in _IMAGE_SUFFIXES:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _read_classes(path: Path, class_names: Sequence[str]) -> Encoded:
    foreign = sorted(
        p.name for p in path.iterdir() if _holds_images(p) and p.name not in class_names
    )
    if foreign:
        raise DDQError(f"{path} has classes that train has not; remove them. Received: {foreign}")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        images = _images_in(path / name) if (path / name).is_dir() else []
        files += [str(file) for file in images]
        labels += [label] * len(images)
    if not files:
        raise DDQError(f"{path} must hold images; add some or remove it. Received: none")
    return _files(path, files, labels)


def _files(path: Path, files: list[str], labels: list[int]) -> Encoded:
    numbers = np.asarray(labels, np.int64)
    # Python keeps bytes that are no UTF-8 as lone surrogates.
    odd = [name for name in files if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if odd:
        raise DDQError(f"{path}: names of images must be UTF-8; rename them. Received: {odd}")
    items = tf.data.Dataset.from_tensor_slices((files, numbers))
    return Encoded(origin=str(path), items=items, read=tf.io.read_file, labels=numbers)


def read_tfds(name: str) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Reads an image classification set of TensorFlow Datasets.

    What lacks labels is left out, as the test images of imagenet2012. Where no test images remain,
    the set's validation images are those to test on, for these are what others report.

    Raises:
        DDQError: if the package is not installed, or the set has no images and labels.
    """
    try:
        tfds = importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise DDQError(
            f"tfds:{name} needs the package tensorflow-datasets: pip install 'ddq_tf[tfds]'"
        ) from error
    builder = tfds.builder(name)
    if builder.info.supervised_keys != ("image", "label"):
        raise DDQError(
            f"tfds:{name} must have supervised keys ('image', 'label'); choose an image "
            f"classification set. Received: {builder.info.supervised_keys!r}"
        )
    builder.download_and_prepare()
    found: dict[str, Source] = {}
    for split in ("train", "validation", "test"):
        if split not in builder.info.splits:
            continue
        items = builder.as_dataset(
            split=split, as_supervised=True, decoders={"image": tfds.decode.SkipDecoding()}
        )
        labels = np.asarray(list(items.map(lambda _, label: label).as_numpy_iterator()), np.int64)
        if labels.min(initial=0) >= 0:
            origin = f"tfds:{name}/{split}"
            found[split] = Encoded(origin=origin, items=items, read=tf.identity, labels=labels)
    if "train" not in found:
        raise DDQError(
            f"tfds:{name} must have a split 'train' with labels. Received: the splits "
            f"{sorted(builder.info.splits)}, labels in {sorted(found)}"
        )
    names = {"validation": "val" if "test" in found else "test"}
    sources = {names.get(split, split): source for split, source in found.items()}
    return sources, tuple(builder.info.features["label"].names)


def _decode(content: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG or PNG bytes to uint8 (height, width, 3); not what would take gigabytes."""
    is_png = tf.strings.substr(content, 0, 4) == b"\x89PNG"
    size = tf.cond(is_png, lambda: _png_size(content), lambda: _jpeg_size(content))
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    fits = tf.debugging.assert_less_equal(
        pixels, tf.constant(_MOST_PIXELS, tf.int64), f"has more than {_MOST_PIXELS:,} pixels"
    )
    with tf.control_dependencies([] if fits is None else [fits]):
        return tf.io.decode_image(content, channels=3, expand_animations=False)


def _png_size(content: tf.Tensor) -> tf.Tensor:
    """Width and height, from the header that begins each PNG file."""
    return tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.int32, little_endian=False)


def _jpeg_size(content: tf.Tensor) -> tf.Tensor:
    return tf.io.extract_jpeg_shape(content)[:2]


def _fit(image: tf.Tensor, shape: tuple[int, int, int], fit: Fit) -> tf.Tensor:
    """Cuts a centred part of the right proportions and resizes it to `shape`."""
    if fit.crop < 1:
        return tf.ensure_shape(_crop_and_resize(image, shape, fit), shape)
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    same = tf.logical_and(tf.equal(height, shape[0]), tf.equal(width, shape[1]))
    fitted = tf.cond(same, lambda: image, lambda: _crop_and_resize(image, shape, fit))
    return tf.ensure_shape(fitted, shape)


def _crop_and_resize(image: tf.Tensor, shape: tuple[int, int, int], fit: Fit) -> tf.Tensor:
    size = tf.shape(image)[:2]
    wanted = tf.constant(shape[:2], tf.float64)
    scale = tf.reduce_min(tf.cast(size, tf.float64) / wanted) * fit.crop
    crop = tf.clip_by_value(tf.cast(tf.round(scale * wanted), tf.int32), 1, size)
    start = (size - crop) // 2
    part = image[start[0] : start[0] + crop[0], start[1] : start[1] + crop[1]]
    return _resize(part, shape, fit)


def _resize(images: tf.Tensor | np.ndarray, shape: tuple[int, int, int], fit: Fit) -> tf.Tensor:
    """Resizes uint8 images, smoothing before shrinking."""
    resized = tf.image.resize(images, shape[:2], fit.resize, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(resized, tf.float32)), 0, 255), tf.uint8)


def _chunks(images: np.ndarray, size: int = 4096) -> list[np.ndarray]:
    """Cuts along the first axis, so that float copies stay small."""
    return [images[start : start + size] for start in range(0, len(images), size)]
