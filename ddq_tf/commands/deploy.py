"""`ddq deploy`: a file on an Android phone."""

from __future__ import annotations

import dataclasses

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import NUM_THREADS, OUTPUT


def _run(call: Call) -> Outcome:
    from ddq_tf.export import deploy

    asked = call.flags
    result = deploy(
        call.files[0],
        tool=asked["tool"],
        serial=asked["serial"],
        num_threads=asked["num_threads"],
        cpu_mask=asked["cpu_mask"],
        num_runs=asked["num_runs"],
        warmup_runs=asked["warmup_runs"],
        use_xnnpack=asked["use_xnnpack"],
        timeout_s=asked["timeout"],
    )
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


COMMAND = Command(
    name="deploy",
    summary="Run a .tflite file on an Android phone and time it there.",
    files=("FILE.tflite",),
    notes=(
        "Needs adb, a phone with USB debugging, and benchmark_model built for Android; what is "
        "missing is said, with where to get it. The phone is left as it was."
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
            ),
        ),
        OUTPUT,
    ),
    example="ddq deploy ddq.tflite --tool=android_aarch64_benchmark_model --cpu_mask=f0",
    job="ddq_tf.export.deploy",
    run=_run,
)
