"""`ddq verify`: the file against the model that was trained."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.text import Text

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, SPLIT, data_settings, target_flag
from ddq_tf.command_line.words import percent
from ddq_tf.pictures import DataOptions


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.export import MicroVerification
    from ddq_tf.jobs.collect import agreement
    from ddq_tf.report import wording

    values, least = call.flags, call.flags["min_agreement"]
    found = jobs.verify_file(
        call.files[0],
        call.files[1],
        call.settings(DataOptions),
        split=values["split"],
        target=values["target"],
        screen=call.screen,
    )
    if isinstance(found, MicroVerification):
        is_exact, told, lines = found.equals_plain, dataclasses.asdict(found), _micro_lines(found)
        rule = "all output codes those of the plain int8 file"
    else:
        record = agreement(found)
        is_exact, told = found.weight_codes_identical, record.to_dict()
        lines, rule = wording.agreement_lines(record), "all weight codes equal"
    is_ok = is_exact and found.top1_agreement >= least
    for flawless, sentence in lines:
        call.console.print(Text(f"{'ok  ' if flawless else 'note'} {sentence}"))
    verdict = "passed" if is_ok else "FAILED"
    rule = f"{rule}, at least {percent(least)} equal answers"
    call.console.print(Text(f"{verdict}: {rule}", style="bold green" if is_ok else "bold red"))
    return Outcome(results={**told, "passed": is_ok}, is_ok=is_ok)


def _micro_lines(found: Any) -> list[tuple[bool, str]]:
    """What the verification in TFLite Micro found: whether each finding is flawless, its words."""
    same = round(found.top1_agreement * found.num_samples)
    twins = (
        (found.equals_plain, "the plain int8 file in TFLite Micro"),
        (found.equals_reference, "LiteRT's reference kernels"),
    )
    return [
        (
            found.top1_agreement == 1,
            f"In TFLite Micro the file gives the trained model's answer for {same:,} of "
            f"{found.num_samples:,} samples ({percent(found.top1_agreement)}).",
        ),
        (
            found.max_lsb == 0,
            f"{percent(found.equal_codes_share)} of the output codes are the trained model's; the "
            f"largest difference is {found.max_lsb} of the output's steps.",
        ),
        *(
            (is_equal, f"{'All' if is_equal else 'Not all'} output codes are those of {words}.")
            for is_equal, words in twins
            if is_equal is not None
        ),
    ]


COMMAND = Command(
    name="verify",
    summary="Check that a .tflite file computes what was trained.",
    files=("DDQ.keras", "FILE.tflite"),
    notes=(
        "Without --data on what the model's file says that it was trained on. Exit code 1 if a "
        "weight code differs from the trained one, or if file and model give the same answer for "
        "too few images. A file for TFLite Micro runs there, and must compute what the plain int8 "
        "file does."
    ),
    groups=(
        Group(title="Data", of=(data_settings(batch_size=64, optional={"spec": ""}),)),
        Group(
            title="Check",
            of=(
                SPLIT,
                flags.number(
                    "min_agreement", "SHARE", "of equal answers, for success", 0.99, high=1.0
                ),
                target_flag(None),
            ),
        ),
        OUTPUT,
    ),
    example="ddq verify ddq.keras ddq.tflite",
    job="ddq_tf.jobs.verify_file",
    run=_run,
)
