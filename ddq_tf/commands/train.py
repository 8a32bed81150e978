"""`ddq train`: a float model from scratch."""

from __future__ import annotations

from ddq_tf.command_line import Call, Command, Group, Outcome, flags
from ddq_tf.command_line.shared import (
    AUGMENT,
    OUT_MODEL,
    OUTPUT,
    RESUME,
    data_group,
    recipe_settings,
    work_folder,
)
from ddq_tf.command_line.words import accuracy_rows
from ddq_tf.pictures import DataOptions, range_words
from ddq_tf.recipes import FLOAT_RECIPE, TrainConfig

_MODELS = ("mobilenet_v2", "resnet8")  # those of ddq_tf.models, which takes seconds to import
_OF_A_MODEL = ("alpha", "output_stride", "batch_norm_momentum")
_OF_DDQ = "helps DDQ models to learn"


def _run(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.training import epochs_kept, forget_training

    values = call.flags
    folder = work_folder(call, epochs_kept, "epochs")
    trained = jobs.train_float(
        values["model"],
        call.settings(DataOptions),
        call.settings(TrainConfig),
        out=values["out"],
        image_size=values["image_size"],
        model_options={name: values[name] for name in _OF_A_MODEL if values[name] is not None},
        augment=values["augment"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_training(folder)
    call.screen.table(
        [
            ("model", f"{trained.model.name}, {trained.num_params:,} parameters"),
            *accuracy_rows(trained),
            ("input range", range_words(trained.images.input_range)),
            ("saved", str(trained.path)),
        ],
    )
    return Outcome(results=trained.results)


COMMAND = Command(
    name="train",
    summary="Train a float model from scratch.",
    groups=(
        data_group(batch_size=128),
        Group(
            title="Network",
            of=(
                OUT_MODEL,
                flags.choice("model", "which network", _MODELS, "mobilenet_v2"),
                flags.number("alpha", "WIDTH", "width multiplier (mobilenet_v2)"),
                flags.integer(
                    "output_stride",
                    "8|16|32",
                    "how far images shrink (mobilenet_v2; by image size)",
                ),
                flags.number(
                    "batch_norm_momentum",
                    "SHARE",
                    "of the moving statistics; by default it suits the number of steps",
                    high=1.0,
                ),
                flags.integer("image_size", "PIXELS", "resize images to this side"),
            ),
        ),
        Group(
            title="Training",
            of=(
                recipe_settings(
                    FLOAT_RECIPE,
                    left_out={
                        "distill": "there is no float model yet to learn from",
                        "distill_temperature": "there is no float model yet to learn from",
                        "dampening": _OF_DDQ,
                        "freeze_oscillations": _OF_DDQ,
                        "reestimate_batch_norm": _OF_DDQ,
                        "quantizer_learning_rate": _OF_DDQ,
                    },
                ),
                AUGMENT,
                *RESUME,
            ),
        ),
        OUTPUT,
    ),
    example="ddq train --data=digits --alpha=0.35 --optimizer=adam --out=float.keras",
    job="ddq_tf.jobs.train_float",
    run=_run,
)
