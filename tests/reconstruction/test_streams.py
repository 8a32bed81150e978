"""Values of many examples, in memory and in files, against plain arrays."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest

from ddq_tf import DDQError, ReconstructionConfig, reconstruct_model
from ddq_tf.reconstruction import streams
from ddq_tf.reconstruction.streams import Codes, Halves, Joined, Repeated, Rows, Stored, Whole
from tests.toys import images, mixed_net, shake

PARTS = [slice(None), slice(2, 7), slice(3, 3), np.array([6, 0, 1, 2, 9]), np.arange(1, 10, 3)]
VALUES = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)


def stored(packing: streams.Packing) -> Stored:
    found = Stored((2, 3), packing)
    found.append(VALUES[:4])
    found.append(VALUES[4:])
    return found


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_they_read_as_arrays_do(part):
    rows = Rows([VALUES[:3], VALUES[3:3], VALUES[3:]])
    joined = Joined(VALUES[:4], VALUES[4:])
    for values in (rows, joined, stored(Whole())):
        assert values.shape == VALUES.shape
        assert len(values) == len(VALUES)
        np.testing.assert_array_equal(values[part], VALUES[part])


@pytest.mark.parametrize("first", [0, 1])
def test_every_second_example_whatever_the_batches(first):
    rows = Rows([VALUES[:3], VALUES[3:8], VALUES[8:]])
    np.testing.assert_array_equal(rows.every_second(first)[:], VALUES[first::2])


def test_passes_one_after_the_other():
    repeated = Repeated(Rows([VALUES]), 3)
    np.testing.assert_array_equal(repeated[:], np.concatenate([VALUES] * 3))
    np.testing.assert_array_equal(repeated[8:13], VALUES[[8, 9, 0, 1, 2]])


def test_codes_lose_nothing():
    rng, scale = np.random.default_rng(1), np.float32(0.0371)
    for qmin, qmax in ((-128, 127), (0, 255), (-7, 7)):
        values = rng.integers(qmin, qmax + 1, (50, 4)).astype(np.float32) * scale
        found = Stored((4,), Codes(scale, qmin))
        found.append(values)
        np.testing.assert_array_equal(found[:], values)


def test_halves_keep_eleven_bits_and_large_values():
    values = np.array([[0.0, 1e-4, 0.3, -7.7, 2e5]], np.float32)
    found = Stored((5,), Halves(6.0))
    found.append(values)
    np.testing.assert_allclose(found[:], values, rtol=2.0**-11, atol=1e-7)


def test_too_little_room_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(streams.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    seen = []
    recipe = ReconstructionConfig(views=1)
    with pytest.raises(DDQError, match=r"needs room for .* GB.*TMPDIR"):
        reconstruct_model(shake(mixed_net()), images(), recipe=recipe, on_progress=seen.append)
    assert not seen


def test_a_full_disk_is_told(monkeypatch):
    class Full(tempfile.SpooledTemporaryFile):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(streams.tempfile, "TemporaryFile", lambda prefix: Full())
    with pytest.raises(DDQError, match=r"No space left on device.*TMPDIR"):
        stored(Whole())
