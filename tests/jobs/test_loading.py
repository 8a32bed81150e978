"""Model files in and out."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from ddq_tf import DDQError, DDQModel, cli, jobs
from ddq_tf.jobs.loading import check_output


def test_a_saved_model_keeps_its_outputs_and_notes(quantized: Any) -> None:
    images = next(iter(quantized.images.batches("test")))[0]
    model = jobs.load_ddq_model(quantized.path)
    assert isinstance(model, DDQModel)
    np.testing.assert_array_equal(
        np.asarray(model(images, training=False)),
        np.asarray(quantized.model(images, training=False)),
    )
    assert jobs.read_notes(quantized.path)["input_range"] == [0.0, 255.0]


def test_keras_reads_the_file_itself(trained: Any) -> None:
    assert isinstance(keras.models.load_model(trained.path, compile=False), keras.Model)


def test_files_of_others_have_no_notes(tmp_path: Path, trained: Any) -> None:
    trained.model.save(tmp_path / "plain.keras")
    assert jobs.read_notes(tmp_path / "plain.keras") == {}
    assert jobs.read_notes(tmp_path / "absent.keras") == {}


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        jobs.save_model(trained.model, path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x89HDF\r\n\x1a\n"])
def test_broken_files_are_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(DDQError, match=f"broken{suffix}"):
        jobs.load_model(path)


def test_truncated_files_are_named(tmp_path: Path, trained: Any) -> None:
    path = tmp_path / "half.keras"
    content = trained.path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DDQError, match=r"half\.keras"):
        jobs.load_model(path)


def test_float_and_ddq_are_told_apart(trained: Any, quantized: Any) -> None:
    with pytest.raises(DDQError, match="holds a float model"):
        jobs.load_ddq_model(trained.path)
    with pytest.raises(DDQError, match="holds a DDQ model"):
        jobs.load_float_model(quantized.path)


def test_keras_2_depthwise_models_load(shared_dir: Path) -> None:
    model = jobs.load_model(shared_dir / "models/mlperf_tiny/vww_96.h5")
    kinds = {type(layer) for layer in model.layers}
    assert keras.layers.DepthwiseConv2D in kinds
    assert model.output_shape == (None, 2)


def test_outputs_are_checked_early(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match=r"must end in \.keras"):
        check_output(tmp_path / "a.h5", ".keras")
    with pytest.raises(DDQError, match="existing folder"):
        check_output(tmp_path / "absent" / "a.keras", ".keras")


def rewritten(source: Path, target: Path, **members: bytes) -> Path:
    """A .keras file with other members."""
    with zipfile.ZipFile(source) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**held, **members}.items():
            archive.writestr(name, content)
    return target


def test_a_file_that_is_no_archive_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "x.keras").write_bytes(b"hello")
    with pytest.raises(DDQError, match=r"x.keras' is damaged, or no .keras file"):
        jobs.load_model(tmp_path / "x.keras")


def test_an_archive_that_inflates_is_refused(tmp_path: Path, trained: Any) -> None:
    large = {"more.json": b" " * (1 << 30)}
    path = rewritten(trained.path, tmp_path / "large.keras", **large)
    with pytest.raises(DDQError, match=r"unpacks to 1,[\d,]+ bytes, more than 200 times"):
        jobs.load_model(path)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (b"[" * 100_000, None),
        (b'{"crop": "x"}', "must note a number as crop"),
        (b'{"input_range": 3}', "must note an input range of two ends"),
        (b'{"input_range": [1, "x"]}', "must note an input range of two ends"),
    ],
)
def test_forged_notes_are_named(
    notes: bytes, message: str | None, tmp_path: Path, trained: Any
) -> None:
    path = rewritten(trained.path, tmp_path / "odd.keras", **{"ddq_tf.json": notes})
    options = jobs.DataOptions(spec="digits", limit=16)
    if message is None:
        assert jobs.read_notes(path) == {}
        return
    with pytest.raises(DDQError, match=message):
        jobs.evaluate_file(path, options)


_CODE = """
import keras

def twice(x):
    return x * 2

class Halved(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


def test_code_of_ones_own_is_asked_for_and_taken(tmp_path: Path) -> None:
    code, names = tmp_path / "my_layers.py", {}
    code.write_text(_CODE)
    exec(_CODE, names)
    x = keras.Input((8, 8, 1))
    y = keras.layers.Conv2D(2, 3, activation=names["twice"])(x)
    keras.Model(x, names["Halved"]()(y)).save(tmp_path / "own.keras")
    with pytest.raises(DDQError, match=r"names the function 'twice'.*--code=FILE\.py"):
        jobs.load_model(tmp_path / "own.keras")
    with keras.saving.custom_object_scope({}):
        assert cli.run(["doctor", str(tmp_path / "own.keras"), f"--code={code}"]) == 0
        loaded = jobs.load_model(tmp_path / "own.keras")
        assert type(loaded.layers[-1]).__name__ == "Halved"


def test_a_lambda_without_a_name_has_a_cure(tmp_path: Path) -> None:
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda t: t * 2)(x)).save(tmp_path / "odd.keras")
    with pytest.raises(DDQError, match="function with a name"):
        jobs.load_model(tmp_path / "odd.keras")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "that exists"), ("import nothing_like_it", r"my\.py:1")]
)
def test_code_that_does_not_run_is_told(tmp_path: Path, content: str | None, words: str) -> None:
    if content:
        (tmp_path / "my.py").write_text(content)
    with pytest.raises(DDQError, match=words):
        jobs.load_code(tmp_path / "my.py")
