import builtins
import os
import pathlib
import subprocess
import sys

import pytest

import ddq_tf
from ddq_tf import files
from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes, atomic_write_folder, check_folder, check_writable
from tests.toys import images, mixed_net


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
    with pytest.raises(DDQError, match=r"cannot write 3 bytes.*disk full\. It is as it was"):
        atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_refuses_paths_that_cannot_be_files(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "model.tflite"):
        with pytest.raises(DDQError, match="existing folder"):
            atomic_write_bytes(path, b"")


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A folder that, even for root, cannot be written to."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    asked = os.access

    def access(path, mode):
        return asked(path, mode) and not (mode == os.W_OK and os.fspath(path) == str(folder))

    monkeypatch.setattr(os, "access", access)
    return folder


def test_a_read_only_folder_is_found_before_the_work(read_only, tmp_path):
    for path in (read_only / "model.tflite", str(read_only / "model.tflite")):
        with pytest.raises(DDQError, match=r"model.tflite' cannot be written to: it is read-only"):
            check_writable(path)
    for path in (read_only, read_only / "new", str(read_only / "new" / "inner")):
        with pytest.raises(DDQError, match=r"cannot be written to: .*read_only' is read-only"):
            check_folder(path)
    check_folder(tmp_path / "new" / "inner")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DDQError, match="file' is no folder"):
        check_folder(tmp_path / "file" / "new")


def test_training_reconstruction_and_export_look_before_they_work(read_only):
    model, x = mixed_net(), images(16)
    quantized = ddq_tf.quantize_model(model, calibration=x)
    for work in (
        lambda: ddq_tf.export.export_tflite(quantized, read_only / "model.tflite"),
        lambda: ddq_tf.training.Checkpoint(read_only),
        lambda: ddq_tf.reconstruct_model(model, x, checkpoint_dir=read_only / "kept"),
    ):
        with pytest.raises(DDQError, match="cannot be written to"):
            work()


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    path = tmp_path / "model.tflite"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".model.tflite.{dead.pid}.0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / f".model.tflite.{os.getpid()}.0a1b2c3d.tmp").write_bytes(b"being written")
    (tmp_path / f".other.{dead.pid}.0a1b2c3d.tmp").write_bytes(b"of another file")
    atomic_write_bytes(path, b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [
            "model.tflite",
            f".model.tflite.{os.getpid()}.0a1b2c3d.tmp",
            f".other.{dead.pid}.0a1b2c3d.tmp",
        ]
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    """The real error of a real write, from a device that is always full."""
    path = tmp_path / "model.tflite"

    def opened(name, mode):
        return builtins.open("/dev/full", "wb")

    monkeypatch.setattr(files, "open", opened, raising=False)
    with pytest.raises(DDQError, match=r"No space left on device\. It is not there"):
        atomic_write_bytes(path, b"x" * 100)


def test_a_folder_is_written_whole(tmp_path):
    folder = tmp_path / "new" / "site"
    assert atomic_write_folder(folder, {"mark": b"1", "a/b": b"2"}, marker="mark") == folder
    assert (folder / "a" / "b").read_bytes() == b"2"
    atomic_write_folder(folder, {"mark": b"3"}, marker="mark")
    assert [p.name for p in folder.iterdir()] == ["mark"]
    assert os.listdir(tmp_path / "new") == ["site"]


def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    atomic_write_folder(folder, {"mark": b"old"}, marker="mark")
    rename = pathlib.Path.rename

    def refuse(path, target):
        if path.name.endswith(".tmp") and not path.name.endswith(".old.tmp"):
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(DDQError, match=r"cannot write the folder .*disk full\. It is as it was"):
        atomic_write_folder(folder, {"mark": b"new"}, marker="mark")
    assert (folder / "mark").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["site"]


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(DDQError, match="new or empty"):
        atomic_write_folder(tmp_path, {"mark": b""}, marker="mark")
    with pytest.raises(DDQError, match="must be a folder"):
        atomic_write_folder(tmp_path / "mine", {"mark": b""}, marker="mark")
    assert os.listdir(tmp_path) == ["mine"]


def test_what_a_killed_process_left_of_a_folder_is_swept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".site.{dead.pid}.abcd.tmp"
    (left / "a").mkdir(parents=True)
    atomic_write_folder(tmp_path / "site", {"mark": b""}, marker="mark")
    assert os.listdir(tmp_path) == ["site"]
