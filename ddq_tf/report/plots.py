"""The figures of the paper, drawn from report data: levels, bits and quantization errors as PNG.

Needs the package matplotlib (`pip install "ddq_tf[plots]"`).
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddq_tf.errors import DDQError, missing_package
from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import wording
from ddq_tf.report.data import LayerReport, Report
from ddq_tf.report.svg import epoch_ticks, shorten
from ddq_tf.scheme import MAX_BITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
_FEW_LEVELS = 32
_SMALL = 8.5  # points
_INK, _MUTED, _GRID, _TRACK = "#1a2230", "#5a6474", "#e1e5eb", "#f0f2f5"
_KIND_COLOURS = {
    "pointwise": "#3b72e0",
    "depthwise": "#dd8613",
    "convolution": "#1a9a78",
    "dense": "#a94fb0",
    "other": "#76818f",
}
_CURVE_COLOURS = tuple(_KIND_COLOURS.values())


def check_matplotlib() -> None:
    """Raises DDQError if figures cannot be drawn, for want of matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise missing_package("figures need", "matplotlib", "plots") from error


def levels_figure(report: Report) -> Figure:
    """Draws each layer's weights as a histogram, with its levels (figure 1 of the paper).

    Upwards: the weights in units of the range of their channel, with the levels as thin lines where
    there are few. Downwards: each level, as long as the weights that it serves are many.

    Args:
        report: with histograms in its layers; those without are left out.

    Raises:
        DDQError: if no layer has a histogram, or matplotlib is missing.
    """
    layers = [layer for layer in report.layers if layer.histogram is not None]
    if not layers:
        raise DDQError("levels_figure needs a layer with a histogram. Received: none")
    columns = min(len(layers), 4 if len(layers) <= 24 else 6)
    rows = math.ceil(len(layers) / columns)
    figure = _blank(max(4.0, 2.6 * columns), 1.5 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, layer in zip(panels, layers, strict=False):
        _draw_levels(panel, layer)
    for panel in panels[len(layers) :]:
        panel.set_axis_off()
    _headline(figure, f"{report.model_name}: weights and levels, in units of the channel's range")
    kinds = dict.fromkeys(wording.kind_class(layer.kind) for layer in layers)
    _legend(figure, kinds)
    return figure


def bits_figure(report: Report) -> Figure:
    """Draws the bits of each layer in network order (figure 3 of the paper).

    Those of the activations stand below where any has other than 8.

    Args:
        report: with layers.

    Raises:
        DDQError: if there are no layers, or matplotlib is missing.
    """
    if not report.layers:
        raise DDQError("bits_figure needs a report with layers. Received: none")
    activations = report.activations
    if all(activation.num_bits == MAX_BITS for activation in activations):
        activations = ()
    most = max(len(report.layers), len(activations))
    rows = 2 if activations else 1
    figure = _blank(max(6.0, 0.24 * most + 1.5), 3.6 * rows)
    panels = figure.subplots(rows, 1, squeeze=False).ravel()
    kinds = [wording.kind_class(layer.kind) for layer in report.layers]
    colours = [_KIND_COLOURS[kind] for kind in kinds]
    _draw_bits(panels[0], report.layers, colours)
    _label(panels[0], "", "bits of weights")
    average = report.average_bits
    mean = panels[0].axhline(average, color=_INK, lw=1, ls=(0, (4, 3)), label=f"mean {average:.2f}")
    _legend(figure, dict.fromkeys(kinds), [mean])
    if activations:
        _draw_bits(panels[1], activations, [_KIND_COLOURS["other"]] * len(activations))
        _label(panels[1], "", "bits of activations")
    _headline(figure, f"{report.model_name}: bits per layer")
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
        DDQError: if there is nothing to draw, or matplotlib is missing.
    """
    curves = {label: values for label, values in trainings.items() if _any_finite(values)}
    thin = [values for values in (layers or {}).values() if _any_finite(values)]
    if not curves and not thin:
        raise DDQError(f"error_figure needs finite errors to draw. Received: {trainings!r:.80}")
    panels = [*(["all weights"] if curves else []), *(["single layers"] if thin else [])]
    figure = _blank(5.2 * len(panels) + 1.0, 4.2)
    axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False).ravel(), strict=True))
    for index, (label, values) in enumerate(curves.items()):
        colour = _CURVE_COLOURS[index % len(_CURVE_COLOURS)]
        _draw_errors(axes["all weights"], values, color=colour, lw=2, marker="o", label=label)
    for values in thin:
        _draw_errors(axes["single layers"], values, color=_CURVE_COLOURS[0], lw=0.9, alpha=0.6)
    longest = max(map(len, (*curves.values(), *thin)))
    for words, panel in axes.items():
        panel.set_xticks(epoch_ticks(longest, 10))
        _label(panel, "epoch", f"Σ(w − x_q)² / Σw² of {words}")
        panel.grid(color=_GRID, lw=0.8)
        _plain_frame(panel)
    if any(value > 0 for values in thin for value in values):
        axes["single layers"].set_yscale("log")
    _legend(figure, (), [line for panel in axes.values() for line in panel.get_lines()])
    _headline(figure, "Quantization error of the weights")
    return figure


def figures(report: Report) -> dict[str, Figure]:
    """Returns the figures that a report has data for, by name: levels, bits, error.

    Raises:
        DDQError: if matplotlib is missing.
    """
    drawn = {}
    if any(layer.histogram is not None for layer in report.layers):
        drawn["levels"] = levels_figure(report)
    if report.layers:
        drawn["bits"] = bits_figure(report)
    errors = report.errors
    if any(map(_any_finite, errors.values())):
        drawn["error"] = error_figure(errors, report.error_history)
    return drawn


def png_size(figure: Figure) -> tuple[int, int]:
    """Returns the width and height in pixels of a figure as PNG."""
    width, height = figure.get_size_inches() * DPI
    return int(width), int(height)


def png_bytes(figure: Figure) -> bytes:
    """Returns a figure as a PNG file of `png_size`; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure as a PNG file, in one step, and returns its path.

    Raises:
        DDQError: if the path does not name a file in an existing folder.
    """
    return atomic_write_bytes(path, png_bytes(figure))


def _blank(width: float, height: float) -> Figure:
    check_matplotlib()
    from matplotlib.figure import Figure

    # Not pyplot: its figures are global state, and not for threads.
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _headline(figure: Figure, words: str) -> None:
    figure.suptitle(words, fontsize=11, color=_INK, parse_math=False)


def _draw_levels(panel: Axes, layer: LayerReport) -> None:
    values: Any = layer.histogram
    most = max(max(values.counts, default=0), 1)
    colour = _KIND_COLOURS[wording.kind_class(layer.kind)]
    few = len(values.levels) <= _FEW_LEVELS
    served = np.array(values.level_counts) / max(max(values.level_counts, default=0), 1)
    panel.stairs(values.counts, values.edges, fill=True, color=colour, alpha=0.45)
    if few:
        panel.vlines(values.levels, 0, most, color=_INK, lw=0.6, alpha=0.3)
    stems = panel.vlines(values.levels, -(0.06 + 0.3 * served) * most, -0.02 * most, color=colour)
    stems.set(linewidth=1.8 if few else 0.6, snap=few)
    panel.axhline(0, color=_MUTED, lw=0.6)
    limit = max(1.0, *(abs(v) for v in (*values.edges, *values.levels))) * 1.03
    panel.set_xlim(-limit, limit)
    panel.set_ylim(-0.4 * most, 1.05 * most)
    panel.set_xticks([-1, 0, 1])
    panel.set_yticks([])
    words = f"{shorten(layer.name, 24)}  {wording.bits(layer.num_bits)} bits"
    panel.set_title(words, fontsize=8, color=_INK, pad=3, parse_math=False)
    _plain_frame(panel)
    panel.spines["left"].set_visible(False)


def _draw_bits(panel: Axes, rows: Sequence[Any], colours: Sequence[str]) -> None:
    places, bits = range(len(rows)), [row.num_bits for row in rows]
    panel.bar(places, [MAX_BITS] * len(rows), width=0.8, color=_TRACK, zorder=0)
    panel.bar(places, bits, width=0.8, color=list(colours), zorder=1)
    for place, value in zip(places, bits, strict=True):
        words = wording.bits(value, 2)
        panel.text(place, 0.2, words, fontsize=7, color="white", ha="center", va="bottom")
    names = [shorten(row.name, 26) for row in rows]
    panel.set_xticks(
        places, names, rotation=90 if len(rows) > 12 else 35, fontsize=7, parse_math=False
    )
    if len(rows) <= 12:
        for text in panel.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    panel.set_xlim(-0.6, len(rows) - 0.4)
    panel.set_ylim(0, MAX_BITS)
    panel.set_yticks(range(0, MAX_BITS + 1, 2))
    _plain_frame(panel)


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(labelsize=7, colors=_MUTED, length=2)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=_SMALL, color=_MUTED)
    axes.set_ylabel(y, fontsize=_SMALL, color=_MUTED)


def _legend(figure: Figure, kinds: Iterable[str], lines: Iterable[Any] = ()) -> None:
    """Explains the colours of kinds, and those lines that have a name."""
    from matplotlib.patches import Patch

    marks = [Patch(color=_KIND_COLOURS[kind], label=kind) for kind in kinds]
    marks += [line for line in lines if not line.get_label().startswith("_")]
    legend = figure.legend(
        handles=marks, fontsize=_SMALL, frameon=False, loc="outside lower center", ncols=6
    )
    for text in legend.get_texts():
        text.set(parse_math=False, color=_MUTED)


def _draw_errors(panel: Axes, values: Sequence[float], **look: Any) -> None:
    finite = [value if math.isfinite(value) else math.nan for value in values]
    panel.plot(range(1, len(finite) + 1), finite, markersize=3.5, **look)


def _any_finite(values: Sequence[float]) -> bool:
    return any(map(math.isfinite, values))
