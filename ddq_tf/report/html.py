"""The report as one self-contained HTML file: no script, no request, style and charts inline.

The page is written by the templates in `ddq_tf/report/templates`; here is what they are given.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import drawing, palette, plots, wording
from ddq_tf.report.data import FLOAT_LABEL, STOCK_LABEL, LayerReport, Report
from ddq_tf.report.inline_svg import inline_svg

# With more layers than this, their cards start closed.
_MAX_OPEN_CARDS = 12
_MAX_CURVES = 4
_FILTERS = (
    wording.agreement_lines,
    wording.bits,
    wording.error,
    wording.floor_sentence,
    wording.headline,
    wording.kind_class,
    wording.percent,
    wording.share_of,
    wording.short_kind,
    wording.size,
    wording.standard_error,
    wording.zeros_sentence,
)


def render(report: Report) -> str:
    """Returns the report as an HTML document."""
    with drawing.own_style():
        return _templates().get_template("page.html").render(_context(report))


def save(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes the report as an HTML file."""
    atomic_write_bytes(pathlib.Path(path), render(report).encode())


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("ddq_tf.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update({function.__name__: function for function in _FILTERS})
    templates.filters.update(breakable=_breakable, variant_role=palette.of_variant)
    return templates


def _clean(value: Any) -> Any:
    """Replaces what HTML cannot hold, in all that a template shows."""
    if isinstance(value, Markup):
        return Markup(wording.clean(value))
    return wording.clean(value) if isinstance(value, str) else value


def _breakable(name: str) -> Markup:
    """Lets a long name break behind its parts."""
    return Markup(re.sub("([_/])", r"\1<wbr/>", str(escape(name))))


def _context(report: Report) -> dict[str, Any]:
    kinds = dict.fromkeys(layer.kind for layer in report.layers)
    return {
        "report": report,
        "float": report.variant(FLOAT_LABEL),
        "none_shown": wording.NONE,
        "max_open": _MAX_OPEN_CARDS,
        "light": palette.LIGHT,
        "dark": palette.DARK,
        "sizes": _picture(plots.sizes_figure(report.variants), "File sizes"),
        "accuracies": _picture(plots.accuracy_figure(report.variants), "Accuracy over file size"),
        "variant_rows": _variant_rows(report),
        "kinds": [(wording.kind_class(kind), kind) for kind in kinds],
        "bits": _bits(report),
        "layer_rows": [_layer_row(layer) for layer in report.layers],
        "bits_history": _bits_history(report),
        "shades": _shades(report),
        "curves": list(_curves(report)),
        "epoch_columns": ("Epoch", *report.history),
        "epoch_rows": _epoch_rows(report.history),
        "layers": [_layer(layer) for layer in report.layers],
        "activation_rows": _activation_rows(report),
        "provenance": _provenance(report),
    }


def _picture(figure: Any, name: str, *, is_wide: bool = False) -> Markup | None:
    return None if figure is None else inline_svg(figure, name, is_wide=is_wide)


def _variant_rows(report: Report) -> Iterable[Sequence[str]]:
    base, stock = report.variant(FLOAT_LABEL), report.variant(STOCK_LABEL)
    for variant in report.variants:
        yield (
            variant.label,
            wording.percent(variant.accuracy),
            f"{variant.num_samples:,}" if variant.num_samples else wording.NONE,
            wording.kib(variant.size_bytes),
            wording.share_of(variant, base),
            wording.share_of(variant, stock),
            wording.number(variant.average_bits),
        )


def _bits(report: Report) -> Markup | None:
    figure = plots.bits_figure(report, is_alone=False) if report.layers else None
    return _picture(figure, "Bits and bytes per layer", is_wide=True)


def _bits_history(report: Report) -> Markup | None:
    figure = plots.bits_history_figure(report.bits_history)
    return _picture(figure, "Bits per layer and epoch", is_wide=True)


def _shades(report: Report) -> list[tuple[str, str]]:
    seen = (bits for row in report.bits_history.values() for bits in row if math.isfinite(bits))
    return [(palette.of_bits(bits), f"{bits} bits") for bits in sorted({*map(round, seen)})]


def _layer_row(layer: LayerReport) -> Sequence[str]:
    return (
        layer.name,
        layer.kind,
        " × ".join(map(str, layer.kernel_shape)),
        f"{layer.num_weights:,}",
        ", ".join(map(str, layer.precisions)),
        wording.bits(layer.num_bits),
        str(layer.stored_bits),
        wording.kib(layer.size_bytes),
        wording.error(layer.quantization_error),
    )


def _curves(report: Report) -> Iterable[tuple[str, list[tuple[str, str]], Markup]]:
    """Yields a title, the entries of a legend and a picture each."""
    budget = report.budget_average_bits
    mark = None
    if budget is not None and math.isfinite(budget):
        mark = budget, f"budget {budget:.2f}"
    groups = (
        ("Loss", _named(report.history, "loss"), None),
        ("Accuracy", _named(report.history, "acc"), None),
        ("Average bits", _named(report.history, "bits"), mark),
        ("Quantization error of the weights", report.errors, None),
        ("Price of a bit", _named(report.history, "price"), None),
    )
    for title, found, dashed in groups:
        series = dict(list(found.items())[:_MAX_CURVES])
        picture = _picture(plots.curves_figure(series, dashed), f"{title} per epoch")
        if picture is not None:
            yield title, [(palette.of_series(i), name) for i, name in enumerate(series)], picture


def _named(history: Mapping[str, Sequence[float]], part: str) -> dict[str, Sequence[float]]:
    return {name: values for name, values in history.items() if part in name.lower()}


def _epoch_rows(history: Mapping[str, Sequence[float]]) -> Iterable[Sequence[str]]:
    for epoch in range(max(map(len, history.values()), default=0)):
        values = (f"{v[epoch]:.5g}" if epoch < len(v) else "" for v in history.values())
        yield str(epoch + 1), *values


def _layer(layer: LayerReport) -> tuple[LayerReport, Markup | None, Markup | None]:
    if layer.histogram is None:
        return layer, None, None
    name = f"Weights and levels of {layer.name}"
    outline = _picture(plots.outline_figure(layer), "")
    return layer, outline, _picture(plots.weights_figure(layer), name)


def _activation_rows(report: Report) -> Iterable[Sequence[str]]:
    for activation in report.activations:
        yield (
            activation.name,
            activation.kind,
            str(activation.num_bits),
            f"{activation.scale:.5g}",
            str(activation.zero_point),
            f"{activation.range_min:.4g}",
            f"{activation.range_max:.4g}",
        )


def _provenance(report: Report) -> list[tuple[str, Any]]:
    facts = [("Command", report.command), ("Seed", report.seed), *report.versions.items()]
    return [(name, value) for name, value in facts if value not in ("", None)]
