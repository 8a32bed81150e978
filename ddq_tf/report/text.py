"""The report as tables for a terminal, a pipe or a log file."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddq_tf.report import wording
from ddq_tf.report.data import FLOAT_LABEL, STOCK_LABEL, LayerReport, Report

_BAR_WIDTH = 8


def render(report: Report, console: Console) -> None:
    """Prints the report.

    Args:
        report: what to print.
        console: where to; its width and encoding are respected.
    """
    say(console, report.title, "bold")
    facts = (
        ("model", report.model_name),
        ("data", report.dataset),
        ("target", report.target),
        ("budget", report.budget),
        ("runs on", report.min_runtime and f"{report.min_runtime} or later"),
        ("created", report.created),
    )
    say(console, ", ".join(f"{name} {value}" for name, value in facts if value), "dim")
    if sentence := wording.headline(report):
        say(console, sentence)
    if sentence := wording.floor_sentence(report):
        say(console, sentence)
    if report.variants:
        console.print()
        console.print(_variants_table(report, console))
    for rule in report.rules:
        say(console, rule, "dim")
    if report.layers:
        console.print(_layers_table(report, console))
        say(console, _layers_summary(report))
        if zeros := wording.zeros_sentence(report):
            say(console, zeros)
    if report.agreement:
        console.print()
        say(console, "Agreement of the file with the trained model", "bold")
        for flawless, sentence in wording.agreement_lines(report.agreement):
            say(console, f"{'ok  ' if flawless else 'note'} {sentence}")
    _print_provenance(report, console)


def safe(console: Console, text: str) -> str:
    """Keeps names from breaking an output that is not UTF-8."""
    if console.options.ascii_only:
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text


def say(console: Console, text: str, style: str = "") -> None:
    """Prints plain text, wrapped to the console's width."""
    console.print(Text(safe(console, text), style=style))


def table_of(console: Console, *columns: tuple[str, bool]) -> Table:
    """Returns an empty table.

    Args:
        console: where it will be printed.
        columns: the title of each, and whether it holds numbers.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, is_number in columns:
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=is_number,
            overflow="fold",
        )
    return table


def _variants_table(report: Report, console: Console) -> Table:
    table = table_of(
        console,
        ("model", False),
        ("accuracy", True),
        ("samples", True),
        ("KiB", True),
        ("of float", True),
        ("of int8", True),
        ("zipped KiB", True),
        ("bits", True),
    )
    base, stock = report.variant(FLOAT_LABEL), report.variant(STOCK_LABEL)
    for variant in report.variants:
        samples = wording.NONE if variant.num_samples is None else f"{variant.num_samples:,}"
        table.add_row(
            Text(safe(console, variant.label)),
            wording.percent(variant.accuracy),
            samples,
            wording.kib(variant.size_bytes),
            wording.share_of(variant, base),
            wording.share_of(variant, stock),
            wording.kib(variant.deflate_bytes),
            wording.number(variant.average_bits),
            style="bold" if variant is report.result else None,
        )
    return table


def _layers_table(report: Report, console: Console) -> Table:
    table = table_of(
        console,
        ("layer", False),
        ("kind", False),
        ("bits", True),
        ("", True),
        ("stored", True),
        ("KiB", True),
        ("error", True),
    )
    for layer in report.layers:
        table.add_row(
            Text(safe(console, layer.name)),
            Text(safe(console, wording.short_kind(layer.kind))),
            wording.bits(layer.num_bits),
            _bar(layer, console),
            str(layer.stored_bits),
            wording.kib(layer.size_bytes),
            wording.error(layer.quantization_error),
        )
    return table


def _bar(layer: LayerReport, console: Console) -> Text:
    full, empty = ("#", ".") if console.options.ascii_only else ("█", "░")
    filled = max(0, min(_BAR_WIDTH, round(layer.num_bits)))
    bar = Text(full * filled, style="cyan" if layer.num_bits > 4 else "green")
    return bar.append(empty * (_BAR_WIDTH - filled), style="dim")


def _layers_summary(report: Report) -> str:
    return (
        f"{len(report.layers)} layers, {report.num_weights:,} weights, "
        f"{wording.size(report.weights_size_bytes)} stored, "
        f"{wording.number(report.average_bits)} bits per weight on average"
    )


def _print_provenance(report: Report, console: Console) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    seed = "" if report.seed is None else str(report.seed)
    facts = (("command", report.command), ("seed", seed), ("versions", versions))
    if any(value for _, value in facts):
        console.print()
    for name, value in facts:
        if value:
            say(console, f"{name}: {value}", "dim")
