import os

import pytest

from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "model.tflite"
    assert atomic_write_bytes(path, b"one") == path
    atomic_write_bytes(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def refuse(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="disk full"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_refuses_paths_that_cannot_be_files(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "model.tflite"):
        with pytest.raises(DDQError, match="existing folder"):
            atomic_write_bytes(path, b"")
