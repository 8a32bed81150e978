from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from typing import Any

import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.report import ModelVariant, Report, drawing, plots


@pytest.fixture
def report(synthetic) -> Any:
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
        check_levels(panel, layer)
        check_levels(plots.weights_figure(layer).axes[0], layer)


def check_levels(panel: Any, layer: Any) -> None:
    histogram, *guides, stems = panel.patches
    assert tuple(histogram.get_data().values) == layer.histogram.counts
    assert tuple(histogram.get_data().edges) == layer.histogram.edges
    assert len(guides) == (len(layer.histogram.levels) <= 32)
    for lines in (*guides, stems):
        starts, ends = lines.get_path().vertices[0::2], lines.get_path().vertices[1::2]
        assert tuple(starts[:, 0]) == tuple(ends[:, 0]) == layer.histogram.levels
    reaches = -stems.get_path().vertices[1::2, 1]
    served = np.array(layer.histogram.level_counts)
    np.testing.assert_allclose(
        (reaches - reaches.min()) / np.ptp(reaches), (served - served.min()) / np.ptp(served)
    )


def test_layers_without_a_histogram_are_left_out(report):
    first, *others = report.layers
    partial = dataclasses.replace(
        report, layers=(dataclasses.replace(first, histogram=None), *others)
    )
    titles = [panel.get_title() for panel in plots.levels_figure(partial).axes if panel.axison]
    assert [title.split()[0] for title in titles] == [layer.name for layer in others]


def test_each_layer_has_a_bar_as_high_as_its_bits(report):
    panel, below = plots.bits_figure(report).axes
    tracks, bars = panel.containers
    bits = [layer.num_bits for layer in report.layers]
    assert [bar.get_height() for bar in bars] == bits
    assert [bar.get_height() for bar in tracks] == [8] * len(bits)
    (sizes,) = below.containers
    assert [bar.get_height() * 1024 for bar in sizes] == [x.size_bytes for x in report.layers]
    assert below.yaxis_inverted()
    assert [label.get_text() for label in below.get_xticklabels()] == [
        layer.name for layer in report.layers
    ]
    (mean,) = panel.get_lines()
    assert set(mean.get_ydata()) == {report.average_bits}


def test_activations_are_shown_once_their_bits_differ(report):
    first, *others = report.activations
    mixed = (dataclasses.replace(first, num_bits=4), *others)
    panels = plots.bits_figure(dataclasses.replace(report, activations=mixed)).axes
    assert [bar.get_height() for bar in panels[2].containers[1]] == [4] + [8] * len(others)


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


@pytest.mark.parametrize("odd", [r"$\frac$", "_name", "a_b"])  # the first is a broken formula
def test_names_are_no_formulas_and_not_left_out(synthetic, odd):
    layer = synthetic.layer(odd, "dense", (8, 8), 4, 0)
    report = synthetic.make_report((layer,), model_name=odd, activations=())
    error = plots.error_figure({odd: (1.0, 2.0)})
    for figure in (plots.levels_figure(report), plots.bits_figure(report), error):
        assert png_size(plots.png_bytes(figure))
    assert [text.get_text() for text in error.legends[0].get_texts()] == [odd]


@pytest.mark.parametrize("columns", [1, 8, 53])
def test_names_of_many_layers_do_not_overlap(synthetic, columns):
    layers = synthetic.mobilenet_layers()[:columns]
    figure = plots.bits_figure(synthetic.make_report(layers))
    figure.draw_without_rendering()  # lays it out
    names = figure.axes[1].get_xticklabels()
    assert len(names) == len(layers)
    assert all(name.get_rotation() == 45 for name in names)
    places = [name.get_transform().transform(name.get_position())[0] for name in names]
    for left, right in itertools.pairwise(places):
        assert (right - left) * math.sin(math.radians(45)) >= names[0].get_fontsize()
    boxes = [name.get_window_extent() for name in names]
    assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)


def test_sizes_are_bars_in_proportion(report):
    (axes,) = plots.sizes_figure(report.variants).axes
    files = [variant for variant in report.variants if variant.size_bytes is not None]
    widths = np.array([bar.get_width() for bar in axes.patches])
    sizes = np.array([variant.size_bytes for variant in files])
    np.testing.assert_allclose(widths / widths.max(), sizes / sizes.max())
    words = [text.get_text() for text in axes.texts]
    assert words[0::2] == [variant.label for variant in files]
    assert plots.sizes_figure((ModelVariant(label="DDQ (Keras)"),)) is None


def test_accuracies_are_points_over_sizes(report):
    (axes,) = plots.accuracy_figure(report.variants).axes
    whiskers, dots = axes.get_lines()[0::2], axes.get_lines()[1::2]
    files = [variant for variant in report.variants if variant.size_bytes is not None]
    for variant, whisker, dot in zip(files, whiskers, dots, strict=True):
        ((size, share),) = dot.get_xydata()
        assert (size, share) == (variant.size_bytes / 1024, variant.accuracy * 100)
        error = math.sqrt(variant.accuracy * (1 - variant.accuracy) / variant.num_samples) * 100
        np.testing.assert_allclose(whisker.get_ydata(), [share - error, share + error])
        low, high = axes.get_ylim()
        assert low < share - error < share + error < high


def test_names_of_close_points_do_not_overlap():
    variants = [
        ModelVariant(label=f"variant {i}", size_bytes=100_000 + 9000 * i, accuracy=0.8 + i / 1000)
        for i in range(4)
    ]
    (axes,) = plots.accuracy_figure(variants).axes
    boxes = [text.get_window_extent() for text in axes.texts]
    boxes += [dot.get_window_extent() for dot in axes.get_lines()[1::2]]
    assert len(boxes) == 8
    for a, b in itertools.combinations(boxes, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 for box in boxes)


def test_curves_are_values_over_epochs():
    series = {"loss": (math.nan, 2.0, 1.0, math.inf), "none": (), "odd": (math.nan,)}
    (axes,) = plots.curves_figure(series, (1.5, "budget 1.50")).axes
    curve, mark = axes.get_lines()
    np.testing.assert_array_equal(curve.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(curve.get_ydata(), [math.nan, 2.0, 1.0, math.nan])
    assert curve.get_markevery() == [2]  # the last that is known
    assert set(mark.get_ydata()) == {1.5}
    assert [text.get_text() for text in axes.texts] == ["budget 1.50"]
    assert plots.curves_figure({"odd": (math.nan,)}) is None


def test_history_has_a_bar_for_each_stay():
    history = {"a": (8.0, 8.0, 4.0), "b": (math.nan, 2.0)}
    (axes,) = plots.bits_history_figure(history).axes
    bars = [
        (bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in axes.patches
    ]
    np.testing.assert_allclose(bars, [(0, 0.5, 2), (0, 2.5, 1), (1, 1.5, 1)])
    assert len({bar.get_facecolor() for bar in axes.patches}) == 3
    assert [name.get_text() for name in axes.get_yticklabels()] == ["a", "b"]
    assert plots.bits_history_figure({"a": ()}) is None


@pytest.mark.parametrize("count", [1, 2, 7, 24, 300])
def test_ticks_are_whole_epochs(count):
    (axes,) = plots.curves_figure({"loss": np.arange(count) / 7}).axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(ticks) <= 10
    assert all(tick == round(tick) and 1 <= tick <= count for tick in ticks)


@pytest.mark.parametrize("values", [(3.0, 3.0), (0.0, 1e12), (2e-5, 1e-5), (0.851, 0.852)])
def test_numbers_beside_grid_lines_fit(values):
    figure = plots.curves_figure({"loss": values})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [label for label in axes.get_yticklabels() if label.get_text()]
    assert len({label.get_text() for label in names}) == len(names) >= 2
    assert all(label.get_window_extent().x0 >= 0 for label in names)
    assert all(len(label.get_text()) <= 7 for label in names)


def test_long_names_lose_their_middle():
    assert drawing.words_of("a" * 9 + "b" * 9, 9) == "aaaa…bbbb"
    assert drawing.words_of("a\x00b", 9) == "a\ufffdb"
