"""A diagnosis for a terminal, a pipe or a log file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ddq_tf.report import wording
from ddq_tf.report.diagnosis import (
    Diagnosis,
    Draft,
    Quantizable,
    StepTimes,
    TrainingCost,
    Trouble,
)
from ddq_tf.report.text import safe, say, table_of

_NAMES = 4  # that are shown of a group; JSON has all


def render(diagnosis: Diagnosis, console: Console) -> None:
    """Prints a diagnosis.

    Args:
        diagnosis: what to print.
        console: where to; its width and encoding are respected.
    """
    found = diagnosis.quantized
    verdict = "can be quantized" if diagnosis.can_be_quantized else "cannot be quantized"
    style = "bold green" if diagnosis.can_be_quantized else "bold red"
    subject = f"{diagnosis.file} ({diagnosis.name})" if diagnosis.file else diagnosis.name
    say(console, f"{subject} {verdict} for target {diagnosis.target}", style)
    for words, troubles in groupby(diagnosis.troubles, key=lambda trouble: trouble.words):
        _print_troubles(console, words, list(troubles))
    _print_facts(console, _facts(diagnosis))
    if found is not None:
        _print_sizes(console, found)
        _print_facts(console, _limits(found))
    say(console, "Next:", "bold")
    for command in diagnosis.commands:
        # Whole, whatever the width: it is there to be copied.
        console.print(Text(safe(console, f"  {command}")), soft_wrap=True)


def _print_troubles(console: Console, words: str, troubles: Sequence[Trouble]) -> None:
    console.print()
    for trouble in troubles:
        if trouble.layers:
            names = _names(trouble.layers, "layers" if trouble.kind else "inputs")
            say(console, f"{trouble.kind or 'input'}: {names}", "bold")
    console.print(Padding(Text(safe(console, words)), (0, 0, 0, 2)))


def _facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    found, size = diagnosis.quantized, wording.size(4 * diagnosis.num_params)
    model = f"{diagnosis.num_params:,} parameters, {size} in float32"
    if found is not None:
        model += f"; {found.macs:,} MACs for one example"
    rows = [("model", model)]
    if found is not None:
        kinds = {wording.short_kind(kind): count for kind, count in found.kinds.items()}
        rows.append(("quantized", _counts(kinds, "layer")))
        rows += [("rewritten", f"{kind}: {made}") for kind, made in found.rewritten.items()]
    if found is not None and found.folded:
        rows.append(("folded", f"{found.folded} BatchNormalization, into the layer before"))
    if diagnosis.nested:
        rows.append(("nested", f"{_names(diagnosis.nested, 'models')}: flattened"))
    if diagnosis.operations:
        rows.append(("outside layers", _counts(diagnosis.operations, "operation")))
    if diagnosis.shared:
        rows.append(("called again", f"{_names(diagnosis.shared)}: one kernel for all calls"))
    if diagnosis.frozen:
        words = "kernels stay; ranges and precisions learn"
        rows.append(("frozen", f"{_names(diagnosis.frozen)}: {words}"))
    rows += [("input", f"{port.name}, shape {port.shape}") for port in diagnosis.inputs]
    if diagnosis.range_from:
        rows.append(("pixels", _range_words(diagnosis)))
    for port in diagnosis.outputs:
        words = f", {port.words}" if port.words else ""
        rows.append(("output", f"{port.name}, shape {port.shape}{words}"))
    return rows


def _range_words(diagnosis: Diagnosis) -> str:
    if diagnosis.input_range is None:
        return diagnosis.range_from
    low, high = (", ".join(f"{v:.4g}" for v in end) for end in diagnosis.input_range)
    return f"0 to 255 become {low} to {high}, {diagnosis.channels} ({diagnosis.range_from})"


def _print_sizes(console: Console, found: Quantizable) -> None:
    table = table_of(
        console,
        ("weights of", False),
        ("bytes", True),
        ("KiB", True),
        ("file, about KiB", True),
        ("layers that take it", True),
    )
    count = sum(found.kinds.values())
    for size in found.sizes:
        table.add_row(
            f"{size.bits} bits",
            f"{size.weights_bytes:,}",
            wording.kib(size.weights_bytes),
            wording.kib(size.file_bytes),
            f"{size.num_layers} of {count}",
        )
    console.print(table)


def _limits(found: Quantizable) -> list[tuple[str, str]]:
    rows = [
        ("smallest budget", f"{_bytes(found.least_bytes)}: --budget={found.least_bytes}bytes"),
        ("--budget=auto", _bytes(found.auto_bytes)),
    ]
    for limit in found.limits:
        rows.append(
            (
                f"not below {limit.bits} bits",
                f"{_names(limit.layers)} ({limit.num_weights:,} weights): {limit.reason}",
            )
        )
    least = ", ".join(f"{size:,} for {name}" for name, size in found.elsewhere.items())
    rows.append(("other targets", f"weights of at least, in bytes of the file: {least}"))
    if found.draft is None:
        rows.append(("draft file", found.no_draft))
    elif found.draft.partitions is not None:
        rows.append(("XNNPACK", _delegate_words(found.draft)))
    if found.cost is not None:
        rows.append(("training", _cost_words(found.cost)))
    if found.times is not None:
        rows.append(("a step takes", _time_words(found.times)))
    return rows


def _cost_words(cost: TrainingCost) -> str:
    return (
        f"about {cost.peak_mib:,.0f} MiB at its peak, beside the data; about "
        f"{_time(cost.step_s)} a step of {cost.batch_size} examples on this machine, the first "
        f"{_time(cost.first_step_s)} longer (estimates, within a factor of 2)"
    )


def _time(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _time_words(times: StepTimes) -> str:
    in_float, in_ddq = (f"{1000 * each:,.1f} ms" for each in (times.float_s, times.ddq_s))
    return (
        f"{in_float} in float, {in_ddq} in DDQ without distillation; random batches of "
        f"{times.batch_size} on this machine"
    )


def _delegate_words(draft: Draft) -> str:
    outside = sum(draft.undelegated.values())
    taken = f"takes {draft.total_ops - outside} of {draft.total_ops} operators"
    parts = f"{taken}, in {draft.partitions} partition{'' if draft.partitions == 1 else 's'}"
    words = [f"{parts}, of a draft at 8 bits"]
    if draft.undelegated:
        kinds = ", ".join(f"{count} {kind}" for kind, count in draft.undelegated.items())
        words.append(f"built-in kernels run {kinds}")
    if draft.slow_when_narrow:
        words.append(f"and, below 8 bits, {_names(draft.slow_when_narrow)}")
    return "; ".join(words)


def _bytes(count: int) -> str:
    return f"{count:,} bytes ({wording.size(count)})"


def _names(names: Sequence[str], noun: str = "layers") -> str:
    """How many there are, with the first of them."""
    first = ", ".join(repr(name) for name in names[:_NAMES])
    if len(names) == 1:
        return first
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)} {noun}, {first}{more}"


def _counts(kinds: Mapping[str, int], noun: str) -> str:
    total = sum(kinds.values())
    parts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{total} {noun}{'' if total == 1 else 's'}: {parts}"


def _print_facts(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(safe(console, value)))
    console.print(table)
