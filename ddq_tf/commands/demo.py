"""`ddq demo`: the whole way on embedded data."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, SEED


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import text

    result = jobs.run_demo(
        call.flags["out"],
        fast=call.flags["fast"],
        seed=call.flags["seed"],
        command=call.command,
        screen=call.screen,
    )
    call.console.print()
    text.render(result.report, call.console)
    rows = [(name, f"{seconds:.0f} s") for name, seconds in result.wall_s.items()]
    rows.append(("report", f"{result.folder / 'report.html'}"))
    rows.append(("your own model", "ddq doctor own.keras tells what to do"))
    call.screen.table(rows)
    return Outcome(results=result.results)


COMMAND = Command(
    name="demo",
    summary="The whole way on scikit-learn's digits, in minutes.",
    notes=(
        "Trains MobileNetV2 (alpha 0.35), learns 4 and 8 bit precisions within 60 % of the int8 "
        "bytes, exports, verifies, and compares with float and stock int8. Interrupted, the same "
        "command resumes the training that was under way."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.text("out", "FOLDER", "for models, file and report", "runs/demo"),
                flags.switch("fast", "half of the training: shows the way, not the accuracy"),
                SEED,
            ),
        ),
        OUTPUT,
    ),
    example="ddq demo --out=runs/demo",
    job="ddq_tf.jobs.run_demo",
    run=_run,
)
