from __future__ import annotations

import io
import sys
import types
import zlib
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ddq_tf import data
from ddq_tf.data import loading, sources
from ddq_tf.errors import DDQError
from ddq_tf.pictures import RESIZES


def png(color: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    fill = color if mode == "L" else (color,) * 3
    Image.new(mode, size, fill).save(buffer, "PNG")
    return buffer.getvalue()


def write_tfrecord(path: Path, images: Sequence[bytes], labels: Sequence[int]) -> Path:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
                "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    return path


def write_folder(path: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8)) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for index in range(count):
            (path / name / f"{index}.png").write_bytes(png(10 * label + index, size))
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """40 images of 4 classes; image i is filled with i."""
    return write_tfrecord(
        tmp_path / "toy-train.tfrecord", [png(i) for i in range(40)], [i % 4 for i in range(40)]
    )


def values(dataset: data.Dataset, split: str) -> list[int]:
    """The fill values of the (one-coloured) images of a split."""
    return [int(image[0, 0, 0]) for image, _ in dataset.split(split).as_numpy_iterator()]


def test_digits() -> None:
    digits = data.load("digits")
    assert digits.image_shape == (32, 32, 3)
    assert digits.class_names == tuple("0123456789")
    assert digits.sizes == {"train": 1078, "val": 270, "test": 449}
    image, label = next(iter(digits.split("train")))
    assert (image.dtype, label.dtype) == (tf.uint8, tf.int64)
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])
    assert digits.source("train").images.max() == 255
    for split in digits.splits.values():
        shares = np.bincount(split.labels, minlength=10) / split.size
        assert np.all(np.abs(shares - 0.1) < 0.02)


def test_digits_splits_are_disjoint_and_repeatable() -> None:
    first, again, other = (data.load("digits", image_size=8, seed=seed) for seed in (0, 0, 1))
    for name in first.splits:
        np.testing.assert_array_equal(first.source(name).images, again.source(name).images)
    assert not np.array_equal(first.source("test").images, other.source("test").images)
    images, _ = sources.read_digits()
    together = np.concatenate([first.source(name).images[..., 0] for name in first.splits])
    order = [np.lexsort(pixels.reshape(len(pixels), -1).T) for pixels in (together, images.images)]
    np.testing.assert_array_equal(together[order[0]], images.images[order[1]])


def test_unknown_split() -> None:
    with pytest.raises(DDQError, match="split must be one of"):
        data.load("digits", image_size=8).split("validation")


@pytest.mark.parametrize("spec", ["mnist", "digits:3", "tfrecord:", "folder", "tfds:", ""])
def test_unknown_spec_shows_the_grammar(spec: str) -> None:
    with pytest.raises(DDQError, match=r"digits, cifar10, .*tfrecord:TRAIN"):
        data.load(spec)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"val_fraction": 0.5}, "val_fraction must"), ({"image_size": 0}, "image_size must")],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(DDQError, match=message):
        data.load("digits", **arguments)


def test_tfrecord_alone_gives_all_splits(records: Path) -> None:
    dataset = data.load(f"tfrecord:{records}", val_fraction=0.2)
    assert dataset.sizes == {"train": 24, "val": 8, "test": 8}
    assert dataset.image_shape == (8, 8, 3)
    assert dataset.class_names == ("0", "1", "2", "3")
    together = [value for name in dataset.splits for value in values(dataset, name)]
    assert sorted(together) == list(range(40))
    assert np.bincount(dataset.source("val").labels).tolist() == [2, 2, 2, 2]


def test_tfrecord_test_file_stays_whole(records: Path, tmp_path: Path) -> None:
    test = write_tfrecord(tmp_path / "t.tfrecord", [png(100 + i) for i in range(4)], range(4))
    dataset = data.load(f"tfrecord:{records},{test}")
    assert dataset.sizes == {"train": 36, "val": 4, "test": 4}
    assert values(dataset, "test") == [100, 101, 102, 103]


def test_labels_file_is_the_one_named_like_the_records(records: Path) -> None:
    (records.parent / "labels.txt").write_text("wrong\n" * 9)
    (records.parent / "other-labels.txt").write_text("wrong\n" * 9)
    (records.parent / "toy-labels.txt").write_text("a\nb\nc\nd\n")
    assert data.load(f"tfrecord:{records}").class_names == ("a", "b", "c", "d")
    (records.parent / "toy-labels.txt").write_text("a\nb\n")
    with pytest.raises(DDQError, match=r"at least 4\. Received: 2 lines"):
        data.load(f"tfrecord:{records}")


def test_streaming_gives_the_same_images(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = f"tfrecord:{records}"
    held = data.load(spec, image_size=8)
    monkeypatch.setattr(loading, "_IN_MEMORY_BYTES", 0)
    streamed = data.load(spec, image_size=8)
    assert streamed.sizes == held.sizes
    for name in held.splits:
        assert values(streamed, name) == values(held, name)
    batch, labels = next(iter(data.batches(streamed, "train", batch_size=5, shuffle=True, limit=9)))
    assert batch.shape == (5, 8, 8, 3)
    assert labels.shape == (5,)
    assert [len(part) for part in data.calibration_batches(streamed, num_samples=9)] == [9]
    with pytest.raises(DDQError, match="too large to decode into memory"):
        data.load(spec)


def test_truncated_tfrecord(records: Path) -> None:
    records.write_bytes(records.read_bytes()[:-7])
    with pytest.raises(DDQError, match=r"toy-train.tfrecord must be a whole.*truncated"):
        data.load(f"tfrecord:{records}")


def test_foreign_and_missing_tfrecord(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tfrecord"
    foreign.write_text("no TFRecord at all, only text")
    with pytest.raises(DDQError, match=r"foreign.tfrecord must be a whole TFRecord"):
        data.load(f"tfrecord:{foreign}")
    with tf.io.TFRecordWriter(str(foreign)) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(DDQError, match=r"foreign.tfrecord must be .*image/encoded"):
        data.load(f"tfrecord:{foreign}")
    foreign.write_bytes(b"")
    with pytest.raises(DDQError, match="without records"):
        data.load(f"tfrecord:{foreign}")
    with pytest.raises(DDQError, match=r"absent.tfrecord does not exist"):
        data.load(f"tfrecord:{tmp_path / 'absent.tfrecord'}")


def test_broken_image_is_named(tmp_path: Path) -> None:
    images = [png(1)] * 9 + [png(1)[:40]] + [png(1)] * 2
    path = write_tfrecord(tmp_path / "t.tfrecord", images, [0] * 12)
    with pytest.raises(DDQError, match=r"t.tfrecord: image 9 must be a whole JPEG or PNG"):
        data.load(f"tfrecord:{path}")


def test_a_picture_of_absurd_size_is_named_not_decoded(tmp_path: Path) -> None:
    """Each is a few hundred bytes that would become gigabytes."""
    for suffix, head in (("png", bomb_png), ("jpg", bomb_jpeg)):
        folder = write_folder(tmp_path / suffix, {"a": 6, "b": 6})
        (folder / "a" / f"3.{suffix}").write_bytes(head())
        if suffix == "jpg":
            (folder / "a" / "3.png").unlink()
        with pytest.raises(DDQError, match=rf"a/3.{suffix} must .*more than 100,000,000 pixels"):
            data.load(f"folder:{folder}", image_size=8)


def bomb_png() -> bytes:
    """A header of 60000 x 60000 pixels."""
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunk = len(header[4:]).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk


def bomb_jpeg() -> bytes:
    """A small picture whose header says 60000 x 60000."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    content = buffer.getvalue()
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + (60000).to_bytes(2, "big") * 2 + content[place + 4 :]


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "linked", {"a": 6, "b": 6})
    (folder / "b" / "6.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DDQError, match=r"b/6.png"):
        data.load(f"folder:{folder}", image_size=8)


def test_unlike_sizes_need_image_size(tmp_path: Path) -> None:
    images = [png(7, (12, 8))] * 6 + [png(7, (8, 20))] * 6
    path = write_tfrecord(tmp_path / "t.tfrecord", images, [0] * 12)
    with pytest.raises(DDQError, match=r"one size.*image 6, \(20, 8\)"):
        data.load(f"tfrecord:{path}")
    dataset = data.load(f"tfrecord:{path}", image_size=6)
    assert dataset.image_shape == (6, 6, 3)
    assert set(values(dataset, "train")) == {7}


def test_resizing_cuts_the_centre() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    assert np.all(sources._fit(tf.constant(image), (2, 2, 3), sources.Fit()) == 200)


@pytest.mark.parametrize("method", RESIZES)
def test_a_crop_keeps_a_share_of_the_centre(method: str, tmp_path: Path) -> None:
    """Against Pillow's own crop, on an image of uniform rings."""
    ring = np.zeros((32, 32, 3), np.uint8)
    for k, value in enumerate((40, 90, 160, 230)):
        ring[4 * k : 32 - 4 * k, 4 * k : 32 - 4 * k] = value
    folder = tmp_path / "rings"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(ring).save(folder / label / f"{index}.png")
    fit = data.Fit(crop=0.5, resize=method)
    shown = data.load(f"folder:{folder}", image_size=16, fit=fit)
    images, _ = next(
        iter(shown.source("train").batched(1, shuffle_seed=None, drop_remainder=False))
    )
    np.testing.assert_array_equal(images[0], np.array(Image.fromarray(ring).crop((8, 8, 24, 24))))
    whole = data.load(f"folder:{folder}", image_size=16, fit=data.Fit(resize=method))
    images, _ = next(
        iter(whole.source("train").batched(1, shuffle_seed=None, drop_remainder=False))
    )
    assert np.asarray(images[0])[0, 0, 0] < 60, "the outermost ring is still there"


def first(dataset: data.Dataset) -> np.ndarray:
    batches = dataset.source("train").batched(1, shuffle_seed=None, drop_remainder=False)
    return np.asarray(next(iter(batches))[0])[0]


def test_arrays_in_memory_are_cut_only_if_asked() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), np.uint8)
    arrays = sources.Arrays(images=images, labels=np.arange(3))
    whole = arrays.open((8, 8, 3), sources.Fit()).images
    np.testing.assert_array_equal(whole, images.repeat(3, axis=-1))
    cut = arrays.open((8, 8, 3), sources.Fit(crop=0.5, resize="nearest")).images
    centre = images[:, 2:6, 2:6].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(cut, centre.repeat(3, axis=-1))


@pytest.mark.parametrize(
    ("fit", "message"),
    [({"crop": 0.0}, r"crop must lie in \(0, 1\]"), ({"resize": "magic"}, "resize must be one of")],
)
def test_bad_fits_are_refused(fit: dict, message: str) -> None:
    with pytest.raises(DDQError, match=message):
        data.Fit(**fit)


def test_grey_images_become_three_channels(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "t.tfrecord", [png(9, mode="L")] * 12, [0] * 12)
    assert data.load(f"tfrecord:{path}").image_shape == (8, 8, 3)


def test_too_few_images(tmp_path: Path) -> None:
    path = write_tfrecord(tmp_path / "t.tfrecord", [png(1)] * 3, [0] * 3)
    with pytest.raises(DDQError, match="none left for val, test"):
        data.load(f"tfrecord:{path}")


def test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 10, "dog": 10})
    (tmp_path / "notes").mkdir()
    dataset = data.load(f"folder:{tmp_path}", val_fraction=0.2)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.sizes == {"train": 12, "val": 4, "test": 4}
    for image, label in dataset.split("train").as_numpy_iterator():
        assert image[0, 0, 0] // 10 == label


def test_images_without_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, {"some": 20, "more": 10})
    dataset = data.load(f"images:{tmp_path}", val_fraction=0.2)
    assert dataset.sizes == {"train": 18, "val": 6, "test": 6}
    assert dataset.class_names == ("unlabeled",)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DDQError, match="must hold"):
        data.load(f"images:{tmp_path / 'empty'}")
    with pytest.raises(DDQError, match="does not exist"):
        data.load(f"images:{tmp_path / 'nowhere'}")


def test_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("val", 2), ("test", 3)):
        write_folder(tmp_path / split, {"cat": count, "dog": count})
    assert data.load(f"folder:{tmp_path}").sizes == {"train": 20, "val": 4, "test": 6}
    write_folder(tmp_path / "test", {"emu": 1})
    with pytest.raises(DDQError, match=r"classes that train has not.*emu"):
        data.load(f"folder:{tmp_path}")


def test_folder_problems(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match="must hold one folder"):
        data.load(f"folder:{tmp_path}")
    with pytest.raises(DDQError, match="does not exist"):
        data.load(f"folder:{tmp_path / 'absent'}")
    write_folder(tmp_path, {"cat": 10})
    (tmp_path / "cat" / "5.png").write_bytes(b"nothing")
    with pytest.raises(DDQError, match=r"cat/5\.png must be a whole JPEG or PNG"):
        data.load(f"folder:{tmp_path}")


def test_keras_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (50, 32, 32, 3), np.uint8), np.arange(50)[:, None] % 10
    module = keras.datasets.cifar10
    monkeypatch.setattr(module, "load_data", lambda: ((images, labels), (images[:9], labels[:9])))
    dataset = data.load("cifar10")
    assert dataset.sizes == {"train": 45, "val": 5, "test": 9}
    assert dataset.class_names[3] == "cat"
    np.testing.assert_array_equal(dataset.source("test").images, images[:9])


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_failed_download_tells_the_cure(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail() -> None:
        raise Exception("URL fetch failure")

    monkeypatch.setattr(sources, "_DEBIAN_FASHION_MNIST", tmp_path / "absent")
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    with pytest.raises(DDQError, match=r"(?s)downloaded.*\.keras/datasets.*'digits'.*URL fetch"):
        data.load(name)


def test_fashion_mnist_of_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import gzip

    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).tobytes()
        labels = (np.arange(count, dtype=np.uint8) % 10).tobytes()
        for name, content in (
            ("images-idx3", bytes(16) + pixels),
            ("labels-idx1", bytes(8) + labels),
        ):
            (tmp_path / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sources, "_DEBIAN_FASHION_MNIST", tmp_path)
    dataset = data.load("fashion_mnist")
    assert dataset.image_shape == (32, 32, 3)
    assert dataset.sizes == {"train": 36, "val": 4, "test": 20}
    assert values(dataset, "test") == list(range(20))
    assert dataset.class_names[-1] == "Ankle boot"


def test_tfds_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DDQError, match=r"pip install 'ddq_tf\[tfds\]'"):
        data.load("tfds:cifar10")


_LABELS = np.arange(30) % 3


def fake_tfds(
    supervised_keys: tuple[str, str] = ("image", "label"), **labels: np.ndarray
) -> types.SimpleNamespace:
    """The few names of tensorflow_datasets that are used, with splits of such labels."""

    def as_dataset(split: str, **options: object) -> tf.data.Dataset:
        assert options == {"as_supervised": True, "decoders": {"image": "skip"}}
        images = [png(i) for i in range(len(labels[split]))]
        return tf.data.Dataset.from_tensor_slices((images, labels[split]))

    info = types.SimpleNamespace(
        supervised_keys=supervised_keys,
        splits=dict.fromkeys(labels),
        features={"label": types.SimpleNamespace(names=["a", "b", "c"])},
    )
    builder = types.SimpleNamespace(
        info=info, download_and_prepare=lambda: None, as_dataset=as_dataset
    )
    decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    return types.SimpleNamespace(builder=lambda name: builder, decode=decode)


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        ({"test": _LABELS[:6]}, {"train": 27, "val": 3, "test": 6}),
        ({"validation": _LABELS[:5], "test": _LABELS[:6]}, {"train": 30, "val": 5, "test": 6}),
        # As of imagenet2012, whose test images have no labels.
        ({"validation": _LABELS[:6], "test": _LABELS - 9}, {"train": 27, "val": 3, "test": 6}),
        ({"validation": _LABELS[:6]}, {"train": 27, "val": 3, "test": 6}),
    ],
)
def test_tfds(
    monkeypatch: pytest.MonkeyPatch, splits: dict[str, np.ndarray], sizes: dict[str, int]
) -> None:
    fake = fake_tfds(train=_LABELS, **splits)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    dataset = data.load("tfds:toy")
    assert dataset.sizes == sizes
    assert dataset.class_names == ("a", "b", "c")
    assert values(dataset, "test") == list(range(6))


def test_tfds_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_tfds(train=_LABELS - 9, test=_LABELS)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    with pytest.raises(DDQError, match="must have a split 'train' with labels"):
        data.load("tfds:toy")


def test_tfds_without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "tensorflow_datasets", fake_tfds(("text", "label"), train=_LABELS)
    )
    with pytest.raises(DDQError, match="choose an image classification set"):
        data.load("tfds:toy")


def test_cifar10_jpeg(shared_dir: Path) -> None:
    path = shared_dir / "data" / "cifar10-test.tfrecord"
    dataset = data.load(f"tfrecord:{path}")
    assert dataset.sizes == {"train": 8000, "val": 1000, "test": 1000}
    assert dataset.class_names[-1] == "truck"
    assert np.bincount(dataset.source("val").labels).tolist() == [100] * 10
