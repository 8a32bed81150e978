"""`ddq deploy`: a file on an Android phone."""

from __future__ import annotations

import dataclasses
from typing import Any

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.latency import TABLE, say_table
from ddq_tf.command_line.shared import NUM_THREADS, OUTPUT, target_flag
from ddq_tf.errors import DDQError


def _run(call: Call) -> Outcome:
    from ddq_tf.export import deploy

    asked = call.flags
    names = ("tool", "serial", "num_threads", "cpu_mask", "num_runs", "warmup_runs", "use_xnnpack")
    options = {**{name: asked[name] for name in names}, "timeout_s": asked["timeout"]}
    if asked["table"]:
        return _table(call, options)
    result = deploy(call.files[0], **options)
    spread = f"{result.min_ms:.3f} to {result.max_ms:.3f}, std {result.std_ms:.3f}"
    rows = [
        ("device", f"{result.device} ({result.serial}, {result.abi})"),
        ("inference", f"{result.avg_ms:.3f} ms ({spread}; {result.runs} runs)"),
    ]
    if result.init_ms is not None:
        rows.append(("loading", f"{result.init_ms:.1f} ms"))
    if result.memory_overall_mib is not None:
        rows.append(("memory", f"{result.memory_overall_mib:.1f} MiB"))
    call.screen.table(rows)
    if result.is_delegated is False:
        call.screen.say("note: XNNPACK did not take the whole model; some operators run built in")
    if result.leftover:
        call.screen.say(f"note: the folder {result.leftover} could not be removed from the device")
    values = dataclasses.asdict(result)
    values.pop("log")
    return Outcome(results=values)


def _table(call: Call, options: dict[str, Any]) -> Outcome:
    """Writes the times of the file's operators."""
    from ddq_tf.jobs.latency import device_table

    if not call.flags["use_xnnpack"]:
        raise DDQError(
            "--table times operators in XNNPACK, as apps run them. Received: --nouse_xnnpack too. "
            "Leave it out"
        )
    target, out = call.flags["target"], call.flags["table"]
    made = device_table(call.files, out, target=target, **options, screen=call.screen)
    return say_table(call, made)


COMMAND = Command(
    name="deploy",
    summary="Run a .tflite file on an Android phone and time it there.",
    files=("FILE.tflite",),
    notes=(
        "Needs adb, a phone with USB debugging, and benchmark_model built for Android; what is "
        "missing is said, with where to get it. The phone is left as it was. With --table the file "
        "may also be the .keras file of a float or DDQ model."
    ),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.text(
                    "tool", "FILE", "benchmark_model for Android; by default $DDQ_BENCHMARK_MODEL"
                ),
                flags.text(
                    "serial",
                    "ID",
                    "as `adb devices` lists it; by default the only one that is ready",
                ),
                NUM_THREADS,
                flags.text(
                    "cpu_mask", "HEX", "cores to run on, as in f0 for cores 4 to 7; by default all"
                ),
                flags.integer(
                    "num_runs", "N", "timed inferences, at least (and at least one second)", 50
                ),
                flags.integer(
                    "warmup_runs", "N", "inferences before (and at least half a second)", 1, low=0
                ),
                flags.switch("use_xnnpack", "as in every app; off, built-in kernels run", True),
                flags.number("timeout", "SECONDS", "for the run on the device", 300.0),
                TABLE,
                target_flag("litert"),
            ),
        ),
        OUTPUT,
    ),
    example="ddq deploy ddq.tflite --tool=android_aarch64_benchmark_model --cpu_mask=f0",
    job="ddq_tf.export.deploy",
    run=_run,
)
