from __future__ import annotations

import dataclasses
import itertools
import math
import struct
import sys
from typing import Any

import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.report import Report, plots


@pytest.fixture
def report(synthetic) -> Any:
    pytest.importorskip("matplotlib")
    errors = {"quantization_error": (0.02, math.nan, 0.01)}
    return synthetic.make_report(
        synthetic.resnet_layers(),
        history=errors,
        error_history={"conv2d": (0.03, 0.02, 0.01), "conv2d_1": (3e-4, 2e-4, 1e-4)},
        compared_errors={"uncorrected": (0.03, 0.02)},
    )


def png_size(content: bytes) -> tuple[int, int]:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    return struct.unpack(">II", content[16:24])


def test_each_layer_has_its_weights_and_its_levels(report):
    panels = [panel for panel in plots.levels_figure(report).axes if panel.axison]
    assert len(panels) == len(report.layers)
    for panel, layer in zip(panels, report.layers, strict=True):
        assert panel.get_title() == f"{layer.name}  {layer.num_bits} bits"
        (histogram,) = panel.patches
        assert tuple(histogram.get_data().values) == layer.histogram.counts
        assert tuple(histogram.get_data().edges) == layer.histogram.edges
        *guides, stems = panel.collections
        assert len(guides) == (len(layer.histogram.levels) <= 32)
        for lines in (*guides, stems):
            assert tuple(line[0, 0] for line in lines.get_segments()) == layer.histogram.levels
        reaches = np.array([line[:, 1].min() for line in stems.get_segments()])
        served = np.array(layer.histogram.level_counts)
        np.testing.assert_array_equal(
            np.argsort(-reaches, kind="stable"), np.argsort(served, kind="stable")
        )


def test_layers_without_a_histogram_are_left_out(report):
    first, *others = report.layers
    partial = dataclasses.replace(
        report, layers=(dataclasses.replace(first, histogram=None), *others)
    )
    titles = [panel.get_title() for panel in plots.levels_figure(partial).axes if panel.axison]
    assert [title.split()[0] for title in titles] == [layer.name for layer in others]


def test_each_layer_has_a_bar_as_high_as_its_bits(report):
    (panel,) = plots.bits_figure(report).axes
    tracks, bars = panel.containers
    bits = [layer.num_bits for layer in report.layers]
    assert [bar.get_height() for bar in bars] == bits
    assert [bar.get_height() for bar in tracks] == [8] * len(bits)
    assert [label.get_text() for label in panel.get_xticklabels()] == [
        layer.name for layer in report.layers
    ]
    (mean,) = panel.get_lines()
    assert set(mean.get_ydata()) == {report.average_bits}


def test_activations_are_shown_once_their_bits_differ(report):
    first, *others = report.activations
    mixed = (dataclasses.replace(first, num_bits=4), *others)
    panels = plots.bits_figure(dataclasses.replace(report, activations=mixed)).axes
    assert [bar.get_height() for bar in panels[1].containers[1]] == [4] + [8] * len(others)


def test_errors_are_curves_over_epochs(report):
    trainings, layers = plots.figures(report)["error"].axes
    drawn = {str(line.get_label()): line.get_xydata() for line in trainings.get_lines()}
    np.testing.assert_array_equal(drawn["this model"], [(1, 0.02), (2, math.nan), (3, 0.01)])
    np.testing.assert_array_equal(drawn["uncorrected"], [(1, 0.03), (2, 0.02)])
    assert layers.get_yscale() == "log"
    assert [tuple(line.get_ydata()) for line in layers.get_lines()] == list(
        report.error_history.values()
    )


def test_a_figure_needs_something_to_draw(report):
    empty = Report(title="t", created="", model_name="m")
    assert plots.figures(empty) == {}
    assert set(plots.figures(dataclasses.replace(empty, layers=report.layers))) == {
        "levels",
        "bits",
    }
    with pytest.raises(DDQError, match="a layer with a histogram"):
        plots.levels_figure(empty)
    with pytest.raises(DDQError, match="a report with layers"):
        plots.bits_figure(empty)
    with pytest.raises(DDQError, match="finite errors"):
        plots.error_figure({"a": (math.nan,)})


def test_png_files_have_the_size_of_the_figure(report, tmp_path):
    for name, figure in plots.figures(report).items():
        path = plots.save_png(figure, tmp_path / f"{name}.png")
        width, height = figure.get_size_inches() * plots.DPI
        assert png_size(path.read_bytes()) == (int(width), int(height))
    assert plots.png_bytes(plots.bits_figure(report)) == (tmp_path / "bits.png").read_bytes()
    with pytest.raises(DDQError, match="existing folder"):
        plots.save_png(plots.bits_figure(report), tmp_path / "absent" / "bits.png")


def test_names_are_no_formulas(synthetic):
    pytest.importorskip("matplotlib")
    odd = r"$\frac$"  # a broken formula
    layer = synthetic.layer(odd, "dense", (8, 8), 4, 0)
    report = synthetic.make_report((layer,), model_name=odd, activations=())
    for figure in (
        plots.levels_figure(report),
        plots.bits_figure(report),
        plots.error_figure({odd: (1.0, 2.0)}),
    ):
        assert png_size(plots.png_bytes(figure))


@pytest.mark.parametrize("columns", [1, 53])
def test_names_of_many_layers_do_not_overlap(synthetic, columns):
    pytest.importorskip("matplotlib")
    layers = synthetic.mobilenet_layers()[:columns]
    figure = plots.bits_figure(synthetic.make_report(layers))
    plots.png_bytes(figure)  # lays it out
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) == len(layers)
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, synthetic):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (
        plots.check_matplotlib,
        lambda: plots.bits_figure(synthetic.make_report(synthetic.resnet_layers())),
    ):
        with pytest.raises(DDQError, match=r'pip install "ddq_tf\[plots\]"'):
            draw()
