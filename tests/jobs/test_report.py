"""`ddq report`: what it gathers, compares and draws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from ddq_tf import jobs
from ddq_tf.errors import DDQError
from ddq_tf.jobs.quantize import history_path
from ddq_tf.jobs.report import compared_errors
from ddq_tf.report import load, plots


@pytest.fixture(scope="module")
def report(quantized: Any) -> Any:
    subject = jobs.subject_of_files(quantized.path, compare=f"twin={quantized.path}")
    return jobs.make_report(subject)


def test_the_training_errors_are_in_the_report(quantized: Any, report: Any) -> None:
    assert report.error_history == quantized.error_history
    own = quantized.history["quantization_error"]
    assert len(own) == 2
    assert report.errors == {"this model": own, "twin": own}
    for layer in report.layers:
        last = report.error_history[layer.name][-1]
        assert math.isclose(layer.quantization_error, last, rel_tol=1e-4)


def test_layers_take_what_the_files_target_stores(quantized: Any) -> None:
    subject = jobs.subject_of_files(quantized.path, target="litert-int8")
    assert {layer.stored_bits for layer in jobs.make_report(subject).layers} == {8}


def test_figures_lie_in_their_folder(report: Any, tmp_path: Path) -> None:
    files = jobs.save_figures(report, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["levels.png", "bits.png", "error.png"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(files)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_figures_can_be_drawn_from_the_saved_report(report: Any, tmp_path: Path) -> None:
    _, values = jobs.save_report(report, tmp_path / "report.html")
    again = plots.figures(load(values))
    for name, figure in plots.figures(report).items():
        assert plots.png_bytes(again[name]) == plots.png_bytes(figure)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DDQError, match="cannot make the folder"):
        jobs.check_figures_folder(tmp_path / "file")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "a",
        "a=",
        "=x.keras",
        "a=x.keras,a=y.keras",
        "a=x.h5",
        "a=1.keras,b=2.keras,c=3.keras,d=4.keras",
    ],
)
def test_trainings_to_compare_must_read_so(words: str) -> None:
    with pytest.raises(DDQError, match="must read LABEL=FILE"):
        compared_errors(words)


def test_trainings_without_errors_are_all_named(tmp_path: Path) -> None:
    history: dict[str, Any] = {"history": {"loss": [1.0]}}
    series = ("bits_history", "error_history", "range_history", "level_history")
    history_path(tmp_path / "b.keras").write_text(
        json.dumps({**history, **{name: {} for name in series}})
    )
    with pytest.raises(DDQError) as caught:
        compared_errors(f"a={tmp_path / 'a.keras'},b={tmp_path / 'b.keras'}")
    assert all(f"'{label}': none in" in str(caught.value) for label in "ab")
