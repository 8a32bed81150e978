"""What can be told of a float model before it is quantized, without data."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """What stands in the way of quantization, at one or more layers alike.

    Attributes:
        kind: the class of the layers; "" for inputs or the model as a whole.
        layers: their names.
        words: what was required, what was received by the first of them, and the cure.
    """

    kind: str
    layers: tuple[str, ...]
    words: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeAt:
    """What the weights take where every layer has this precision, or the next that it can have.

    Attributes:
        bits: of a weight.
        num_layers: how many layers can have it.
        weights_bytes: of all quantized weights, as the budget counts them.
        file_bytes: of the file, within about a tenth; None if no draft of it could be made.
    """

    bits: int
    num_layers: int
    weights_bytes: int
    file_bytes: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionLimit:
    """Layers that cannot have the lowest precision of the target.

    Attributes:
        kind: of their operators.
        bits: the fewest that they can have.
        reason: why not fewer.
        layers: their names.
        num_weights: of them together.
    """

    kind: str
    bits: int
    reason: str
    layers: tuple[str, ...]
    num_weights: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output.

    Attributes:
        name: of it.
        shape: with the batch, which may have any size, as None.
        words: of an output: logits, or which probabilities; "" where that is not known.
    """

    name: str
    shape: tuple[int | None, ...]
    words: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draft:
    """What a file of uncalibrated weights of 8 bits shows, as the runtime sees it.

    Attributes:
        rest_bytes: of the file, beside weights; hardly depends on their precision.
        total_ops: how many operators it has.
        partitions: how many parts XNNPACK takes; None for another runtime.
        undelegated: how many operators of each kind run in built-in kernels.
        slow_when_narrow: layers that leave XNNPACK below 8 bits.
    """

    rest_bytes: int
    total_ops: int
    partitions: int | None
    undelegated: dict[str, int]
    slow_when_narrow: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What `ddq quantize` takes on this machine, estimated from shapes (`ddq_tf.jobs.doctor.cost`).

    Attributes:
        batch_size: examples in a step.
        peak_mib: of resident memory in MiB, without the data.
        step_s: seconds of a training step.
        first_step_s: seconds that the first step takes longer.
    """

    batch_size: int
    peak_mib: float
    step_s: float
    first_step_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTimes:
    """How long training takes on this machine, measured.

    Attributes:
        batch_size: examples in a step.
        float_s: seconds of one training step of the float model.
        ddq_s: the same of the DDQ model, without the distillation of `ddq quantize`.
    """

    batch_size: int
    float_s: float
    ddq_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizable:
    """What quantization would make of a model.

    Attributes:
        kinds: how many layers of each kind of operator are quantized.
        macs: multiplications of one example, in convolutions and dense layers.
        folded: how many BatchNormalizations become part of the layer before them.
        rewritten: layers that are made of others first: from their class to these.
        num_weights: that are quantized.
        sizes: at several precisions.
        least_bytes: the smallest budget.
        auto_bytes: what the budget "auto" means.
        elsewhere: by name of another target, the least that the weights take in its files.
        limits: which layers keep more bits than others.
        draft: what a file shows; None if none could be made.
        no_draft: why not; "" if there is one.
        cost: of the training; None for inputs of any size.
        times: of training steps; None if not measured.
    """

    kinds: dict[str, int]
    macs: int
    folded: int
    rewritten: dict[str, str]
    num_weights: int
    sizes: tuple[SizeAt, ...]
    least_bytes: int
    auto_bytes: int
    elsewhere: dict[str, int]
    limits: tuple[PrecisionLimit, ...]
    draft: Draft | None
    no_draft: str
    cost: TrainingCost | None
    times: StepTimes | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What can be told of a float model without data.

    Attributes:
        name: of the model.
        file: that holds it; "" for a model in memory.
        target: where its file will run.
        num_params: of the model.
        troubles: what stands in the way; () if it can be quantized.
        nested: models within the model; they are flattened.
        frozen: layers with a kernel that do not train.
        shared: layers that are called more than once, which keep one kernel.
        operations: how many operations outside layers there are of each kind.
        inputs: of the model.
        outputs: likewise.
        input_range: what pixels 0 and 255 become, each a number or one for each channel; None
            where that is not known.
        channels: their order; "" where that is not known.
        range_from: who says so, or what to do; "" of a model that takes no image.
        quantized: what quantization would make of it; None if it cannot be.
        commands: what to type next.
    """

    name: str
    file: str = ""
    target: str
    num_params: int
    troubles: tuple[Trouble, ...]
    nested: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    operations: dict[str, int] = dataclasses.field(default_factory=dict)
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    input_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    channels: str = ""
    range_from: str = ""
    quantized: Quantizable | None = None
    commands: tuple[str, ...]

    @property
    def can_be_quantized(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.troubles
