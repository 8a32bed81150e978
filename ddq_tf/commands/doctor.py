"""`ddq doctor`: whether a float model can be quantized."""

from __future__ import annotations

import dataclasses

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, target_flag
from ddq_tf.config import DDQConfig


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import diagnosis_text

    values = call.flags
    found = jobs.diagnose(call.files[0], target=values["target"], measure=values["measure"])
    diagnosis_text.render(found, call.console)
    return Outcome(results=dataclasses.asdict(found), is_ok=found.can_be_quantized)


COMMAND = Command(
    name="doctor",
    summary="Tell whether a float model can be quantized, and how small it gets.",
    files=("FLOAT.keras",),
    notes=(
        "Takes seconds and no data. Names every layer that stands in the way, with the cure; "
        "tells sizes, the least budget, what XNNPACK leaves to other kernels, and what to type "
        "next. Exit code 1 if the model cannot be quantized."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                target_flag(DDQConfig().target),
                flags.switch("measure", "also time training steps, on random data; takes a minute"),
            ),
        ),
        OUTPUT,
    ),
    example="ddq doctor float.keras --target=litert",
    job="ddq_tf.jobs.diagnose",
    run=_run,
)
