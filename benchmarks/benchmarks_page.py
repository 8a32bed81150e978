"""docs/benchmarks.md and its plots: DDQ beside its peers, from benchmarks/results.

    python benchmarks/benchmarks_page.py --write

Reads peer_*.json (peers.py), ours_*.json (the same fields) and ablation_*.json (ablations.py; those
without file bytes are not in the plots). Rows that differ in their seed only are one line.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provenance import read_results

from ddq_tf.report.plots import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
NETWORKS = {
    "resnet8": "ResNet-8 (MLPerf Tiny), CIFAR-10-JPEG",
    "mobilenet_v2": "MobileNetV2 alpha 0.5, CIFAR-10-JPEG",
    "dog_breeds": "Pretrained MobileNetV2 1.0 at 160 px (dog breeds), without labels",
    "vww": "Pretrained MobileNetV1 0.25 at 96 px (MLPerf Tiny, visual wake words), without labels",
    "efficientnet_lite0": "Pretrained EfficientNet-Lite0 at 224 px (ImageNet), without labels",
}
ACCURACY = ("litert_accuracy", "keras_accuracy")
UNLABELED = ("dog_breeds", "vww", "efficientnet_lite0")
# Shares of right answers; what lies lower is drawn at the edge.
PLOT_SPANS: dict[str, float] = dict.fromkeys(UNLABELED, 1.0)
_PLOT_SPAN = 0.12
_COLOURS = {"peer": "#76818f", "ours": "#3b72e0", "float": "#1a2230"}
_INK, _GRID, _FRONT = "#1a2230", "#e1e5eb", "#b4bdc9"
_HEAD = """# Benchmarks

Written by `python benchmarks/benchmarks_page.py --write` from benchmarks/results; each row's JSON
names its command, seed, versions, machine and commit. Peers: `python benchmarks/peers.py`. All
rows of a network start from the same float weights and are measured on the same images, in the
LiteRT interpreter with XNNPACK; post-training rows take 512 calibration images. Rows from other
float weights are in docs/ablations.md. Latency: one thread, one image, in turns with the stock
converter's int8 file in one process, median ratio. Training seconds include validation after each
epoch. Activation bits: the mean over values where they are learned, else over tensors. With several
seeds: mean (lowest to highest)."""


def records() -> list[dict[str, Any]]:
    """Returns the results of all rows, one for each file."""
    peers, ours = (
        [{**record, "group": group} for record in read_results(group)] for group in ("peer", "ours")
    )
    return [*peers, *ours, *map(_from_ablation, read_results("ablation"))]


def _from_ablation(record: dict[str, Any]) -> dict[str, Any]:
    """Returns an ablation's record with the fields of a peer's, as far as it has them."""
    optional = ("file_bytes", "latency_ratio", "training_s", "row")
    return {
        **{name: record[name] for name in optional if name in record},
        **{name: record[name] for name in ("network", "title", "epochs", "seed", "float_sha256")},
        # Of the file whose bytes are shown, where there is one.
        "litert_accuracy": record.get("packed_litert_accuracy", record["litert_accuracy"]),
        "weight_bits": record["average_bits"],
        "activation_bits": _activation_bits(record),
        "weight_bytes": record["weights_size_bytes"],
        "group": "ours",
    }


def _activation_bits(record: dict[str, Any]) -> float:
    """The mean over values if they were learned, within a budget for values; else over tensors."""
    learned = record.get("history", {}).get("activation_bits")
    return learned[-1] if learned else statistics.fmean(record["activation_bits"].values())


def of_same_float(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that start from the float weights of the row "float", and it.

    Peers must: a row of theirs from other weights is one that was forgotten.

    Raises:
        SystemExit: naming the rows of peers by their float file's hash.
    """
    rows: dict[str, list[str]] = {}
    for record in found:
        if record["group"] == "peer":
            rows.setdefault(record["float_sha256"], []).append(record["row"])
    if len(rows) > 1:
        raise SystemExit(f"{found[0]['network']}: rows start from different float files: {rows}")
    return [record for record in found if not rows or record["float_sha256"] in rows]


def merged(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one record for rows that differ in their seed only: medians, and all scores."""
    lines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in found:
        names = ("group", "title", "weight_bits", "activation_bits", "epochs")
        nominal = tuple(_nominal(record.get(name)) for name in names)
        lines.setdefault(nominal, []).append(record)
    return [_merged(same) for same in lines.values()]


def _nominal(value: Any) -> Any:
    return round(value, 1) if isinstance(value, float) else value


def _merged(same: list[dict[str, Any]]) -> dict[str, Any]:
    line = dict(same[0])
    for name, value in same[0].items():
        values = [record.get(name) for record in same]
        if isinstance(value, int | float) and None not in values:
            line[name] = statistics.median(v for v in values if v is not None)
            line[f"{name}_all"] = values
    return line | {"seeds": [record["seed"] for record in same]}


def order(line: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what rows are sorted by: float, peers, ours; many bits first."""
    bits = line["weight_bits"]
    group = ("peer", "ours").index(line["group"])
    return (group, -(math.inf if bits is None else bits), line["title"], line.get("epochs") or 0)


def score(line: dict[str, Any]) -> float | None:
    """Returns a row's share of right, or equal, answers."""
    names = ("top1_agreement",) if line["network"] in UNLABELED else ACCURACY
    found = [line[f"{name}_all"] for name in names if f"{name}_all" in line]
    return statistics.fmean(found[0]) if found else None


def section(network: str, lines: list[dict[str, Any]]) -> list[str]:
    """Returns the Markdown of a network."""
    measured = [line for line in lines if score(line) is not None]
    text = ["", f"## {NETWORKS[network]}", ""]
    text += fidelity_table(measured) if network in UNLABELED else accuracy_table(measured)
    notes: dict[str, list[str]] = {}
    for line in measured:
        if line.get("note"):
            notes.setdefault(line["note"], []).append(line["title"])
    text += ["", *(f"- {'; '.join(titles)}: {note}." for note, titles in notes.items())]
    refused = [line for line in lines if line.get("reason")]
    if refused:
        text += ["", "Could not be run:", ""]
        text += [f"- {line['title']}: {line['reason']}" for line in refused]
    if drawn(lines):
        words = f"{NETWORKS[network]}: quality over file bytes"
        text += ["", f"![{words}]({figure_path(network).name})"]
    return text


def drawn(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the lines that a plot can show, if there are two of them."""
    shown = [line for line in lines if line.get("file_bytes") and score(line) is not None]
    return shown if len(shown) > 1 else []


def figure_path(network: str) -> Path:
    """Returns where a network's plot is."""
    return PAGE.with_name(f"benchmarks_{network}.png")


def accuracy_table(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the table of a labelled network."""
    floats = [score(line) for line in lines if line["weight_bits"] is None]
    reference = floats[0] if floats else None
    text = _head("LiteRT %", "− float")
    for line in lines:
        right = score(line)
        apart = None if right is None or reference is None else 100 * (right - reference)
        cells = [
            *_first_cells(line),
            _percents(line, "litert_accuracy") or f"{_percents(line, 'keras_accuracy')} (Keras)",
            "" if line["weight_bits"] is None else _number(apart, "+.2f"),
            *_last_cells(line),
        ]
        text.append(f"| {' | '.join(cells)} |")
    return text


def fidelity_table(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the table of the network without labels."""
    text = _head("mean KL", "top-1 %", "confident %")
    for line in lines:
        cells = [
            *_first_cells(line),
            _number(abs(line["mean_kl"]), ".3f"),  # of float against itself: rounding's sign
            _percents(line, "top1_agreement"),
            _percents(line, "confident_agreement"),
            *_last_cells(line),
        ]
        text.append(f"| {' | '.join(cells)} |")
    one = lines[0]
    text += [
        "",
        f"Against the float model's own outputs on {one['images']:.0f} held-out images that no row "
        "has seen: mean KL divergence, equal top-1 answers, and equal ones among the "
        f"{one['confident_images']:.0f} images of which float is confident (above one half).",
    ]
    return text + [sentence for line in lines for sentence in _with_labels(line)]


def _with_labels(line: dict[str, Any]) -> list[str]:
    """What a row with labels says of the images that its file did not learn from."""
    ours, stock = line.get("unseen", {}), line.get("stock_unseen", {})
    if "top1" not in ours:
        return []

    def told(found: dict[str, Any]) -> str:
        return (
            f"{100 * found['top1']:.2f} % right, {100 * found['top1_agreement']:.2f} % float's "
            f"answers, mean KL {found['mean_kl']:.4f}"
        )

    return [
        "",
        f"{line['title']}: on the {ours['images']} images that it did not learn from, "
        f"{told(ours)}; the stock int8 file {told(stock)}; float {100 * ours['float_top1']:.2f} % "
        "right.",
    ]


def _head(*scores: str) -> list[str]:
    """The first two lines of a table, with the names of what was scored."""
    before = ("", "weight bits", "activation bits", "file bytes", "weight bytes")
    columns = [*before, *scores, "latency ×", "epochs", "training s", "seed"]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _first_cells(line: dict[str, Any]) -> list[str]:
    ours = "**DDQ** " if line["group"] == "ours" else ""
    bits = line.get("average_bits", line["weight_bits"])
    cells = [f"{ours}{line['title']}", _bits(bits), _bits(line["activation_bits"])]
    sizes = [_number(line.get(f"{kind}_bytes"), ",.0f") for kind in ("file", "weight")]
    return [*cells, *sizes]


def _last_cells(line: dict[str, Any]) -> list[str]:
    return [
        _number(line.get("latency_ratio"), ".2f"),
        _number(line.get("epochs"), ".0f"),
        _number(line.get("training_s"), ",.0f"),
        ", ".join(map(str, line["seeds"])),
    ]


def _bits(value: float | None) -> str:
    return "32" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form).replace("-", "−")


def _percents(line: dict[str, Any], name: str) -> str:
    values = [100 * value for value in line.get(f"{name}_all", ())]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points that no other beats: none as small is as good; by size."""
    kept: list[tuple[float, float]] = []
    for size, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((size, quality))
    return kept


def pareto_figure(network: str, lines: list[dict[str, Any]]) -> Any:
    """Draws quality over file bytes; the line joins the points that no other beats."""
    from matplotlib.figure import Figure

    points = [(line["file_bytes"] / 1024, 100 * (score(line) or 0.0)) for line in lines]
    # Names stand below, where long ones take nothing from the panel.
    height = 4.4 + 0.2 * len(lines)
    figure = Figure(figsize=(8.5, height), layout="constrained", facecolor="white")
    panel: Axes = figure.subplots()
    panel.set_xscale("log")
    best = max(quality for _, quality in points)
    span = 100 * PLOT_SPANS.get(network, _PLOT_SPAN)
    floor = max(best - span, min(quality for _, quality in points))
    floor -= 0.05 * (best - floor)
    edge = [point for point in front(points) if point[1] >= floor]
    panel.step(*zip(*edge, strict=True), where="post", color=_FRONT, lw=1.5, zorder=1)
    marks = []
    for number, (line, (size, quality)) in enumerate(zip(lines, points, strict=True), start=1):
        low = quality < floor
        height = floor + 0.03 * (best - floor) if low else quality
        kind = "float" if line["weight_bits"] is None else line["group"]
        words = f"{number}  {_label(line)}" + (f": {quality:.1f} %" if low else "")
        marks += panel.plot(
            size,
            height,
            marker="v" if low else "o",
            markersize=13,
            ls="none",
            color=_COLOURS[kind],
            markeredgecolor="white",
            label=words,
            clip_on=False,
            zorder=2 + number,
        )
        panel.annotate(
            f"{number}",
            (size, height),
            color="white",
            fontsize=7.5,
            ha="center",
            va="center",
            zorder=2.5 + number,
        )
    _axes(panel, points, floor, best, network)
    for mark in figure.legend(
        handles=marks, fontsize=8, frameon=False, loc="outside lower left", handlelength=1
    ).legend_handles:
        mark.set_markersize(7)  # type: ignore[union-attr]
    figure.suptitle(NETWORKS[network], fontsize=11, color=_INK)
    return figure


def _axes(
    panel: Axes, points: Sequence[tuple[float, float]], floor: float, best: float, network: str
) -> None:
    sizes = [size for size, _ in points]
    low, high = min(sizes) / 1.25, max(sizes) * 1.25
    panel.set_xlim(low, high)
    panel.set_ylim(floor, best + 0.06 * (best - floor))
    steps = [s * 10**e for e in range(7) for s in (1, 1.5, 2, 3, 4, 6, 8) if low < s * 10**e < high]
    panel.set_xticks(steps, [f"{step:,.0f}" for step in steps])
    panel.set_xticks([], minor=True)
    words = "top-1 agreement with float, held-out" if network in UNLABELED else "test accuracy"
    panel.set_xlabel("file size, KiB (log)", fontsize=9, color=_INK)
    panel.set_ylabel(f"{words}, %", fontsize=9, color=_INK)
    panel.grid(color=_GRID, lw=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8, colors=_INK, length=2)


def _label(line: dict[str, Any]) -> str:
    """Returns a row's name with its bits."""
    if line["weight_bits"] is None:
        return line["title"]
    bits = f"W{_bits(line['weight_bits'])}A{_bits(line['activation_bits'])}"
    short = line["title"].replace(", post-training", "").replace("quantization-aware training", "")
    return f"{'DDQ ' if line['group'] == 'ours' else ''}{short.strip(', ')} {bits}"


def tables() -> dict[str, list[dict[str, Any]]]:
    """Returns the lines of each network's table, in their order."""
    found = records()
    lines = {
        network: merged(of_same_float([line for line in found if line["network"] == network]))
        for network in NETWORKS
    }
    return {network: sorted(of_network, key=order) for network, of_network in lines.items()}


def page(lines: dict[str, list[dict[str, Any]]]) -> str:
    """Returns docs/benchmarks.md."""
    text = [_HEAD]
    for network, of_network in lines.items():
        text += section(network, of_network)
    return "\n".join(text) + "\n"


def main() -> None:
    """Writes the page and its plots, or prints the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    lines = tables()
    if not parser.parse_args().write:
        print(page(lines))
        return
    PAGE.write_text(page(lines))
    for network, of_network in lines.items():
        if shown := drawn(of_network):
            save_png(pareto_figure(network, shown), figure_path(network))


if __name__ == "__main__":
    main()
