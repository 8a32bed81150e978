"""What kernels of the simulator take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import quantization, scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operand:
    """A tensor with its values.

    Attributes:
        tensor: its declaration.
        values: its codes, or real numbers where it is FLOAT32.
    """

    tensor: Tensor
    values: np.ndarray

    @property
    def scale(self) -> np.float32:
        """The scale, for tensors that have one."""
        return scale(self.tensor)

    @property
    def zero_point(self) -> int:
        """The code of 0."""
        return quantization(self.tensor).zero_point

    def centred(self) -> np.ndarray:
        """Returns the codes' distances from the zero point, int64."""
        return self.values.astype(np.int64) - self.zero_point


Kernel = Callable[[Op, Sequence[Operand], Tensor], np.ndarray]
"""Computes the values of an op's output from its inputs and the output's declaration."""


def refuse(op: Op, reason: str) -> DDQError:
    """Returns the error for an op whose exact rule is not known."""
    source = f" of layer {op.source!r}" if op.source else ""
    return DDQError(f"{op.kind}{source} writing {op.outputs[0]!r} cannot be simulated: {reason}")


def require_same_grid(op: Op, reads: Sequence[Operand], output: Tensor) -> None:
    """Raises unless inputs and output share scale and zero point."""
    grids = {(float(scale(t)), quantization(t).zero_point) for t in (output, *_tensors(reads))}
    if len(grids) > 1:
        raise refuse(op, f"inputs and output must share one grid. Received: {sorted(grids)}")


def _tensors(reads: Sequence[Operand]) -> list[Tensor]:
    return [operand.tensor for operand in reads]
