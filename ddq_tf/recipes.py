"""How long and how fast models learn, as frozen, validated dataclasses (stdlib only)."""

from __future__ import annotations

import dataclasses

from ddq_tf.arguments import check_types, setting

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train a classifier.

    Attributes:
        epochs: passes over the training images, in all, resumed ones included.
        batch_size: images per step; for those who make the batches.
        learning_rate: the highest, reached at the end of the warm-up.
        warmup_fraction: share of all steps in which the learning rate rises linearly from 0.
        schedule: how the learning rate goes on: "cosine" falls to 0 at the last step.
        optimizer: how weights are updated; "sgd" has a Nesterov momentum of 0.9.
        weight_decay: decoupled, times the learning rate, on kernels only; 0 for none.
        label_smoothing: probability spread over all classes.
        seed: of everything random: Python, NumPy and the backend.
        distill: share of the float model's opinion in the loss; see
            `ddq_tf.training.Distillation`.
        distill_temperature: softens both opinions; see `ddq_tf.training.Distillation`.
        dampening: coefficient that pulls weights to their levels, 0 for none; DDQ models only; see
            `ddq_tf.training.OscillationDampening`.
        freeze_oscillations: holds weights that jump to and fro more often, such as 0.01; 0 for
            none; DDQ models only; see `ddq_tf.training.OscillationFreezing`.
        reestimate_batch_norm: batches on which BatchNorm's statistics are measured anew at the
            end, 0 for not; see `ddq_tf.training.BatchNormReestimation`.
        quantizer_learning_rate: of ranges and levels, beside the weights'; see
            `ddq_tf.training.QuantizerLearningRate`.
    """

    epochs: int = setting(10, within="[1, inf)")
    batch_size: int = setting(128, within="[1, inf)")
    learning_rate: float = setting(0.1, within="(0, inf)", shown="RATE")
    warmup_fraction: float = setting(0.05, within="[0, 1)", shown="SHARE")
    schedule: str = setting("cosine", choices=SCHEDULES)
    optimizer: str = setting("sgd", choices=OPTIMIZERS)
    weight_decay: float = setting(0.0, within="[0, inf)", shown="RATE")
    label_smoothing: float = setting(0.0, within="[0, 1)", shown="SHARE")
    seed: int = setting(0, within="[0, inf)")
    distill: float = setting(0.0, within="[0, 1]", shown="SHARE")
    distill_temperature: float = setting(4.0, within="(0, inf)", shown="T")
    dampening: float = setting(0.0, within="[0, inf)", shown="COEFFICIENT")
    freeze_oscillations: float = setting(0.0, within="[0, 1)", shown="FREQUENCY")
    reestimate_batch_norm: int = setting(0, within="[0, inf)", shown="BATCHES")
    quantizer_learning_rate: float = setting(1.0, within="[0, inf)", shown="FACTOR")

    def __post_init__(self) -> None:
        check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """How long and how fast a DDQ model learns from unlabeled inputs.

    Attributes:
        steps: by gradient for each block, after its kernels' closed form; 0 for none. They fit the
            given inputs better; others gained nothing from it at 4 bits where that was measured.
        batch_size: inputs per step.
        views: how often each input is used: once as it is, then at random places and scales, and
            mirrored; more than 1 for images only.
        drop: share of a block's input values that come from the float network.
        kernel_rate: highest step of a kernel value, in distances of two levels of its channel.
        range_rate: highest step of ranges and levels, relative.
        norm_rate: highest step of BatchNorm's gamma and beta and of biases, relative; see
            `ddq_tf.reconstruction.optimizer.units_of`.
        equalize: whether channels change their scales first, so that rows of kernels become alike;
            the float network stays the same.
        search_views: how often half of the inputs is looked at to learn the precisions; 0 leaves
            every layer at its highest.
        distill_steps: of the whole network at the end, 0 for none. It fits the given inputs better;
            others gained nothing from it where that was measured.
        whole_batch_size: inputs per step where the whole network learns.
        whole_rate: factor of all steps of the distillation.
        seed: of everything random.
    """

    steps: int = setting(0, within="[0, inf)")
    batch_size: int = setting(32, within="[1, inf)")
    views: int = setting(4, within="[1, inf)")
    drop: float = setting(0.5, within="[0, 1]", shown="SHARE")
    kernel_rate: float = setting(0.02, within="[0, inf)", shown="RATE")
    range_rate: float = setting(0.003, within="[0, inf)", shown="RATE")
    norm_rate: float = setting(0.003, within="[0, inf)", shown="RATE")
    equalize: bool = True
    search_views: int = setting(3, within="[0, inf)")
    distill_steps: int = setting(0, within="[0, inf)")
    whole_batch_size: int = setting(16, within="[1, inf)")
    whole_rate: float = setting(0.1, within="[0, inf)", shown="FACTOR")
    seed: int = setting(0, within="[0, inf)")

    def __post_init__(self) -> None:
        check_types(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a command trains unless told otherwise (docs/recipes.md).

    Attributes:
        settings: with the learning rate of their optimizer.
        rates: the highest learning rate that suits each optimizer.
    """

    settings: TrainConfig
    rates: dict[str, float]


def _recipe(rates: dict[str, float], settings: TrainConfig) -> Recipe:
    rate = rates[settings.optimizer]
    return Recipe(settings=dataclasses.replace(settings, learning_rate=rate), rates=rates)


FLOAT_RECIPE = _recipe({"sgd": 0.1, "adam": 0.003, "adamw": 0.003}, TrainConfig(epochs=20))
DDQ_RECIPE = _recipe(
    {"sgd": 0.02, "adam": 0.001, "adamw": 0.001}, TrainConfig(epochs=15, distill=0.5)
)
