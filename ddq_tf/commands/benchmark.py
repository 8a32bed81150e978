"""`ddq benchmark`: the time of files on this host."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.latency import TABLE, say_table
from ddq_tf.command_line.shared import NUM_THREADS, OUTPUT, target_flag
from ddq_tf.errors import DDQError

_SLOWEST = 12  # operators that a profile shows; JSON has all


def _run(call: Call) -> Outcome:
    from ddq_tf.export import benchmark

    values = call.flags
    if values["table"]:
        return _table(call)
    rows = benchmark(
        {path: path for path in call.files},
        runs=values["runs"],
        num_threads=values["num_threads"],
        delegate=values["delegate"],
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("bytes", "median ms", "p10", "p90", "ratio", "MiB", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        times = (f"{value:.3f}" for value in (row.median_ms, row.p10_ms, row.p90_ms))
        memory = (
            "-" if mib is None else f"{mib:.1f}" for mib in (row.memory_mib, row.peak_memory_mib)
        )
        table.add_row(row.name, f"{row.size_bytes:,}", *times, f"{row.ratio:.3f}", *memory)
    call.console.print(table)
    call.screen.say(
        "Times are of one inference of one example on this host; ratios are to the first file, "
        "round by round. They say nothing about a phone: see `ddq deploy`."
    )
    results: dict[str, Any] = {"rows": [dataclasses.asdict(row) for row in rows]}
    if values["profile"]:
        results["profile"] = {path: _profile(call, path) for path in call.files}
    return Outcome(results=results)


def _table(call: Call) -> Outcome:
    """Writes the times of the files' operators."""
    from ddq_tf.jobs.latency import host_table

    if call.flags["profile"] or not call.flags["delegate"]:
        raise DDQError(
            "--table times operators one by one, in XNNPACK as apps run them. Received: --profile "
            "or --nodelegate too. Leave them out"
        )
    names = ("target", "runs", "num_threads")
    told = {name: call.flags[name] for name in names}
    made = host_table(call.files, call.flags["table"], **told, screen=call.screen)
    return say_table(call, made)


def _profile(call: Call, path: str) -> list[dict[str, Any]]:
    """Times each operator of a file and prints the slowest."""
    from ddq_tf.export import profile

    values = call.flags
    times = profile(path, num_threads=values["num_threads"], delegate=values["delegate"])
    table = Table(title=Text(path), title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name in ("operator", "kind", "output"):
        table.add_column(name, overflow="fold")
    for name in ("ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for time in sorted(times, key=lambda time: -time.median_ms)[:_SLOWEST]:
        kind = f"{time.kind} {time.weights}"
        shape = " ".join(map(str, time.output_shape))
        table.add_row(f"{time.index}", kind, shape, f"{time.median_ms:.3f}", f"{time.share:.1%}")
    call.console.print(table)
    return [dataclasses.asdict(time) for time in times]


COMMAND = Command(
    name="benchmark",
    summary="Time .tflite files on this host, in turns.",
    files=("FILE.tflite", "MORE.tflite..."),
    notes=(
        "The first file is the yardstick: give the stock int8 file first. With --table the files "
        "may also be .keras files, of float or DDQ models."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.integer("runs", "N", "timed inferences of each file", 200),
                NUM_THREADS,
                flags.switch(
                    "delegate", "XNNPACK, as in every app; off, built-in kernels run", True
                ),
                flags.switch("profile", "also time each operator by itself, and show the slowest"),
                TABLE,
                target_flag("litert"),
            ),
        ),
        OUTPUT,
    ),
    example="ddq benchmark stock_int8.tflite ddq.tflite",
    job="ddq_tf.export.benchmark",
    run=_run,
)
