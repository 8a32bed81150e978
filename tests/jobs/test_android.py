"""`ddq export --android`: the asset, and what keeps it from being put there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf import jobs
from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.jobs.android import ASSETS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app_project" / ASSETS).mkdir(parents=True)
    return tmp_path / "app_project"


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"digit {digit}\n" for digit in range(10)))
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_asset_is_the_file(quantized: Any, project: Path, labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tflite"
    jobs.export_file(quantized.path, out, labels=labels, android=project)
    assert (project / ASSETS / "model.tflite").read_bytes() == out.read_bytes()
    assert files_in(project) == ["model.tflite"]
    assert b"TFLITE_METADATA" in out.read_bytes()


def test_the_asset_tells_what_the_model_file_notes(
    quantized: Any, project: Path, labels: Path, tmp_path: Path
) -> None:
    """The range of ResNet-8 is (0, 255); the notes are changed to what training may have seen."""
    model, notes = jobs.load_ddq_model(quantized.path), jobs.read_notes(quantized.path)
    assert notes["input_range"] == [0.0, 255.0]
    told = {**notes, "channels": "bgr", "crop": 0.5, "resize": "bicubic"}
    jobs.save_model(model, tmp_path / "told.keras", told)
    jobs.export_file(tmp_path / "told.keras", tmp_path / "a.tflite", labels=labels, android=project)
    content = (project / ASSETS / "model.tflite").read_bytes()
    entry = tflite.read(content).metadata["TFLITE_METADATA"]
    assert b"channels=bgr\ncrop=0.5\nresize=bicubic\n" in entry
    assert np.float32(1).tobytes() in entry  # std: pixels are the inputs


def test_without_an_app_a_range_is_not_taken_from_the_notes(
    quantized: Any, labels: Path, tmp_path: Path
) -> None:
    jobs.export_file(quantized.path, tmp_path / "a.tflite", labels=labels)
    entry = tflite.read((tmp_path / "a.tflite").read_bytes()).metadata["TFLITE_METADATA"]
    assert np.float32(1).tobytes() not in entry


def refused(source: Path, tmp_path: Path, **more: Any) -> str:
    """The words of a refusal that leaves nothing behind."""
    before = files_in(tmp_path)
    with pytest.raises(DDQError) as caught:
        jobs.export_file(source, tmp_path / "out.tflite", **more)
    assert files_in(tmp_path) == before
    return str(caught.value)


def test_what_is_missing_is_named(
    quantized: Any, project: Path, labels: Path, tmp_path: Path
) -> None:
    source = quantized.path
    assert "--labels=FILE must name" in refused(source, tmp_path, android=project)
    jobs.save_model(jobs.load_ddq_model(source), tmp_path / "bare.keras", {})
    said = refused(tmp_path / "bare.keras", tmp_path, android=project)
    assert "--labels=FILE" in said
    assert "--input_range=LOW,HIGH" in said
    said = refused(source, tmp_path, android=tmp_path, labels=labels)
    assert "app/src/main/assets in it, such as examples/android" in said
    few = tmp_path / "few.txt"
    few.write_text("a\nb\n")
    assert "labels: 10 are needed" in refused(source, tmp_path, android=project, labels=few)
    absent = refused(tmp_path / "none.keras", tmp_path, android=project, labels=labels)
    assert "does not exist" in absent


def test_models_that_the_app_cannot_run(project: Path, labels: Path, tmp_path: Path) -> None:
    row = keras.Input((12,))
    plain = keras.Model(row, keras.layers.Dense(10)(row), name="rows")
    noise = np.random.default_rng(0).normal(0, 1, (8, 12)).astype(np.float32)
    q = ddq_tf.quantize_model(plain, calibration=noise)
    notes = {"input_range": [-1, 1], "resize": "area"}
    jobs.save_model(q, tmp_path / "rows.keras", notes)
    more = {"android": project, "labels": labels, "target": "tflm"}
    said = refused(tmp_path / "rows.keras", tmp_path, **more)
    assert "one image of a fixed size" in said
    assert "Received: (None, 12)" in said
    assert "--target must be one of LiteRT's. Received: tflm" in said
    assert "Received: 'area'" in said
