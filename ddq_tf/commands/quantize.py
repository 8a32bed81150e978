"""`ddq quantize`: precisions and weights learned by training."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, Settings
from ddq_tf.command_line.shared import (
    AUGMENT,
    OUT_MODEL,
    OUTPUT,
    RESUME,
    RULES_IN_PYTHON,
    data_group,
    recipe_settings,
    work_folder,
)
from ddq_tf.command_line.words import accuracy_rows
from ddq_tf.config import DDQConfig
from ddq_tf.pictures import DataOptions, range_words
from ddq_tf.recipes import DDQ_RECIPE, TrainConfig


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.jobs.quantize import history_path
    from ddq_tf.report import text
    from ddq_tf.training import epochs_kept, forget_training

    folder = work_folder(call, epochs_kept, "epochs")
    quantized = jobs.quantize_float(
        call.files[0],
        call.settings(DataOptions),
        call.settings(DDQConfig),
        call.settings(TrainConfig),
        out=call.flags["out"],
        augment=call.flags["augment"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_training(folder)
    call.console.print()
    text.render(jobs.layers_report(quantized), call.console)
    call.screen.table(
        [
            *accuracy_rows(quantized),
            ("input range", range_words(quantized.images.input_range)),
            ("saved", f"{quantized.path}, {history_path(quantized.path).name}"),
        ],
    )
    return Outcome(results=quantized.results)


COMMAND = Command(
    name="quantize",
    summary="Learn precisions and weights within a size budget (DDQ).",
    files=("FLOAT.keras",),
    notes=(
        "Takes any .keras or .h5 classifier with supported layers. Tells first what it will do and "
        "about how long that takes. Writes the DDQ model and, beside it, FILE.history.json with "
        "loss, accuracy, bits, errors, ranges and levels per epoch."
    ),
    groups=(
        data_group(batch_size=128),
        Group(
            title="Quantization",
            of=(
                OUT_MODEL,
                Settings(
                    kind=DDQConfig,
                    left_out={
                        "rules": RULES_IN_PYTHON,
                        "channel_precision": "`fit` does not learn them; reconstruction does",
                    },
                ),
            ),
        ),
        Group(title="Training", of=(recipe_settings(DDQ_RECIPE), AUGMENT, *RESUME)),
        OUTPUT,
    ),
    example="ddq quantize float.keras --data=digits --budget=0.6 --out=ddq.keras",
    job="ddq_tf.jobs.quantize_float",
    run=_run,
)
