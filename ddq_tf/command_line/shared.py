"""Flags and settings that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddq_tf.command_line import flags
from ddq_tf.command_line.command import Call, Group
from ddq_tf.command_line.flags import Flag
from ddq_tf.command_line.settings import Settings, choices_in_words, help_of
from ddq_tf.config import DDQConfig
from ddq_tf.pictures import DataOptions
from ddq_tf.recipes import Recipe, TrainConfig

_TARGETS: Mapping[str, str] = DDQConfig.__dataclass_fields__["target"].metadata["choices"]

OUTPUT = Group(
    title="Results, and code of yours",
    of=(
        flags.text(
            "json", "FILE", "also write the results as JSON, with versions, machine and commit"
        ),
        flags.choice(
            "verbosity", "what to log to stderr", ("error", "warning", "info", "debug"), "warning"
        ),
        flags.text(
            "code",
            "FILE.py",
            "run this Python file first: it defines layers, models and functions of your own that "
            "the model's file names",
        ),
    ),
)
RESUME = (
    flags.switch("resume", "go on with what an interrupted run of the same command has kept"),
    flags.text(
        "checkpoint_dir",
        "FOLDER",
        "where to keep that; by default beside the output, in OUT.checkpoint",
    ),
)
RULES_IN_PYTHON = "they name layers; in Python, as `ddq_tf.Rule`"
SEED = next(flag for flag in Settings(kind=TrainConfig).flags if flag.name == "seed")
NUM_THREADS = flags.integer("num_threads", "N", "threads of each operator", 1)
OUT_MODEL = flags.text("out", "FILE.keras", "the file to write", required=True)
SPLIT = flags.choice("split", "which images", ("train", "val", "test"), "test")
AUGMENT = flags.text(
    "augment",
    "auto|none|CHANGES",
    "random changes to training images: auto shifts them by up to 4 px and mirrors them (digits: "
    "2 px, not mirrored). Or name them: flip, pad_crop=PIXELS, cutout=PIXELS, least_area=SHARE (a "
    "random part instead of the centre; 0.08 for ImageNet), as in flip,least_area=0.08",
    "auto",
)


def target_flag(default: str | None) -> Flag:
    """Returns the flag for where a file will run; by default the model's own."""
    words = help_of(DDQConfig)["target"] + choices_in_words(_TARGETS)
    if default is None:
        words += ". By default the model's own"
    return flags.choice("target", words, tuple(_TARGETS), default)


def data_settings(*, batch_size: int, **more: Any) -> Settings:
    """Returns the settings that tell the data.

    Args:
        batch_size: the default.
        more: see `Settings`.
    """
    base = DataOptions(spec="", batch_size=batch_size)
    return Settings(kind=DataOptions, base=base, names={"spec": "data"}, **more)


def recipe_settings(recipe: Recipe, left_out: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of a training.

    Args:
        recipe: with the defaults.
        left_out: see `Settings`.
    """
    return Settings(
        kind=TrainConfig,
        base=recipe.settings,
        follows={"learning_rate": ("optimizer", recipe.rates)},
        left_out=left_out or {},
    )


def data_group(*, batch_size: int) -> Group:
    """Returns the flags that tell the data, which must be given."""
    return Group(title="Data", of=(data_settings(batch_size=batch_size),))


def work_folder(call: Call, kept: Callable[[Path], int | None], units: str) -> Path:
    """Returns where a command keeps what an interruption would lose.

    Args:
        call: of a command with `RESUME`.
        kept: how much a folder keeps, None for nothing.
        units: of which, in words.
    """
    from ddq_tf import jobs

    out, folder, resume = (call.flags[name] for name in ("out", "checkpoint_dir", "resume"))
    return jobs.work_folder(out, folder, kept, units, resume=resume, screen=call.screen)
