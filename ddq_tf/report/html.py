"""The report as one self-contained HTML file: no script, no request, style and charts inline."""

from __future__ import annotations

import functools
import importlib.resources
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from ddq_tf.files import atomic_write_bytes
from ddq_tf.report import charts, wording
from ddq_tf.report.data import FLOAT_LABEL, STOCK_LABEL, LayerReport, ModelVariant, Report
from ddq_tf.report.svg import element, escape

# With more layers than this, their cards start closed.
_MAX_OPEN_CARDS = 12
_MAX_CURVES = 4
_NO_REQUESTS = "default-src 'none'; style-src 'unsafe-inline'"
_Cell = tuple[str, bool]


def render(report: Report) -> str:
    """Returns the report as an HTML document."""
    sections = (
        _header(report),
        _variants(report),
        _bits(report),
        _training(report),
        _agreement(report),
        _layers(report),
        _activations(report),
        _provenance(report),
    )
    head = (
        '<meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{_NO_REQUESTS}"/>'
        f"<title>{escape(report.title)}</title><style>{_style()}</style>"
    )
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n'
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def save(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes the report as an HTML file."""
    atomic_write_bytes(pathlib.Path(path), render(report).encode())


@functools.cache
def _style() -> str:
    folder = importlib.resources.files("ddq_tf.report")
    return folder.joinpath("report.css").read_text(encoding="utf-8")


def _header(report: Report) -> str:
    facts = (
        ("Model", report.model_name),
        ("Data", report.dataset),
        ("Target", report.target),
        ("Weight budget", report.budget),
        ("Rules", "; ".join(report.rules)),
        ("Runs on", report.min_runtime and f"{report.min_runtime} or later"),
        ("File", wording.floor_sentence(report)),
        ("Created", report.created),
    )
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value
    )
    sentence = wording.headline(report)
    lead = f'<p class="lead">{escape(sentence)}</p>' if sentence else ""
    cards = "".join(_card(report, variant) for variant in report.variants)
    return (
        f'<header><h1>{escape(report.title)}</h1>{lead}<dl class="facts">{shown}</dl></header>'
        + (f'<section class="cards" aria-label="Results">{cards}</section>' if cards else "")
    )


def _card(report: Report, variant: ModelVariant) -> str:
    lines = []
    if variant.num_samples is not None:
        error = wording.standard_error(variant)
        spread = "" if error is None else f"± {error * 100:.2f} on "
        lines.append(f"{spread}{variant.num_samples:,} samples")
    if variant.average_bits is not None:
        lines.append(f"{variant.average_bits:.2f} bits per weight")
    base = report.variant(FLOAT_LABEL)
    size = wording.size(variant.size_bytes) if variant.size_bytes is not None else "no file"
    if variant is not base and (share := wording.share_of(variant, base)) != wording.NONE:
        size += f" <small>{share} of float</small>"
    chosen = " chosen" if variant is report.result else ""
    details = "".join(f'<p class="note">{escape(line)}</p>' for line in lines)
    return (
        f'<article class="card {charts.variant_class(variant)}{chosen}">'
        f"<h2>{escape(variant.label)}</h2>"
        f'<p class="big">{_accuracy(variant)}</p><p class="size">{size}</p>{details}</article>'
    )


def _accuracy(variant: ModelVariant) -> str:
    text = wording.percent(variant.accuracy)
    return "not measured" if text == wording.NONE else text.replace(" %", "<small> %</small>")


def _variants(report: Report) -> str:
    if not report.variants:
        return ""
    base, stock = report.variant(FLOAT_LABEL), report.variant(STOCK_LABEL)
    table = _table(
        "Forms of the model",
        ("Model", "Accuracy", "Samples", "KiB", "Of float", "Of stock int8", "Bits per weight"),
        (
            (
                (variant.label, False),
                (wording.percent(variant.accuracy), True),
                (f"{variant.num_samples:,}" if variant.num_samples else wording.NONE, True),
                (wording.kib(variant.size_bytes), True),
                (wording.share_of(variant, base), True),
                (wording.share_of(variant, stock), True),
                (wording.number(variant.average_bits), True),
            )
            for variant in report.variants
        ),
    )
    panels = []
    if any(variant.size_bytes is not None for variant in report.variants):
        panels.append(f"<div><h3>File size</h3>{charts.size_bars(report.variants)}</div>")
    if chart := charts.accuracy_over_bytes(report.variants):
        panels.append(f"<div><h3>Accuracy over file size</h3>{chart}</div>")
    pair = f'<div class="pair">{"".join(panels)}</div>' if panels else ""
    return _section("Size and accuracy", pair + _folded("As a table", table))


def _bits(report: Report) -> str:
    if not report.layers:
        return ""
    summary = (
        f"{len(report.layers)} layers with {report.num_weights:,} weights are stored in "
        f"{wording.size(report.weights_size_bytes)}. Bars upwards: bits learned; bars downwards: "
        f"bytes in the file."
    )
    if zeros := wording.zeros_sentence(report):
        summary += f" {zeros}."
    kinds = dict.fromkeys(layer.kind for layer in report.layers)
    legend = _legend((f"k-{wording.kind_class(kind)}", kind) for kind in kinds)
    chart = charts.bits_per_layer(report.layers, report.average_bits)
    content = f"<p>{summary}</p>{legend}{_scrolling(chart, 'Bits per layer')}" + _folded(
        "As a table", _layers_table(report.layers)
    )
    if history := charts.bits_over_epochs(report):
        bits = sorted(
            {round(b) for row in report.bits_history.values() for b in row if math.isfinite(b)}
        )
        key = _legend((f"b{b}", f"{b} bits") for b in bits)
        content += _folded(
            "How the bits moved during training", key + _scrolling(history, "Bits over epochs")
        )
    return _section("Bits per layer", content)


def _layers_table(layers: Sequence[LayerReport]) -> str:
    columns = (
        "Layer",
        "Kind",
        "Kernel",
        "Weights",
        "Learned over",
        "Bits",
        "Stored",
        "KiB",
        "Error",
    )
    return _table(
        "Layers in network order",
        columns,
        (
            (
                (layer.name, False),
                (layer.kind, False),
                (_shape(layer), True),
                (f"{layer.num_weights:,}", True),
                (", ".join(map(str, layer.precisions)), True),
                (wording.bits(layer.num_bits), True),
                (str(layer.stored_bits), True),
                (wording.kib(layer.size_bytes), True),
                (wording.error(layer.quantization_error), True),
            )
            for layer in layers
        ),
    )


def _shape(layer: LayerReport) -> str:
    return " × ".join(map(str, layer.kernel_shape))


def _training(report: Report) -> str:
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
    panels = []
    for title, found, dashed in groups:
        series = dict(list(found.items())[:_MAX_CURVES])
        if chart := charts.curves(title, series, dashed):
            legend = _legend((f"s{index}", name) for index, name in enumerate(series))
            panels.append(f"<div><h3>{title}</h3>{legend}{chart}</div>")
    if not panels:
        return ""
    pair = f'<div class="pair">{"".join(panels)}</div>'
    return _section("Training", pair + _folded("As a table", _history_table(report.history)))


def _named(history: Mapping[str, Sequence[float]], part: str) -> dict[str, Sequence[float]]:
    return {name: values for name, values in history.items() if part in name.lower()}


def _history_table(history: Mapping[str, Sequence[float]]) -> str:
    num_epochs = max(map(len, history.values()))
    return _table(
        "Values per epoch",
        ("Epoch", *history),
        (
            (
                (str(epoch + 1), False),
                *((f"{v[epoch]:.5g}" if epoch < len(v) else "", True) for v in history.values()),
            )
            for epoch in range(num_epochs)
        ),
    )


def _agreement(report: Report) -> str:
    if report.agreement is None:
        return ""
    items = "".join(
        f'<li class="{"good" if flawless else "note"}">'
        f'<span class="mark">{"Exact" if flawless else "Note"}</span>{escape(sentence)}</li>'
        for flawless, sentence in wording.agreement_lines(report.agreement)
    )
    return _section("Does the file compute what was trained?", f'<ul class="findings">{items}</ul>')


def _layers(report: Report) -> str:
    if not report.layers:
        return ""
    is_open = len(report.layers) <= _MAX_OPEN_CARDS
    cards = "".join(_layer_card(layer, is_open) for layer in report.layers)
    note = (
        "Weights are shown in units of the range of their channel. Above the line: how they lie, "
        "with the levels as vertical lines where there are few. Below it: each level, as long as "
        "the weights that it serves are many."
    )
    return _section("Weights and levels", f'<p>{note}</p><div class="layers">{cards}</div>')


def _layer_card(layer: LayerReport, is_open: bool) -> str:
    facts = (
        ("Kernel", f"{_shape(layer)}, {layer.num_weights:,} weights"),
        ("Learned over", ", ".join(map(str, layer.precisions)) + " bits"),
        ("Stored in", f"{layer.stored_bits} bits, {wording.size(layer.size_bytes)}"),
        ("Error, Σ(w − x_q)² / Σw²", wording.error(layer.quantization_error)),
        ("Scales", f"{layer.scale_min:.4g} to {layer.scale_max:.4g}"),
        ("Zeros", f"{wording.percent(layer.zeros, 1)} of the codes"),
    )
    listed = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in facts)
    chart = ""
    if layer.histogram:
        chart = charts.histogram(layer.histogram, layer.kind, layer.name)
        used = sum(1 for count in layer.histogram.level_counts if count)
        levels = f"{used} of {len(layer.histogram.levels)}, {layer.family}"
        listed += f"<div><dt>Levels in use</dt><dd>{levels}</dd></div>"
    kind = wording.kind_class(layer.kind)
    name = re.sub("([_/])", r"\1<wbr/>", escape(layer.name))
    spark = charts.sparkline(layer.histogram, layer.kind) if layer.histogram else ""
    return (
        f'<details class="layer"{" open" if is_open else ""}><summary>'
        f'<span class="dot k-{kind}"></span><span class="layer-name">{name}</span>'
        f'<span class="kind">{escape(wording.short_kind(layer.kind))}</span>'
        f'{spark}<span class="badge">{wording.bits(layer.num_bits)} bits</span></summary>'
        f'{chart}<dl class="facts">{listed}</dl></details>'
    )


def _activations(report: Report) -> str:
    if not report.activations:
        return ""
    table = _table(
        "Quantized activations in network order",
        ("Activation", "Kind", "Bits", "Scale", "Zero point", "From", "To"),
        (
            (
                (activation.name, False),
                (activation.kind, False),
                (str(activation.num_bits), True),
                (f"{activation.scale:.5g}", True),
                (str(activation.zero_point), True),
                (f"{activation.range_min:.4g}", True),
                (f"{activation.range_max:.4g}", True),
            )
            for activation in report.activations
        ),
    )
    is_short = len(report.activations) <= _MAX_OPEN_CARDS
    words = f"{len(report.activations)} quantized activations"
    return _section("Activations", table if is_short else _folded(words, table))


def _provenance(report: Report) -> str:
    facts = [("Command", report.command), ("Seed", "" if report.seed is None else report.seed)]
    facts += [(name, version) for name, version in report.versions.items()]
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd></div>"
        for name, value in facts
        if value != ""
    )
    return _section("Where this came from", f'<dl class="facts">{shown}</dl>') if shown else ""


def _section(title: str, content: str) -> str:
    return f'<section class="panel"><h2>{title}</h2>{content}</section>'


def _folded(summary: str, content: str) -> str:
    return f'<details class="fold"><summary>{escape(summary)}</summary>{content}</details>'


def _scrolling(content: str, name: str) -> str:
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">{content}</div>'


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    items = "".join(
        f'<li><span class="dot {class_}"></span>{escape(words)}</li>' for class_, words in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[_Cell]]) -> str:
    """Returns a table of (text, is_number) cells; the first cell of a row is its heading."""
    rows = list(rows)
    numeric = [is_number for _, is_number in rows[0]] if rows else [False] * len(columns)
    head = "".join(
        element("th", escape(name), scope="col", class_="number" if is_number else None)
        for name, is_number in zip(columns, numeric, strict=True)
    )
    body = ""
    for row in rows:
        (first, _), *rest = row
        cells = "".join(
            element("td", escape(text), class_="number" if is_number else None)
            for text, is_number in rest
        )
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'
    table = (
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
    return _scrolling(table, caption)
