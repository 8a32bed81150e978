"""Flags that several sub-commands share."""

from __future__ import annotations

from collections.abc import Mapping

from ddq_tf import command_line as line
from ddq_tf.command_line import Flag
from ddq_tf.config import AUTO, CALIBRATIONS, CHANNELS, RESIZES, TUNE_DISTILL, DDQConfig
from ddq_tf.scheme import LEVEL_INITS, LEVELS
from ddq_tf.targets import TARGETS

OPTIMIZERS = ("sgd", "adam", "adamw")
SEED = line.integer("seed", "N", "makes a run repeatable", 0, low=0)
RESUME_FLAGS = (
    line.switch("resume", "go on with what an interrupted run of the same command has kept"),
    line.text(
        "checkpoint_dir",
        "FOLDER",
        "where to keep that; by default beside the output, in OUT.checkpoint",
    ),
)
LIMIT = line.integer("limit", "N", "use at most N images of each split, for a quick try")
OUT_MODEL = line.text("out", "FILE.keras", "the file to write", required=True)
TARGET_WORDS = "where the file will run: " + "; ".join(
    f"{target.name} ({target.description})" for target in TARGETS.values()
)


def data_flags(*, batch_size: int, required: bool = True, range_by: str = "") -> tuple[Flag, ...]:
    """Returns the flags that tell the data.

    Args:
        batch_size: the default.
        required: whether data must be given.
        range_by: what the input range is by default, in words; "" for what the file shows.
    """
    by_default = range_by or (
        "what the model's file notes, what keras.applications says of such a network, or what the "
        "file shows, else -1,1"
    )
    return (
        line.text(
            "data",
            "SPEC",
            "digits (always at hand), cifar10, fashion_mnist, tfrecord:TRAIN[,TEST], folder:PATH "
            "(one folder per class), images:PATH (without labels) or tfds:NAME",
            required=required,
        ),
        line.pair(
            "input_range",
            f"values that pixels 0 and 255 become. By default {by_default}",
        ),
        line.numbers(
            "mean",
            "R,G,B",
            "instead of --input_range, with --std: inputs are (pixel - mean) / std, pixels 0 to "
            "255; one number, or one for each channel in the network's order",
        ),
        line.numbers("std", "R,G,B", "see --mean"),
        line.choice(
            "channels",
            "their order. By default as for --input_range, else rgb",
            CHANNELS,
            None,
        ),
        line.number(
            "crop",
            "SHARE",
            "of each image's centre that the network sees. By default what the file notes, else "
            "all; most ImageNet networks were published with 0.875",
            low=0.0,
            high=1.0,
        ),
        line.choice(
            "resize",
            "how images come to the network's size. By default what the file notes, else bilinear",
            RESIZES,
            None,
        ),
        line.integer("batch_size", "N", "images per batch", batch_size),
        LIMIT,
    )


def recipe_flags(*, epochs: int, optimizer: str, rates: Mapping[str, float]) -> tuple[Flag, ...]:
    """Returns the flags of a training recipe.

    Args:
        epochs: the default, like the others.
        optimizer: likewise.
        rates: the default learning rate of each optimizer.
    """
    words = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    return (
        line.integer("epochs", "N", "passes over the training images", epochs),
        line.choice("optimizer", "how weights are updated", OPTIMIZERS, optimizer),
        line.number(
            "learning_rate",
            "RATE",
            f"the highest; rises over 5 % of the steps, then falls as a cosine (default: {words})",
        ),
        line.number("weight_decay", "RATE", "decoupled, on kernels only", 0.0),
        line.number("label_smoothing", "SHARE", "spread over all classes", 0.0, high=1.0),
        line.switch("augment", "shift training images, and mirror them unless digits", True),
        SEED,
        *RESUME_FLAGS,
    )


_DEFAULTS = DDQConfig()

# Each, like those of a recipe, is named after the field that it sets; but for per_tensor.
DDQ_FLAGS = (
    line.text(
        "budget",
        "SIZE",
        "for the weights: 0.6 or 60% (of their int8 bytes), 4.3bits (per weight), 48KiB, "
        "48000bytes, none, or auto: 60%, or the least that the target needs where that is more",
        AUTO,
    ),
    line.choice("target", TARGET_WORDS, tuple(TARGETS), _DEFAULTS.target),
    line.whole_numbers(
        "precisions", "4,8", "bits to learn over; by default those that the target stores"
    ),
    line.number(
        "search_fraction",
        "SHARE",
        "of the training after which the precisions are final",
        _DEFAULTS.search_fraction,
        high=1.0,
    ),
    line.choice(
        "levels", "of the weights: a fixed grid, or learned ones", LEVELS, _DEFAULTS.levels
    ),
    line.choice("level_init", "where free levels start", LEVEL_INITS, _DEFAULTS.level_init),
    line.number(
        "correction", "SHARE", "of the gradient correction of free levels", _DEFAULTS.correction
    ),
    line.switch(
        "narrow_range",
        "leave out the lowest code, as -8 of 4 bits, of a fixed grid",
        _DEFAULTS.narrow_range,
    ),
    line.switch("keep_zeros", "let weights that are 0, as of a pruned network, stay so"),
    line.switch("per_tensor", "one weight range per layer instead of one per channel"),
    line.whole_numbers(
        "activation_bits",
        "4|4,6,8",
        "of activations, or several to learn over; by default 8. Tensors without an exact integer "
        "form stay at 8",
    ),
    line.number("activation_budget", "BITS", "mean bits of the activations that learn theirs"),
    line.choice(
        "activation_calibration",
        "of the first ranges",
        CALIBRATIONS,
        _DEFAULTS.activation_calibration,
    ),
)
CODE_FLAGS = (
    line.switch("channel_precision", "a precision for each channel instead of each layer"),
    line.number("code_bits", "BITS", "limit of the mean bits of the codes, beside the budget"),
)
AID_FLAGS = (
    line.number(
        "distill", "SHARE", "of the float model's opinion in the loss", TUNE_DISTILL, high=1.0
    ),
    line.number("distill_temperature", "T", "softens both opinions", 4.0),
    line.number("dampening", "COEFFICIENT", "pulls weights to their levels", 0.0),
    line.number(
        "freeze_oscillations",
        "FREQUENCY",
        "holds weights that jump to and fro more often, such as 0.01; 0 for none",
        0.0,
        high=1.0,
    ),
    line.integer(
        "reestimate_batch_norm",
        "BATCHES",
        "measures BatchNorm's statistics anew at the end; 0 for not",
        0,
        low=0,
    ),
    line.number(
        "quantizer_learning_rate", "FACTOR", "of ranges and levels, beside the weights'", 1.0
    ),
)
SPLIT = line.choice("split", "which images", ("train", "val", "test"), "test")
TARGET = line.choice("target", f"{TARGET_WORDS}. By default the model's own", tuple(TARGETS))

RECONSTRUCTION_FLAGS = (
    line.integer("steps", "N", "by gradient for each block; 0 for none", 0, low=0),
    line.integer("views", "N", "how often each image is used, at random parts and mirrored", 4),
    line.number("drop", "SHARE", "of a block's inputs that are the float network's", 0.5, high=1.0),
    line.switch("equalize", "move scales between layers first; the float model stays", True),
    line.integer(
        "search_views",
        "N",
        "how often half of the images is looked at to learn precisions; 0 leaves the highest",
        3,
        low=0,
    ),
    line.integer("distill_steps", "N", "of the whole network at the end; 0 for none", 0, low=0),
    SEED,
)
