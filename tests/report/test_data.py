from __future__ import annotations

import ast
import json
import math
import pathlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddq_tf.errors import DDQError
from ddq_tf.report import ActivationReport, Report, WeightHistogram, data, load, save


def test_round_trip_through_a_file(synthetic, tmp_path):
    report = synthetic.make_report(synthetic.resnet_layers())
    save(report, tmp_path / "report.json")
    assert load(tmp_path / "report.json") == report


def test_round_trip_of_the_least_report():
    report = Report(title="t", created="now", model_name="m")
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert (report.result, report.average_bits, report.num_weights) == (None, None, 0)


@given(
    name=st.text(),
    numbers=st.tuples(*[st.floats(allow_nan=False)] * 3),
    integers=st.tuples(st.integers(), st.integers()),
)
def test_round_trip_of_any_values(name, numbers, integers):
    record = ActivationReport(
        name=name,
        kind="relu",
        num_bits=integers[0],
        zero_point=integers[1],
        scale=numbers[0],
        range_min=numbers[1],
        range_max=numbers[2],
    )
    text = json.dumps(record.to_dict(), allow_nan=False)
    assert ActivationReport.from_dict(json.loads(text)) == record


def test_nan_survives():
    report = Report(title="t", created="", model_name="m", history={"loss": (math.nan, 1.0)})
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert math.isnan(Report.from_dict(values).history["loss"][0])


def test_numpy_values_become_plain():
    report = Report(
        title="t", created="", model_name="m", seed=np.int64(3), history={"loss": np.ones(2)}
    )
    assert type(report.seed) is int
    assert report.history == {"loss": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Cannot read"),
        ("[]", "no ddq_tf report"),
        ('{"schema": 1}', "schema 2. Received: 1"),
        ('{"schema": 2}', "lacks the keys"),
        ('{"schema": 2, "title": 3, "created": "", "model_name": ""}', r"Report.title must be"),
        ('{"schema": 2, "title": "", "created": "", "model_name": "", "x": 1}', r"keys \['x'\]"),
        (
            '{"schema": 2, "title": "", "created": "", "model_name": "", "layers": [3]}',
            r"Report.layers\[0\] must be an object",
        ),
        (
            '{"schema": 2, "title": "", "created": "", "model_name": "", "seed": true}',
            "Report.seed must be of type int",
        ),
    ],
)
def test_bad_files_are_refused_with_words(tmp_path, content, words):
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(DDQError, match=words):
        load(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DDQError, match="Cannot read"):
        load(tmp_path / "absent.json")


def test_histogram_counts_every_weight_once():
    weights = np.array([-2.0, -0.9, -0.1, 0.0, 0.1, 0.4, 1.1])
    measured = WeightHistogram.measure(weights, np.array([1.0, 0.0, -1.0]), num_bins=10)
    assert measured.edges[0] == -1.5
    assert sum(measured.counts) == 7
    assert measured.levels == (-1.0, 0.0, 1.0)
    assert measured.level_counts == (2, 4, 1)


@pytest.mark.parametrize(("weights", "levels"), [([math.nan], [0.0]), ([1.0], [])])
def test_histogram_refuses_what_it_cannot_count(weights, levels):
    with pytest.raises(DDQError, match="finite weights"):
        WeightHistogram.measure(np.array(weights), np.array(levels))


def test_histogram_refuses_unequal_lengths():
    with pytest.raises(DDQError, match="one more edge"):
        WeightHistogram(edges=(0.0, 1.0), counts=(1, 2), levels=(), level_counts=())


def test_result_prefers_a_file(synthetic):
    report = synthetic.make_report(())
    assert report.result.label == "DDQ (LiteRT)"


def test_imports_neither_tensorflow_nor_keras():
    folder = pathlib.Path(data.__file__).parent
    known = {*sys.stdlib_module_names, "numpy", "rich"}
    light = ("errors", "files", "scheme")
    more = {
        "plots.py": {"matplotlib"},
        "drawing.py": {"matplotlib"},
        "inline_svg.py": {"matplotlib", "markupsafe"},
        "html.py": {"jinja2", "markupsafe"},
    }
    for path in folder.glob("*.py"):
        allowed = known | more.get(path.name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                ours = name.startswith(tuple(f"ddq_tf.{m}" for m in ("report", *light)))
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"
