"""The figures of a report, each drawn once: for the page, for PNG files and for TensorBoard.

Each is a function from data to a matplotlib figure; `png_bytes` and `save_png` make PNG of it,
`ddq_tf.report.inline_svg` makes a part of the page of it.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import drawing, palette, wording
from ddq_tf.report.data import LayerReport, ModelVariant, Report, WeightHistogram
from ddq_tf.report.drawing import COLUMN, TEXT
from ddq_tf.report.inline_svg import tooltip
from ddq_tf.report.palette import LIGHT
from ddq_tf.scheme import MAX_BITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
_FEW_LEVELS = 32


def sizes_figure(variants: Sequence[ModelVariant]) -> Figure | None:
    """Draws one horizontal bar per file; returns None if there is no file."""
    from matplotlib.patches import FancyBboxPatch

    files = [(v, v.size_bytes) for v in variants if v.size_bytes is not None]
    if not files:
        return None
    row, height, longest = 62, 26, COLUMN - 110
    largest = max(size for _, size in files) or 1
    figure = drawing.canvas(COLUMN, row * len(files))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, COLUMN), ylim=(row * len(files), 0))
    for top, (variant, size) in zip(itertools.count(0, row), files, strict=False):
        width = max(2.0, longest * size / largest)
        style = f"round,pad=0,rounding_size={min(4.0, width / 2)}"
        colour = LIGHT[palette.of_variant(variant)]
        axes.add_patch(FancyBboxPatch((0, top + 24), width, height, style, color=colour, lw=0))
        drawing.name(axes, 0, top + 12, variant.label, 48, va="center")
        words = wording.size(size)
        drawing.name(axes, width + 8, top + 37, words, va="center", weight="bold")
    return figure


def accuracy_figure(variants: Sequence[ModelVariant]) -> Figure | None:
    """Draws each form that has a file and an accuracy; bars show one standard error.

    Returns None if there is none.
    """
    from matplotlib.transforms import Bbox

    points = [
        (v, v.size_bytes / 1024, v.accuracy * 100)
        for v in variants
        if v.size_bytes and v.accuracy is not None and math.isfinite(v.accuracy)
    ]
    if not points:
        return None
    figure = drawing.canvas(COLUMN, 250)
    axes = drawing.panel(figure, 56, 14, COLUMN - 12, 204)
    errors = [(wording.standard_error(v) or 0) * 100 for v, _, _ in points]
    for (variant, size, value), error in zip(points, errors, strict=True):
        colour = LIGHT[palette.of_variant(variant)]
        axes.plot([size, size], [value - error, value + error], color=colour, lw=1.5)
        words = wording.percent(variant.accuracy), wording.size(variant.size_bytes)
        (dot,) = axes.plot(size, value, "o", ms=12, color=colour, mew=0)
        dot.set_gid(tooltip(f"{variant.label}: {', '.join(words)}"))
    values, margin = [value for *_, value in points], max(1.0, *errors) * 1.15
    axes.set_ylim(min(values) - margin, max(values) + margin)
    drawing.numbers(axes, " %")
    drawing.kibibytes(axes, [size for _, size, _ in points])
    places = axes.transData.transform([(size, value) for _, size, value in points])
    tops = axes.transData.transform(
        [(size, value + error) for (_, size, value), error in zip(points, errors, strict=True)]
    )
    reaches = np.maximum(8, (tops - places)[:, 1])
    taken = [
        Bbox([[x - 8, y - reach], [x + 8, y + reach]])
        for (x, y), reach in zip(places, reaches, strict=True)
    ]
    drawing.spread_names(axes, [v.label for v, _, _ in points], places, taken)
    return figure


def bits_figure(report: Report, *, is_alone: bool = True) -> Figure:
    """Draws bits upwards and stored KiB downwards, in network order (figure 3 of the paper).

    The bits of the activations stand below where any has other than 8.

    Args:
        report: with layers.
        is_alone: whether the figure needs a headline and a legend of its own.

    Raises:
        DDQError: if there are no layers.
    """
    if not report.layers:
        raise DDQError("bits_figure needs a report with layers. Received: none")
    activations = report.activations
    if all(activation.num_bits == MAX_BITS for activation in activations):
        activations = ()
    most = max(len(report.layers), len(activations))
    pitch = min(76.0, max(18.0, 900 / most))
    ratios = (160, 70, 160) if activations else (160, 70)
    height = sum(ratios) + 110 * (2 if activations else 1) + (60 if is_alone else 0)
    figure = drawing.arranged(pitch * most + 136, height)
    panels = figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False).ravel()
    kinds = {layer.kind: palette.of_kind(layer.kind) for layer in report.layers}
    colours = [LIGHT[kinds[layer.kind]] for layer in report.layers]
    tips = [
        f"{layer.name}: {wording.bits(layer.num_bits)} bits, stored in {layer.stored_bits}, "
        f"{wording.size(layer.size_bytes)}, {layer.kind}"
        for layer in report.layers
    ]
    _draw_bits(panels[0], report.layers, colours, tips)
    panels[0].set_xticks([])
    drawing.title(panels[0], y="bits" if not activations else "bits of weights")
    average = report.average_bits or 0.0
    drawing.dashed_line(panels[0], average)
    edge = len(report.layers) - 0.3
    drawing.name(panels[0], edge, average, f"mean {average:.2f}", va="center", fontsize=TEXT)
    _draw_bytes(panels[1], report.layers, colours, tips)
    if activations:
        words = [f"{row.name}: {row.num_bits} bits, {row.kind}" for row in activations]
        _draw_bits(panels[2], activations, [LIGHT["other"]] * len(activations), words)
        _name_columns(panels[2], activations)
        drawing.title(panels[2], y="bits of activations")
    figure.align_ylabels()
    if is_alone:
        drawing.legend(figure, {role: (role, kind) for kind, role in kinds.items()}.values())
        drawing.headline(figure, f"{report.model_name}: bits per layer")
    return figure


def bits_history_figure(bits_history: Mapping[str, Sequence[float]]) -> Figure | None:
    """Draws a row per layer and a column per epoch, shaded by bits; None for no epochs."""
    num_epochs = max(map(len, bits_history.values()), default=0)
    if not num_epochs:
        return None
    figure = drawing.arranged(820, 16 * len(bits_history) + 44)
    axes = figure.subplots()
    drawing.frame(axes, grid="")
    for row, (name, bits) in enumerate(bits_history.items()):
        for start, stop, value in _runs(bits):
            colour = LIGHT[palette.of_bits(value)]
            (bar,) = axes.barh(row, stop - start, 0.88, left=start + 0.5, color=colour)
            bar.set_gid(tooltip(f"{name}, epochs {start + 1} to {stop}: {value:g} bits"))
    names = [drawing.words_of(name, 28) for name in bits_history]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    drawing.epochs(axes, num_epochs)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure


def curves_figure(
    series: Mapping[str, Sequence[float]], mark: tuple[float, str] | None = None
) -> Figure | None:
    """Draws values per epoch; returns None if none is finite.

    Args:
        series: values by name.
        mark: where a dashed line lies, and the words on it.
    """
    if not any(map(drawing.any_finite, series.values())):
        return None
    figure = drawing.canvas(COLUMN, 216)
    axes = drawing.panel(figure, 56, 14, COLUMN - 12, 172)
    _draw_curves(axes, series)
    if mark:
        drawing.dashed_line(axes, *mark)
    return figure


def weights_figure(layer: LayerReport) -> Figure:
    """Draws the weights and levels of one layer, as in `levels_figure`.

    Args:
        layer: with a histogram.

    Raises:
        DDQError: if it has none.
    """
    figure = drawing.canvas(COLUMN, 184)
    _draw_levels(drawing.panel(figure, 10, 8, COLUMN - 10, 160), layer, (-1, -0.5, 0, 0.5, 1))
    return figure


def outline_figure(layer: LayerReport) -> Figure:
    """Draws the outline of a layer's histogram, small enough for a line of text.

    Args:
        layer: with a histogram.

    Raises:
        DDQError: if it has none.
    """
    counts = _histogram(layer).counts
    pairs = [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)]
    figure = drawing.canvas(60, 18)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    colour = LIGHT[palette.of_kind(layer.kind)]
    axes.fill_between(range(len(pairs)), pairs, color=colour, alpha=0.45, lw=0)
    axes.set(xlim=(0, max(1, len(pairs) - 1)), ylim=(0, max(pairs, default=0) or 1))
    return figure


def levels_figure(report: Report) -> Figure:
    """Draws each layer's weights as a histogram, with its levels (figure 1 of the paper).

    Upwards: the weights in units of the range of their channel, with the levels as thin lines where
    there are few. Downwards: each level, as long as the weights that it serves are many.

    Args:
        report: with histograms in its layers; those without are left out.

    Raises:
        DDQError: if no layer has a histogram.
    """
    layers = [layer for layer in report.layers if layer.histogram is not None]
    if not layers:
        raise DDQError("levels_figure needs a layer with a histogram. Received: none")
    columns = min(len(layers), 4 if len(layers) <= 24 else 6)
    rows = math.ceil(len(layers) / columns)
    figure = drawing.arranged(max(300, 190 * columns), 120 * rows + 70)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, layer in zip(panels, layers, strict=False):
        drawing.frame(panel)
        _draw_levels(panel, layer, (-1, 0, 1))
        words = f"{drawing.words_of(layer.name, 24)}  {wording.bits(layer.num_bits)} bits"
        panel.set_title(words, fontsize=TEXT, color=LIGHT["ink"], pad=3, parse_math=False)
    for panel in panels[len(layers) :]:
        panel.set_axis_off()
    kinds = {palette.of_kind(layer.kind): layer.kind for layer in layers}
    drawing.legend(figure, kinds.items())
    words = f"{report.model_name}: weights and levels, in units of the channel's range"
    drawing.headline(figure, words)
    return figure


def error_figure(
    trainings: Mapping[str, Sequence[float]],
    layers: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draws quantization errors over training (figure 5 of the paper).

    The error is sum (w - x_q)^2 / sum w^2.

    Args:
        trainings: by label, such as "with correction", the error of all weights after each epoch:
            `history["quantization_error"]`.
        layers: by layer, the errors of one training: `error_history`, drawn beside.

    Raises:
        DDQError: if there is nothing to draw.
    """
    curves = {label: values for label, values in trainings.items() if drawing.any_finite(values)}
    thin = {name: v for name, v in (layers or {}).items() if drawing.any_finite(v)}
    if not curves and not thin:
        raise DDQError(f"error_figure needs finite errors to draw. Received: {trainings!r:.80}")
    drawn = {"all weights": curves, "single layers": thin}
    drawn = {words: series for words, series in drawn.items() if series}
    figure = drawing.arranged(370 * len(drawn) + 60, 320)
    panels = figure.subplots(1, len(drawn), squeeze=False).ravel()
    thin_look = {"color": LIGHT["accent"], "lw": 0.9, "alpha": 0.6, "marker": ""}
    for panel, (words, series) in zip(panels, drawn.items(), strict=True):
        drawing.frame(panel)
        look = thin_look if series is thin else {}
        _draw_curves(panel, series, **look)
        drawing.title(panel, "epoch", f"Σ(w − x_q)² / Σw² of {words}")
    if any(value > 0 for values in thin.values() for value in values):
        panels[-1].set_yscale("log")
    drawing.legend(figure, ((palette.of_series(i), label) for i, label in enumerate(curves)))
    drawing.headline(figure, "Quantization error of the weights")
    return figure


def figures(report: Report) -> dict[str, Figure]:
    """Returns the figures that stand for themselves and have data, by name: levels, bits, error."""
    drawn = {}
    if any(layer.histogram is not None for layer in report.layers):
        drawn["levels"] = levels_figure(report)
    if report.layers:
        drawn["bits"] = bits_figure(report)
    errors = report.errors
    if any(map(drawing.any_finite, errors.values())):
        drawn["error"] = error_figure(errors, report.error_history)
    return drawn


def png_size(figure: Figure) -> tuple[int, int]:
    """Returns the width and height in pixels of a figure as PNG."""
    width, height = figure.get_size_inches() * DPI
    return int(width), int(height)


def png_bytes(figure: Figure) -> bytes:
    """Returns a figure as a PNG file of `png_size`; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with drawing.any_glyph():
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure as a PNG file, in one step, and returns its path.

    Raises:
        DDQError: if the path does not name a file in an existing folder.
    """
    return atomic_write_bytes(path, png_bytes(figure))


def _histogram(layer: LayerReport) -> WeightHistogram:
    if layer.histogram is None:
        raise DDQError(f"layer {layer.name!r}: its weights are drawn from a histogram. It has none")
    return layer.histogram


def _draw_levels(panel: Axes, layer: LayerReport, ticks: Sequence[float]) -> None:
    values = _histogram(layer)
    most = max(values.counts, default=0) or 1
    colour = LIGHT[palette.of_kind(layer.kind)]
    few = len(values.levels) <= _FEW_LEVELS
    served = np.array(values.level_counts) / (max(values.level_counts, default=0) or 1)
    panel.grid(False)
    panel.stairs(values.counts, values.edges, fill=True, color=colour, alpha=0.45, lw=0)
    if few:
        drawing.strokes(panel, values.levels, 0, most, color=LIGHT["ink"], lw=0.8, alpha=0.28)
    deep = -(0.06 + 0.3 * served) * most
    width = 3.0 if few else 1.1
    drawing.strokes(panel, values.levels, -0.03 * most, deep, color=colour, lw=width)
    panel.axhline(0, color=LIGHT["muted"], lw=0.8)
    limit = max(1.0, *(abs(v) for v in (*values.edges, *values.levels))) * 1.01
    panel.set(xlim=(-limit, limit), ylim=(-0.38 * most, most))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_yticks([])


def _draw_bits(
    panel: Axes, rows: Sequence[Any], colours: Sequence[str], tips: Iterable[str]
) -> None:
    drawing.frame(panel)
    places, bits = range(len(rows)), [row.num_bits for row in rows]
    panel.bar(places, [MAX_BITS] * len(rows), 0.72, color=LIGHT["track"], lw=0)
    bars = panel.bar(places, bits, 0.72, color=list(colours), lw=0)
    for bar, tip in zip(bars, tips, strict=True):
        bar.set_gid(tooltip(tip))
    for place, value in zip(places, bits, strict=True):
        words = wording.bits(value, 2)
        look = {"fontsize": 10, "color": LIGHT["on"], "weight": "bold"}
        drawing.name(panel, place, 0.3, words, ha="center", **look)
    panel.set(xlim=(-0.6, len(rows) - 0.4), ylim=(0, MAX_BITS))
    panel.set_yticks(range(0, MAX_BITS + 1, 2))


def _draw_bytes(
    panel: Axes, layers: Sequence[LayerReport], colours: Sequence[str], tips: Iterable[str]
) -> None:
    drawing.frame(panel)
    sizes = [layer.size_bytes / 1024 for layer in layers]
    bars = panel.bar(range(len(layers)), sizes, 0.72, color=list(colours), alpha=0.5, lw=0)
    for bar, tip in zip(bars, tips, strict=True):
        bar.set_gid(tooltip(tip))
    panel.set(xlim=(-0.6, len(layers) - 0.4), ylim=(max(sizes) * 1.02 or 1, 0))
    drawing.numbers(panel)
    drawing.title(panel, y="KiB")
    _name_columns(panel, layers)


def _name_columns(panel: Axes, rows: Sequence[Any]) -> None:
    names = [drawing.words_of(row.name, 26) for row in rows]
    panel.set_xticks(
        range(len(rows)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False
    )


def _draw_curves(panel: Axes, series: Mapping[str, Sequence[float]], **look: Any) -> None:
    for index, (label, values) in enumerate(series.items()):
        if not drawing.any_finite(values):
            continue
        finite = drawing.finite(values)
        last = max(place for place, value in enumerate(finite) if math.isfinite(value))
        style = {"color": LIGHT[palette.of_series(index)], "lw": 2, "marker": "o", **look}
        places = range(1, len(finite) + 1)
        panel.plot(places, finite, ms=6, mew=0, markevery=[last], label=label, **style)
    drawing.epochs(panel, max(map(len, series.values())))
    drawing.numbers(panel)


def _runs(values: Iterable[float]) -> list[tuple[int, int, float]]:
    runs, start = [], 0
    for value, group in itertools.groupby(values):
        stop = start + sum(1 for _ in group)
        if math.isfinite(value):
            runs.append((start, stop, value))
        start = stop
    return runs
