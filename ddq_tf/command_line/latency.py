"""What the commands that make tables of times share."""

from __future__ import annotations

from rich import box
from rich.table import Table

from ddq_tf.command_line import flags
from ddq_tf.command_line.command import Call, Outcome
from ddq_tf.latency import LatencyTable

TABLE = flags.text(
    "table",
    "TABLE.json",
    "instead, time each operator with weights by itself, at every width that --target may store, "
    "and write the times here, for --latency_table of `ddq quantize` and `ddq reconstruct`",
)
_WIDTHS = (8, 4, 2)


def say_table(call: Call, made: LatencyTable) -> Outcome:
    """Prints a table of times.

    Args:
        call: of the command, with the flag `TABLE`.
        made: the table, which is written already.
    """
    shown = Table(box=box.SIMPLE, pad_edge=False)
    shown.add_column("operator", overflow="fold")
    for bits in _WIDTHS:
        shown.add_column(f"{bits} bits", justify="right", no_wrap=True)
    for shape in dict.fromkeys(row.shape for row in made.rows):
        times = (made.us(shape, bits) for bits in _WIDTHS)
        shown.add_row(f"{shape}", *("-" if us is None else f"{us:.2f}" for us in times))
    call.console.print(shown)
    call.screen.say("Median microseconds of one run on one example, by the width of the weights.")
    call.screen.table(
        [
            ("saved", call.flags["table"]),
            ("measured on", made.origin),
            ("spread", f"{made.spread:.0%} of the median, in half of the rows or more"),
            ("taken off", f"{made.overhead_us:.2f} us for entering and leaving the runtime"),
        ]
    )
    return Outcome(results=made.to_dict())
