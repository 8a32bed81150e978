"""Reads a data set by the text that users write for it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ddq_tf.data import sources
from ddq_tf.data.dataset import SPLITS, Dataset, Split
from ddq_tf.data.sources import Arrays, Fit, Source
from ddq_tf.errors import DDQError

_GRAMMAR = (
    "digits, cifar10, fashion_mnist, tfrecord:TRAIN[,TEST], folder:PATH, images:PATH or tfds:NAME"
)
_DEFAULT_SIZE = {"digits": 32, "fashion_mnist": 32}  # px
_IN_MEMORY_BYTES = 1 << 30
_DIGITS_TEST_FRACTION = 0.25
_DEFAULT_VAL_FRACTION = {"digits": 0.2}  # of the rest: 60 % train, 15 % val, 25 % test


def load(
    spec: str,
    *,
    image_size: int | None = None,
    fit: Fit | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set, checked whole, with the splits train, val and test.

    A split that the source does not bring is held out of train, stratified by class and the same
    for the same seed; so val is never a part of test. Images have three channels (grey is
    repeated). Sets of up to 1 GiB are decoded into memory once; larger ones are decoded as they
    stream.

    Args:
        spec: "digits" (scikit-learn's, included), "cifar10" or "fashion_mnist" (downloaded by
            Keras), "tfrecord:TRAIN[,TEST]" (features image/encoded, image/class/label; class
            names from a `*labels.txt` beside it), "folder:PATH" (PATH/class/*.jpg or
            PATH/{train,val,test}/class/*.jpg), "images:PATH" (all images below PATH, without
            labels), or "tfds:NAME".
        image_size: side in pixels; other images are cut at the centre and resized. None keeps the
            size that the images have, which must then be the same for all; digits and
            fashion_mnist become 32.
        fit: how images are cut and resized; None for all of the centre, bilinearly.
        val_fraction: share of train held out for each split that the source lacks, in (0, 0.5);
            None is 0.1 (digits: 60/15/25 % of all).
        seed: chooses what is held out.

    Raises:
        DDQError: if the text has another form, or the data are missing or broken.
    """
    kind, _, argument = spec.partition(":")
    if image_size is not None and image_size < 1:
        raise DDQError(f"image_size must be at least 1 px. Received: image_size={image_size!r}")
    if val_fraction is None:
        val_fraction = _DEFAULT_VAL_FRACTION.get(kind, 0.1)
    if not 0 < val_fraction < 0.5:
        raise DDQError(f"val_fraction must lie in (0, 0.5). Received: {val_fraction!r}")
    parts, class_names = _read(spec, kind, argument, seed)
    image_size = image_size or _DEFAULT_SIZE.get(kind)
    shape = parts["train"].image_shape(image_size)
    splits = _open(spec, parts, shape, fit or Fit(), resize=image_size is not None)
    _hold_out(spec, splits, parts["train"].labels, val_fraction, seed)
    return Dataset(
        name=spec,
        image_shape=shape,
        class_names=class_names,
        splits={name: splits[name] for name in SPLITS},
    )


def _open(
    spec: str, parts: dict[str, Source], shape: tuple[int, int, int], fit: Fit, *, resize: bool
) -> dict[str, Split]:
    """Decodes what fits in memory."""
    num_bytes = math.prod(shape) * sum(len(part.labels) for part in parts.values())
    in_memory = num_bytes <= _IN_MEMORY_BYTES
    if not in_memory and not resize:
        raise DDQError(
            f"{spec} is too large to decode into memory ({num_bytes / 2**20:.0f} MiB), so "
            "image_size must be set: images of other sizes would otherwise stop the training. "
            f"Received: image_size=None; the first image has {shape[:2]}"
        )
    return {
        name: part.open(shape, fit)
        if isinstance(part, Arrays)
        else part.open(shape, fit=fit if resize else None, in_memory=in_memory)
        for name, part in parts.items()
    }


def _read(
    spec: str, kind: str, argument: str, seed: int
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Returns the parts that the source brings, "train" among them, and the class names."""
    if kind == "digits" and not argument:
        digits, class_names = sources.read_digits()
        rest, test = _stratified(digits.labels, _DIGITS_TEST_FRACTION, seed)
        return {"train": digits.select(rest), "test": digits.select(test)}, class_names
    if kind in ("cifar10", "fashion_mnist") and not argument:
        return sources.read_keras(kind)
    if kind == "tfrecord" and argument:
        return _read_tfrecords([Path(part.strip()).expanduser() for part in argument.split(",")])
    if kind == "folder" and argument:
        return sources.read_folder(Path(argument).expanduser())
    if kind == "images" and argument:
        return sources.read_images(Path(argument).expanduser())
    if kind == "tfds" and argument:
        return sources.read_tfds(argument)
    raise DDQError(f"data must be one of {_GRAMMAR}. Received: {spec!r}")


def _read_tfrecords(paths: list[Path]) -> tuple[dict[str, Source], tuple[str, ...]]:
    if len(paths) > 2:
        raise DDQError(f"tfrecord takes one or two files: TRAIN[,TEST]. Received: {len(paths)}")
    parts: dict[str, Source] = {
        name: sources.read_tfrecord(path)
        for name, path in zip(("train", "test"), paths, strict=False)
    }
    count = 1 + max(int(part.labels.max()) for part in parts.values())
    class_names = sources.labels_beside(paths[0])
    if class_names is None:
        return parts, tuple(str(label) for label in range(count))
    if len(class_names) < count:
        raise DDQError(
            f"the labels file beside {paths[0]} must have a line per class, at least {count}. "
            f"Received: {len(class_names)} lines"
        )
    return parts, class_names


def _hold_out(
    spec: str, splits: dict[str, Split], labels: np.ndarray, fraction: float, seed: int
) -> None:
    """Fills the missing splits from train, whose labels are given, `fraction` of it each."""
    train, rest = splits["train"], np.arange(len(labels))
    for name in SPLITS:
        if name not in splits:
            kept, held = _stratified(labels[rest], fraction * len(labels) / len(rest), seed)
            splits[name] = train.select(rest[held])
            rest = rest[kept]
    empty = [name for name in SPLITS if not (splits[name].size and len(rest))]
    if empty:
        raise DDQError(
            f"{spec} must leave images in every split; add images or raise val_fraction. "
            f"Received: {len(labels)} training images, none left for {', '.join(empty)}"
        )
    if len(rest) < len(labels):
        splits["train"] = train.select(rest)


def _stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides indices into (rest, held), each ascending.

    Every class gives its share; what rounding leaves over goes round the classes, so that
    `held` has round(fraction * n) indices even where each class has few.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Systematic sampling along the class-sorted order: stratified, whatever the class sizes.
    num_held = round(fraction * len(labels))
    positions = ((np.arange(num_held) + rng.random()) * len(labels) / max(num_held, 1)).astype(int)
    held = np.zeros(len(labels), bool)
    held[order[positions]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
