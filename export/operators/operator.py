"""What the exporter knows of one TFLite operator: the record that each family fills in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.export.operators.operand import Kernel
from ddq_tf.targets import OpKind
from ddq_tf.xnnpack import Ratios

Version = Callable[[Op, Mapping[str, Tensor]], int]
FloatKernel = Callable[[Op, Sequence[np.ndarray]], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requantization:
    """What a kernel multiplies with to reach the grid of its output.

    Attributes:
        name: of the number, in words: "input scale / output scale".
        values: float32, as XNNPACK computes it; one per channel where there are several.
        taken: those that XNNPACK takes.
    """

    name: str
    values: np.ndarray
    taken: Ratios


def no_requantizations(op: Op, tensors: Mapping[str, Tensor]) -> Iterable[Requantization]:
    """The rule of operators that take every scale."""
    del op, tensors
    return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of TFLite. All functions get ops with all their attributes; see `completed`.

    Attributes:
        kind: its name, for example "CONV_2D".
        kernel: what it computes, exactly; None where `unknown` says why.
        unknown: why there is no kernel.
        floats: what it computes where it reads and writes FLOAT32, from its inputs' values.
        options: the name of its options table in TFLite's schema, or None if it has none.
        attrs: its attributes with their defaults, under the schema's names in snake case.
        version: the lowest operator version that has the features an op uses; a runtime refuses
            versions that it does not know, so higher than needed locks out old ones. The rules are
            those of LiteRT's tflite/tools/versioning/op_version.cc.
        image: which input is the activation that it reads first.
        weights: how targets class an op whose input 1 is a weight; None for other operators.
        changes_type: whether it may read or write other activations than INT8.
        keeps_grid: whether it moves, picks or rounds values on the grid that all its inputs and its
            output share, whatever the scale.
        constants: for operators with scales of their own on every side, the numbers that the kernel
            computes with, from the scales of inputs and output. Other scales are as good if these
            numbers stay.
        requantizations: what the kernel multiplies with, from the op and all tensors, where
            XNNPACK takes only some of it.
    """

    kind: str
    kernel: Kernel | None = None
    unknown: str = ""
    floats: FloatKernel | None = None
    options: str | None = None
    attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    version: Version
    image: int = 0
    weights: Callable[[Op], OpKind] | None = None
    changes_type: bool = False
    keeps_grid: bool = False
    constants: Callable[[Sequence[np.float32], np.float32], object] | None = None
    requantizations: Callable[[Op, Mapping[str, Tensor]], Iterable[Requantization]] = (
        no_requantizations
    )

    @property
    def needs_scales(self) -> bool:
        """Whether its kernel computes with the scales of its tensors."""
        multiplies = self.requantizations is not no_requantizations
        return self.weights is not None or self.constants is not None or multiplies


FUSED: Mapping[str, Any] = {"fused_activation_function": "NONE"}
WINDOW: Mapping[str, Any] = {"padding": "VALID", "stride_h": 1, "stride_w": 1, **FUSED}


def always(number: int) -> Version:
    """The version rule of operators with one version for all that this package writes."""
    return lambda op, tensors: number


def by_dtype(numbers: Mapping[DType, int]) -> Version:
    """A version rule by the first input's type; 1 for types not named."""
    return lambda op, tensors: numbers.get(tensors[op.inputs[0]].dtype, 1)


int8_is_2 = by_dtype({DType.INT8: 2})
eight_bit_is_2 = by_dtype({DType.INT8: 2, DType.UINT8: 2})
