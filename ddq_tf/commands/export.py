"""`ddq export`: an integer-only .tflite file."""

from __future__ import annotations

from typing import Any

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, target_flag
from ddq_tf.command_line.words import percent

_TYPES = ("int8", "uint8", "float32")


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.jobs.android import asset_of
    from ddq_tf.jobs.export import export_results

    values = call.flags
    result = jobs.export_file(
        call.files[0],
        values["out"],
        target=values["target"],
        input_type=values["input_type"],
        output_type=values["output_type"],
        keep_names=values["keep_names"],
        labels=values["labels"],
        input_range=values["input_range"],
        android=values["android"],
        streaming=values["streaming"],
    )
    results = export_results(result)
    asset = [("asset", str(asset_of(values["android"])))] if values["android"] else []
    streams = (
        [("streaming", f"one time step; states: {', '.join(results['states'])}")]
        if results["states"]
        else []
    )
    ops = ", ".join(f"{count} {kind}" for kind, count in results["ops"].items())
    call.screen.table(
        [
            ("saved", str(result.path)),
            *asset,
            ("size", f"{result.size_bytes:,} bytes"),
            ("above floor", _floor_words(result.sizes)),
            ("compressed", _compressed_words(result.compressed)),
            ("target", result.target.name),
            ("runs on", f"{result.target.runtime} {result.min_runtime} or later"),
            ("operators", ops),
            *_latency_rows(results),
            *streams,
        ],
    )
    return Outcome(results=results)


def _latency_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the file was predicted to take, and what it took."""
    if results["predicted_us"] is None:
        return []
    us, int8 = results["predicted_us"], results["predicted_int8_us"]
    words = f"{us:.1f} us predicted for operators with weights; {int8:.1f} us if stored in INT8"
    rows = [("latency", words)]
    if results["measured_us"] is not None:
        rows.append(
            (
                "measured",
                f"{results['measured_us']:.1f} us here for all of the file, "
                f"{results['measured_ratio']:.3f} x of the same in INT8 (predicted: "
                f"{1 - (int8 - us) / results['measured_int8_us']:.3f} x)",
            )
        )
    return rows


def _floor_words(sizes: Any) -> str:
    items = ", ".join(
        f"{kind.replace('_', ' ')} {size:,}" for kind, size in sizes.above_floor.items() if size
    )
    return f"{sizes.total - sizes.floor:,} bytes ({percent(sizes.above_floor_share)}): {items}"


def _compressed_words(sizes: Any) -> str:
    return (
        f"{sizes.deflate:,} bytes in a zip archive; the weight codes hold {sizes.code_entropy:,} "
        "bytes of information"
    )


COMMAND = Command(
    name="export",
    summary="Write a DDQ model as an integer-only .tflite file.",
    files=("DDQ.keras",),
    groups=(
        Group(
            title="Flags",
            of=(
                flags.text("out", "FILE.tflite", "the file to write", required=True),
                target_flag(None),
                flags.choice("input_type", "of the file's input", _TYPES, "int8"),
                flags.choice("output_type", "of the file's output", _TYPES, "int8"),
                flags.switch(
                    "keep_names", "keep the names of inner tensors, for looking at the file"
                ),
                flags.switch(
                    "streaming",
                    "write one time step of a model with recurrent layers, which takes and gives "
                    "their states",
                ),
                flags.text("labels", "FILE", "the classes, one a line, for the file's metadata"),
                flags.pair(
                    "input_range",
                    "LOW,HIGH",
                    "values that pixels 0 and 255 become, for the file's metadata",
                ),
                flags.text(
                    "android",
                    "FOLDER",
                    "also put the file into an Android project, such as examples/android, as its "
                    "asset; needs --labels",
                ),
            ),
        ),
        OUTPUT,
    ),
    notes=(
        "The floor is what weight codes, biases and a scale for each channel take. Metadata follow "
        "TFLite's standard, which Android Studio and MediaPipe read."
    ),
    example="ddq export ddq.keras --out=ddq.tflite",
    job="ddq_tf.jobs.export_file",
    run=_run,
)
