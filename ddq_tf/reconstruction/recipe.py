"""How reconstruction trains."""

from __future__ import annotations

import dataclasses

from ddq_tf.arguments import check_fields, check_types


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """How long and how fast a DDQ model learns from unlabeled inputs.

    Attributes:
        steps: by gradient for each block, after its kernels' closed form; 0 for none. They fit the
            given inputs better; others gained nothing from it at 4 bits where that was measured.
        batch_size: inputs per step.
        views: how often each input is used: once as it is, then at random places and scales, and
            mirrored; more than 1 for images only.
        drop: share of a block's input values that come from the float network, in [0, 1].
        kernel_rate: highest step of a kernel value, in distances of two levels of its channel.
        range_rate: highest step of ranges and levels, relative.
        norm_rate: highest step of BatchNorm's gamma and beta and of biases, relative; see
            `units_of`.
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

    steps: int = 0
    batch_size: int = 32
    views: int = 4
    drop: float = 0.5
    kernel_rate: float = 0.02
    range_rate: float = 0.003
    norm_rate: float = 0.003
    equalize: bool = True
    search_views: int = 3
    distill_steps: int = 0
    whole_batch_size: int = 16
    whole_rate: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_fields(self, "[1, inf)", "batch_size", "views", "whole_batch_size")
        check_fields(self, "[0, inf)", "steps", "search_views", "distill_steps", "seed")
        check_fields(self, "[0, inf)", "kernel_rate", "range_rate", "norm_rate", "whole_rate")
        check_fields(self, "[0, 1]", "drop")
