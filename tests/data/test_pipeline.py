from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import data
from ddq_tf.data.dataset import ArraySplit
from ddq_tf.errors import DDQError


def make(images: np.ndarray, name: str = "toy") -> data.Dataset:
    split = ArraySplit(images=images, labels=np.arange(len(images)))
    return data.Dataset(
        name=name,
        image_shape=tuple(images.shape[1:]),
        class_names=tuple(str(i) for i in range(len(images))),
        splits={"train": split, "val": split, "test": split},
    )


@pytest.fixture
def ramp() -> data.Dataset:
    """Ten 8x6 images in which every pixel value of the first channel is unique."""
    pixels = np.arange(48, dtype=np.uint8).reshape(8, 6)
    images = np.stack([pixels + 20 * i for i in range(10)])
    return make(np.stack([images, images, 255 - images], axis=-1))


def gather(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    parts = list(batches.as_numpy_iterator())
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def test_plain_batches(ramp: data.Dataset) -> None:
    batches = data.batches(ramp, "test", batch_size=4)
    assert batches.cardinality() == 3
    x, y = gather(batches)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(y, np.arange(10))
    expected = ramp.source("test").images / 127.5 - 1
    np.testing.assert_allclose(x, expected, atol=1e-6)


def test_input_range_is_exact_for_bytes(ramp: data.Dataset) -> None:
    x, _ = gather(data.batches(ramp, "test", batch_size=4, input_range=(0, 255)))
    np.testing.assert_array_equal(x, ramp.source("test").images)


def test_shuffles_every_epoch_and_repeats_by_seed(ramp: data.Dataset) -> None:
    def epochs(seed: int) -> list[list[int]]:
        keras.utils.set_random_seed(5)
        augment = data.Augment(flip=True, pad_crop=2, cutout=3)
        batches = data.batches(
            ramp, "train", batch_size=4, shuffle=True, augment=augment, seed=seed
        )
        runs = [gather(batches) for _ in range(2)]
        return [[*labels, *images.ravel()] for images, labels in runs]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    assert sorted(first[1][:10]) == list(range(10))


def test_limit_spreads_over_the_split(ramp: data.Dataset) -> None:
    _, y = gather(data.batches(ramp, "test", batch_size=3, limit=5))
    assert y.tolist() == [0, 2, 4, 6, 8]
    _, y = gather(data.batches(ramp, "test", batch_size=3, limit=99, drop_remainder=True))
    assert len(y) == 9


def test_image_size(ramp: data.Dataset) -> None:
    x, _ = gather(data.batches(ramp, "test", batch_size=3, image_size=12))
    assert x.shape == (10, 12, 12, 3)
    assert x.min() >= -1
    assert x.max() <= 1


def test_flip_alone_mirrors_about_half() -> None:
    images = np.zeros((200, 2, 4, 3), np.uint8)
    images[:, :, 0] = 255
    x, _ = gather(
        data.batches(
            make(images),
            "train",
            batch_size=50,
            augment=data.Augment(flip=True),
            input_range=(0, 1),
        )
    )
    left, right = x[:, :, 0].all(axis=(1, 2)), x[:, :, 3].all(axis=(1, 2))
    assert np.all(left ^ right)
    assert 60 < right.sum() < 140


def test_pad_crop_is_a_window_of_the_reflected_image(ramp: data.Dataset) -> None:
    x, y = gather(
        data.batches(
            ramp, "train", batch_size=10, input_range=(0, 255), augment=data.Augment(pad_crop=2)
        )
    )
    seen = set()
    for image, label in zip(x, y, strict=True):
        source = ramp.source("train").images[label]
        padded = np.pad(source, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        windows = {
            (top, left): padded[top : top + 8, left : left + 6]
            for top in range(5)
            for left in range(5)
        }
        matches = [at for at, window in windows.items() if np.array_equal(window, image)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 3


def test_cutout_greys_one_square() -> None:
    images = np.full((50, 16, 16, 3), 255, np.uint8)
    x, _ = gather(
        data.batches(
            make(images),
            "train",
            batch_size=50,
            input_range=(0, 255),
            augment=data.Augment(cutout=4),
        )
    )
    grey = (x == 128).all(axis=-1)
    assert set(np.unique(x)) == {128.0, 255.0}
    for mask in grey:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        assert mask.sum() == len(rows) * len(columns)
        assert np.ptp(rows) == len(rows) - 1


def corners() -> np.ndarray:
    """30 pictures, 40 x 20 px: red tells the row, green the column, blue the picture."""
    rows, columns = np.mgrid[:40, :20]
    return np.stack(
        [np.stack([6 * rows, 12 * columns, np.full_like(rows, 8 * n)], -1) for n in range(30)]
    ).astype(np.uint8)


@pytest.mark.parametrize("in_memory", [True, False])
def test_random_parts(in_memory: bool) -> None:
    """Seen by the colours of their corners, each part is one of the picture, as large as asked."""
    images = corners()
    labels = np.arange(30)
    split = data.dataset.StreamSplit(
        items=tf.data.Dataset.from_tensor_slices((images, labels)),
        decode=tf.identity,
        fit=lambda image: image[8:32, :12],  # what is cut is the whole picture, not this
        size=30,
    )
    dataset = (
        make(images)
        if in_memory
        else data.Dataset(
            name="stream",
            image_shape=(24, 12, 3),
            class_names=tuple(map(str, range(30))),
            splits={"train": split},
        )
    )
    height, width, _ = dataset.image_shape

    def drawn(seed: int) -> np.ndarray:
        return gather(
            data.batches(
                dataset,
                "train",
                batch_size=10,
                input_range=(0, 255),
                augment=data.Augment(least_area=0.25),
                seed=seed,
            )
        )[0]

    x = drawn(0)
    assert x.shape == (30, height, width, 3)
    np.testing.assert_array_equal(x[:, 0, 0, 2], 8 * labels)
    # Half a pixel is lost at each edge by resizing, and colours are rounded.
    tall = (x[:, -1, 0, 0] - x[:, 0, 0, 0]) / 6 * height / (height - 1)
    wide = (x[:, 0, -1, 1] - x[:, 0, 0, 1]) / 12 * width / (width - 1)
    assert np.all(tall * wide >= 0.25 * 800 * 0.75)
    assert np.all((wide / tall > 0.6) & (wide / tall < 1.6))
    assert len({(a, b) for a, b in zip(tall.round(), wide.round(), strict=True)}) > 5
    np.testing.assert_array_equal(x, drawn(0))
    assert not np.array_equal(x, drawn(1))


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("flip", data.Augment(flip=True)),
        ("flip, pad_crop=4,cutout=8", data.Augment(flip=True, pad_crop=4, cutout=8)),
        ("least_area=0.08", data.Augment(least_area=0.08)),
        ("none", None),
        ("auto", data.default_augment("cifar10")),
    ],
)
def test_changes_as_text(text: str, changes: data.Augment | None) -> None:
    assert data.augment_for("cifar10", text) == changes
    assert data.augment_for("cifar10", changes) == changes


@pytest.mark.parametrize("text", ["", "flop", "flip=1", "pad_crop", "pad_crop=x", "flip,flip"])
def test_changes_that_are_none(text: str) -> None:
    with pytest.raises(DDQError, match="must read like 'flip,pad_crop=4,cutout=8'"):
        data.Augment.parse(text)


def test_changes_of_a_wrong_type() -> None:
    with pytest.raises(DDQError, match="Received: bool"):
        data.augment_for("cifar10", False)  # pyright: ignore[reportArgumentType]


def test_default_augment_never_mirrors_digits() -> None:
    assert not data.default_augment("digits").flip
    assert not data.default_augment("tfds:mnist").flip
    assert data.default_augment("cifar10").flip


def test_calibration(ramp: data.Dataset) -> None:
    parts = data.calibration_batches(ramp, num_samples=7, batch_size=4, input_range=(0, 255))
    assert [part.shape for part in parts] == [(4, 8, 6, 3), (3, 8, 6, 3)]
    assert all(part.dtype == np.float32 for part in parts)
    again = data.calibration_batches(ramp, num_samples=7, batch_size=4, input_range=(0, 255))
    np.testing.assert_array_equal(parts[0], again[0])
    other = data.calibration_batches(ramp, num_samples=7, input_range=(0, 255), seed=3)
    assert not np.array_equal(np.concatenate(parts), other[0])
    assert sum(map(len, data.calibration_batches(ramp, num_samples=99))) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must"),
        ({"limit": 0}, "number of images must"),
        ({"image_size": 0}, "image_size must"),
        ({"input_range": (1, -1)}, "input_range must"),
        ({"batch_size": 11, "drop_remainder": True}, "lower batch_size to 10"),
        ({"augment": data.Augment(pad_crop=6)}, "less than the images' 6 px"),
    ],
)
def test_rejects(ramp: data.Dataset, arguments: dict, message: str) -> None:
    with pytest.raises(DDQError, match=message):
        data.batches(ramp, "train", **{"batch_size": 2, **arguments})


@pytest.mark.parametrize("arguments", [{"pad_crop": -1}, {"cutout": 0}, {"least_area": 1.5}])
def test_augment_rejects(arguments: dict) -> None:
    with pytest.raises(DDQError, match=next(iter(arguments))):
        data.Augment(**arguments)
