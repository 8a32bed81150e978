"""What the writer of model metadata writes, read back; and what the reader refuses."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddq_tf.errors import DDQError
from ddq_tf.export import ModelMetadata, metadata_schema, model_metadata, read_metadata, tflite
from ddq_tf.pictures import CHANNELS, RESIZES
from tests.export.fuzzing import MUTATIONS
from tests.export.graphs import small_network

GRAPH = small_network()
LABELS = ("cat", "dog", "été", "bird", "none of these")
FULL = ModelMetadata(
    labels=LABELS,
    mean=(1.0, 2.0, 3.0),
    std=(127.5, 64.0, 0.5),
    channels="bgr",
    crop=0.875,
    resize="bicubic",
    name="net",
    description="a net",
)


def described(metadata, data=None):
    """A file with metadata, as `export_tflite` writes it, whether they fit or not."""
    entries = {metadata_schema.ENTRY: model_metadata.encode(metadata, GRAPH)}
    written = tflite.write(dataclasses.replace(GRAPH, metadata=entries))
    return model_metadata.attach(written, metadata)


floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def fitting_metadata(draw):
    count = draw(st.sampled_from([0, 1, 3]))
    numbers = st.lists(floats, min_size=count, max_size=count)
    text = st.text(max_size=20)
    label = text.filter(lambda label: label.strip() and not {*"\r\n"} & {*label})
    return ModelMetadata(
        labels=draw(st.sampled_from([0, 5]).flatmap(lambda n: st.tuples(*[label] * n))),
        mean=draw(numbers),
        std=[std or 1.0 for std in draw(numbers)],
        channels=draw(st.sampled_from(CHANNELS)),
        crop=draw(st.floats(0, 1, exclude_min=True)),
        resize=draw(st.sampled_from(RESIZES)),
        name=draw(text),
        description=draw(text),
    )


@settings(max_examples=150, deadline=None)
@given(fitting_metadata())
def test_what_is_written_is_read(metadata):
    model_metadata.check(metadata, GRAPH)
    assert read_metadata(described(metadata)) == metadata


def test_a_file_without_metadata_tells_nothing():
    assert read_metadata(tflite.write(GRAPH)) == ModelMetadata()


def test_labels_may_end_as_on_windows():
    content = described(dataclasses.replace(FULL, labels=[f"{label}\r" for label in LABELS]))
    assert read_metadata(content) == FULL


def test_labels_that_are_not_there_are_missed_only_if_wanted():
    content = described(FULL)
    bare = content[: -model_metadata.attached_bytes(content)]
    with pytest.raises(DDQError, match=r"labels\.txt.*does not hold.*give --labels=FILE"):
        read_metadata(bare)
    assert read_metadata(bare, with_labels=False) == dataclasses.replace(FULL, labels=())


def test_more_labels_than_any_network_has_are_refused():
    content = described(dataclasses.replace(FULL, labels=["x" * 10_000_001]))
    with pytest.raises(DDQError, match=r"fit in 10,000,000 bytes. Received: 10,000,002"):
        read_metadata(content)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": "rbg"}, "channels must be one of"),
        ({"crop": 1.5}, r"crop must lie in \(0, 1\]. Received: 1.5"),
        ({"crop": float("nan")}, "Received: nan"),
        ({"resize": "cubic"}, "resize must be one of"),
        ({"std": (1.0, 0.0, 1.0)}, "std not 0"),
        ({"mean": (float("inf"),)}, "must be finite"),
        ({"std": (1.0, 2.0)}, "3 numbers of mean, 2 of std"),
        ({"std": ()}, "3 numbers of mean, 0 of std"),
        ({"mean": (1.0,), "std": ()}, "1 numbers of mean, 0 of std"),
    ],
)
def test_what_has_no_meaning_is_refused(wrong, message):
    content = described(dataclasses.replace(FULL, **wrong))
    with pytest.raises(DDQError, match=message):
        read_metadata(content)


def test_a_crop_that_is_no_number_is_refused():
    content = described(FULL).replace(b"crop=0.875", b"crop=0.8x5")
    with pytest.raises(DDQError, match=r"0\.8x5"):
        read_metadata(content)


def test_unknown_lines_and_other_custom_metadata_are_left_alone():
    content = described(FULL)
    assert read_metadata(content.replace(b"resize=", b"future=")).resize == "bilinear"
    other = read_metadata(content.replace(b"ddq_tf_fitting", b"somebody_elses"))
    assert (other.channels, other.crop, other.resize) == ("rgb", 1.0, "bilinear")
    assert other.labels == LABELS


def outcome(content):
    try:
        read_metadata(bytes(content))
    except DDQError:  # any other error fails the test
        return "refused"
    return "read"


def parts(content):
    """Where the metadata's flatbuffer and the archive lie."""
    start = content.index(metadata_schema.IDENTIFIER) - 4
    size = len(model_metadata.encode(FULL, GRAPH))
    archive = len(content) - model_metadata.attached_bytes(content)
    return {"metadata": slice(start, start + size), "archive": slice(archive, len(content))}


@pytest.mark.parametrize("part", ["metadata", "archive"])
@pytest.mark.parametrize("kind", sorted(MUTATIONS))
def test_damage_is_refused_or_harmless(part, kind):
    content = described(FULL)
    where = parts(content)[part]
    assert len(content[where]) > 100
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(200):
        damaged = bytearray(content)
        # What is removed is filled up, so that all else lies where it did.
        changed = MUTATIONS[kind](bytearray(content[where]), rng)
        damaged[where] = changed[: len(content[where])].ljust(len(content[where]), b"\0")
        outcomes.append(outcome(damaged))
    assert "refused" in outcomes


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, 1, 8, 9, 12, 14, 93, 99])
def test_an_archive_of_any_compression_or_encryption_is_read_or_refused(method):
    """Damaged headers may say what zipfile then tries to undo."""
    content = described(FULL)
    directory = content.rindex(b"PK\x01\x02")
    damaged = bytearray(content)
    local = content.rindex(b"PK\x03\x04")
    for place in (local + 8, directory + 10):
        damaged[place] = method
    assert outcome(damaged) == ("read" if method == zipfile.ZIP_STORED else "refused")
    for place in (local + 6, directory + 8):
        damaged[place] |= 1  # encrypted
    assert outcome(damaged) == "refused"
