"""`ddq evaluate`: the accuracy of a model or a file."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import OUTPUT, SPLIT, data_group
from ddq_tf.command_line.words import percent, picture_words
from ddq_tf.pictures import DataOptions, range_words


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs

    evaluation = jobs.evaluate_file(
        call.files[0],
        call.settings(DataOptions),
        metrics=call.flags["metrics"].split(","),
        split=call.flags["split"],
        screen=call.screen,
    )
    sources = evaluation.sources
    range_from = [sources["input_range"]] if sources else []
    call.screen.table(
        [
            ("model", f"{evaluation.path}, {evaluation.size_bytes:,} bytes, {evaluation.runtime}"),
            ("data", f"{evaluation.data}, {evaluation.split} split"),
            (
                "pictures",
                picture_words(evaluation.crop, evaluation.resize, evaluation.channels, sources),
            ),
            ("input range", ", ".join([range_words(evaluation.input_range), *range_from])),
            *(
                (
                    name.replace("_", " "),
                    f"{percent(value) if name.endswith('accuracy') else f'{value:.4g}'} "
                    f"of {evaluation.num_samples:,} images",
                )
                for name, value in evaluation.metrics.items()
            ),
        ],
    )
    return Outcome(results=evaluation.results)


COMMAND = Command(
    name="evaluate",
    summary="Measure the accuracy of a .keras, .h5 or .tflite file.",
    files=("MODEL",),
    groups=(
        data_group(batch_size=64),
        Group(
            title="Measure",
            of=(
                flags.text(
                    "metrics",
                    "NAME,NAME",
                    "Keras's names, as in accuracy,sparse_top_k_categorical_accuracy",
                    "accuracy",
                ),
                SPLIT,
            ),
        ),
        OUTPUT,
    ),
    example="ddq evaluate ddq.tflite --data=digits --split=test",
    job="ddq_tf.jobs.evaluate_file",
    run=_run,
)
