"""The charts of the HTML report, each a function from data to inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from ddq_tf.report import svg, wording
from ddq_tf.report.data import LayerReport, ModelVariant, Report, WeightHistogram
from ddq_tf.scheme import MAX_BITS

_COLUMN = 440.0
_FONT_SIZE = 12.0
_SMALL_SIZE = 11.0
_Box = tuple[float, float, float, float]


def variant_class(variant: ModelVariant) -> str:
    """Returns the name under which the style sheet colours a form of the model."""
    if variant.is_ddq:
        return "v-ddq"
    return "v-float" if variant.label.startswith("float") else "v-other"


def size_bars(variants: Sequence[ModelVariant]) -> str:
    """Draws one horizontal bar per file."""
    files = [(v, v.size_bytes) for v in variants if v.size_bytes is not None]
    largest = max((size for _, size in files), default=0) or 1
    row, reserved = 62.0, 110.0
    parts = []
    for index, (variant, size) in enumerate(files):
        top = index * row
        width = max(2.0, (_COLUMN - reserved) * size / largest)
        parts += [
            svg.label(0, top + 14, svg.shorten(variant.label, 48), class_="name"),
            svg.rect(0, top + 21, width, 26, rx=4, class_=variant_class(variant)),
            svg.label(width + 8, top + 39, wording.size(size), class_="value"),
        ]
    return svg.picture(_COLUMN, len(files) * row, "File sizes", *parts)


def accuracy_over_bytes(variants: Sequence[ModelVariant]) -> str:
    """Draws each form that has a file and an accuracy; bars show one standard error."""
    points = [
        (v, float(v.size_bytes), v.accuracy * 100)
        for v in variants
        if v.size_bytes and v.accuracy is not None and math.isfinite(v.accuracy)
    ]
    if not points:
        return ""
    errors = [(wording.standard_error(v) or 0) * 100 for v, _, _ in points]
    left, right, top, bottom = 52.0, _COLUMN - 12, 14.0, 206.0
    sizes = [size / 1024 for _, size, _ in points]
    x_ticks = svg.log_ticks(min(sizes) * 0.85, max(sizes) * 1.15)
    x = svg.Scale(x_ticks[0], x_ticks[-1], left, right, is_log=True)
    shares, margin = [share for *_, share in points], max(1.0, *errors)
    y_ticks = svg.nice_ticks(min(shares) - margin, max(shares) + margin)
    y = svg.Scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [svg.y_axis(y, y_ticks, left, right, " %"), _kib_axis(x, x_ticks, bottom)]
    places = [(x(size / 1024), y(value)) for _, size, value in points]
    reaches = [abs(y(0) - y(error)) for error in errors]
    taken = [
        (px - 8, py - max(8.0, reach), px + 8, py + max(8.0, reach))
        for (px, py), reach in zip(places, reaches, strict=True)
    ]
    for (variant, size, _), (px, py), half in zip(points, places, reaches, strict=True):
        name = svg.shorten(variant.label, 24)
        tip = f"{variant.label}: {wording.percent(variant.accuracy)}, {wording.size(int(size))}"
        parts += [
            svg.line(px, py - half, px, py + half, f"whisker {variant_class(variant)}"),
            svg.element("circle", svg.title(tip), cx=px, cy=py, r=6, class_=variant_class(variant)),
            _placed_label(name, px, py, taken, (left, top, right, bottom)),
        ]
    return svg.picture(_COLUMN, 250, "Accuracy over file size", *parts)


def _kib_axis(x: svg.Scale, ticks: Sequence[float], bottom: float) -> str:
    parts, last = [], -math.inf
    for tick in ticks:
        text = f"{tick:,.10g}"
        half = svg.text_width(text, _SMALL_SIZE) / 2
        if x(tick) - half > last + 6:
            anchor = "end" if tick == ticks[-1] else "middle"
            parts.append(svg.label(x(tick), bottom + 17, text, class_="tick", text_anchor=anchor))
            last = x(tick) + half
    middle = (x.start + x.stop) / 2
    parts.append(
        svg.label(
            middle, bottom + 36, "file size in KiB (log)", class_="axis", text_anchor="middle"
        )
    )
    return "".join(parts)


def _placed_label(name: str, px: float, py: float, taken: list[_Box], frame: _Box) -> str:
    """Puts a name beside its point where it hides nothing that is drawn already."""
    width, height = svg.text_width(name, _FONT_SIZE), 14.0
    offsets = [(width / 2 + 12, -7), (-width / 2 - 12, -7), (0, -24), (0, 10)]
    offsets += [(dx, dy) for dy in (-40, 28, -58, 46) for dx in (0, width / 2, -width / 2)]

    def box_at(dx: float, dy: float) -> _Box:
        middle = min(max(px + dx, frame[0] + width / 2), frame[2] - width / 2)
        return middle - width / 2, py + dy, middle + width / 2, py + dy + height

    def hidden(box: _Box) -> float:
        outside = max(0.0, frame[1] - 6 - box[1]) + max(0.0, box[3] - frame[3])
        return outside * width + sum(_overlap(box, other) for other in taken)

    box = min((box_at(dx, dy) for dx, dy in offsets), key=hidden)
    taken.append(box)
    return svg.label((box[0] + box[2]) / 2, box[3] - 3, name, class_="name", text_anchor="middle")


def _overlap(a: _Box, b: _Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def bits_per_layer(layers: Sequence[LayerReport], average_bits: float | None) -> str:
    """Draws bits upwards and stored bytes downwards, in network order."""
    names = [svg.shorten(layer.name, 22) for layer in layers]
    pitch = min(76.0, max(18.0, 900 / max(1, len(layers))))
    slant = max(map(len, names), default=0) * 10.5 * 0.55 * math.sqrt(0.5)
    left = max(64.0, slant + 8 - pitch / 2)
    right = left + pitch * len(layers)
    top, base, deep = 16.0, 176.0, 256.0
    up = svg.Scale(0, MAX_BITS, base, top)
    largest = max((layer.size_bytes for layer in layers), default=0) or 1
    parts = [svg.y_axis(up, (0, 2, 4, 6, 8), left, right)]
    parts += [
        svg.label(left - 24, top + 80, "bits", class_="axis", text_anchor="end"),
        svg.label(left - 6, base + 42, "bytes", class_="axis", text_anchor="end"),
    ]
    for index, layer in enumerate(layers):
        down = max(1.0, (deep - base - 10) * layer.size_bytes / largest)
        parts.append(_layer_column(layer, left + index * pitch, pitch, up, down))
        x, y = left + (index + 0.5) * pitch + 4, deep + 12
        turn = f"rotate(-45 {x:.0f} {y:.0f})"
        parts.append(
            svg.label(
                x, y, names[index], class_="tick layer-name", text_anchor="end", transform=turn
            )
        )
    if average_bits is not None:
        parts += [
            svg.line(left, up(average_bits), right, up(average_bits), "average"),
            svg.label(right + 6, up(average_bits) + 4, f"mean {average_bits:.2f}", class_="name"),
        ]
    return svg.picture(
        right + 70, deep + slant + 22, "Bits and bytes per layer", *parts, class_="chart wide"
    )


def _layer_column(layer: LayerReport, x: float, pitch: float, up: svg.Scale, down: float) -> str:
    gap = min(6.0, pitch * 0.16)
    width, base, top = pitch - 2 * gap, up(0), up(layer.num_bits)
    bits = wording.bits(layer.num_bits, 2)
    tip = (
        f"{layer.name}: {wording.bits(layer.num_bits)} bits, stored in {layer.stored_bits}, "
        f"{wording.size(layer.size_bytes)}, {layer.kind}"
    )
    return svg.element(
        "g",
        svg.title(tip),
        svg.rect(x + gap, up(MAX_BITS), width, base - up(MAX_BITS), class_="track"),
        svg.rect(x + gap, top, width, base - top, rx=2),
        svg.rect(x + gap, base + 6, width, down, rx=1, class_="bytes"),
        svg.label(x + pitch / 2, base - 6, bits, class_="on", text_anchor="middle"),
        class_=f"k-{wording.kind_class(layer.kind)}",
    )


def histogram(values: WeightHistogram, kind: str, name: str) -> str:
    """Draws the weights upwards, and below each level with the weights that it serves."""
    left, right, top, base, deep = 10.0, _COLUMN - 10, 8.0, 118.0, 160.0
    limit = max(1.0, *(abs(v) for v in (*values.edges, *values.levels)))
    x = svg.Scale(-limit, limit, left, right)
    up = svg.Scale(0, max(values.counts, default=0) or 1, base, top)
    most = max(values.level_counts, default=0) or 1
    area = [("M", x(values.edges[0]), base)] if values.edges else []
    for low, high, count in zip(values.edges, values.edges[1:], values.counts, strict=False):
        area += [("L", x(low), up(count)), ("L", x(high), up(count))]
    area += [("L", x(values.edges[-1]), base)] if values.edges else []
    served = zip(values.levels, values.level_counts, strict=True)
    stems = [
        (cmd, x(level), y)
        for level, count in served
        for cmd, y in (("M", base + 4), ("L", base + 7 + (deep - base - 7) * count / most))
    ]
    few = len(values.levels) <= 32
    guides = [(cmd, x(v), y) for v in values.levels if few for cmd, y in (("M", top), ("L", base))]
    parts = [
        svg.path(area, "area"),
        svg.path(guides, "guide") if guides else "",
        svg.line(left, base, right, base, "base"),
        svg.path(stems, "stems few" if few else "stems"),
    ]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        parts.append(
            svg.label(x(tick), deep + 17, f"{tick:g}", class_="tick", text_anchor="middle")
        )
    group = svg.element("g", *parts, class_=f"k-{wording.kind_class(kind)}")
    return svg.picture(_COLUMN, deep + 24, f"Weights and levels of {name}", group)


def sparkline(values: WeightHistogram, kind: str) -> str:
    """Draws the outline of a histogram, as an ornament that screen readers skip."""
    pairs = [sum(values.counts[i : i + 2]) for i in range(0, len(values.counts), 2)]
    up = svg.Scale(0, max(pairs, default=0) or 1, 18.0, 1.0)
    across = svg.Scale(0, max(1, len(pairs) - 1), 0.0, 60.0)
    points = [("M", 0.0, 18.0), *(("L", across(i), up(n)) for i, n in enumerate(pairs))]
    outline = svg.path([*points, ("L", 60.0, 18.0)], "area")
    look = f"chart spark k-{wording.kind_class(kind)}"
    return svg.element("svg", outline, viewBox="0 0 60 18", class_=look, aria_hidden="true")


def curves(
    name: str, series: Mapping[str, Sequence[float]], mark: tuple[float, str] | None = None
) -> str:
    """Draws values per epoch, with a dashed line at `mark` (value, words)."""
    left, right, top, bottom = 48.0, _COLUMN - 12, 14.0, 170.0
    finite = [v for values in series.values() for v in values if math.isfinite(v)]
    if not finite:
        return ""
    num_epochs = max(len(values) for values in series.values())
    reach = [*finite, *([mark[0]] if mark else [])]
    y_ticks = svg.nice_ticks(min(reach), max(reach))
    x = svg.Scale(1, num_epochs, left + 8, right - 8)
    y = svg.Scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [svg.y_axis(y, y_ticks, left, right)]
    for tick in svg.epoch_ticks(num_epochs):
        parts.append(
            svg.label(x(tick), bottom + 17, str(tick), class_="tick", text_anchor="middle")
        )
    middle = (left + right) / 2
    parts.append(svg.label(middle, bottom + 36, "epoch", class_="axis", text_anchor="middle"))
    if mark:
        height = y(mark[0])
        parts += [
            svg.line(left, height, right, height, "budget"),
            svg.label(right - 2, height - 5, mark[1], class_="name", text_anchor="end"),
        ]
    for index, values in enumerate(series.values()):
        parts.append(_curve(values, x, y, f"curve s{index % 4}"))
    return svg.picture(_COLUMN, bottom + 44, f"{name} per epoch", *parts)


def _curve(values: Sequence[float], x: svg.Scale, y: svg.Scale, class_: str) -> str:
    points, command = [], "M"
    for epoch, value in enumerate(values, start=1):
        if math.isfinite(value):
            points.append((command, x(epoch), y(value)))
            command = "L"
        else:
            command = "M"
    if not points:
        return ""
    _, px, py = points[-1]
    dot = svg.element("circle", cx=px, cy=py, r=3.5, class_=f"{class_} dot")
    return svg.path(points, class_) + dot


def bits_over_epochs(report: Report) -> str:
    """Draws a row per layer and a column per epoch, shaded by bits."""
    rows = report.bits_history
    num_epochs = max((len(bits) for bits in rows.values()), default=0)
    if not num_epochs:
        return ""
    names = {name: svg.shorten(name, 28) for name in rows}
    left = max(map(len, names.values())) * _SMALL_SIZE * 0.57 + 10
    row, width = 16.0, 620.0
    x = svg.Scale(0, num_epochs, left, left + width)
    parts = []
    for index, (name, bits) in enumerate(rows.items()):
        y = index * row
        parts.append(
            svg.label(left - 8, y + 12, names[name], class_="tick layer-name", text_anchor="end")
        )
        parts += [
            svg.rect(
                x(start),
                y + 1,
                x(stop) - x(start),
                row - 2,
                svg.title(f"{name}, epochs {start + 1} to {stop}: {value:g} bits"),
                class_=f"b{max(0, min(MAX_BITS, round(value)))}",
            )
            for start, stop, value in _runs(bits)
        ]
    bottom = len(rows) * row
    for tick in svg.epoch_ticks(num_epochs, 12):
        parts.append(
            svg.label(x(tick - 0.5), bottom + 15, str(tick), class_="tick", text_anchor="middle")
        )
    parts.append(
        svg.label(left + width / 2, bottom + 33, "epoch", class_="axis", text_anchor="middle")
    )
    return svg.picture(
        left + width + 8, bottom + 40, "Bits per layer and epoch", *parts, class_="chart wide"
    )


def _runs(values: Iterable[float]) -> list[tuple[int, int, float]]:
    runs, start = [], 0
    for value, group in itertools.groupby(values):
        stop = start + sum(1 for _ in group)
        if math.isfinite(value):
            runs.append((start, stop, value))
        start = stop
    return runs
