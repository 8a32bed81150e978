"""Compiled passes over batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf import backend

Tensor = Any

_BATCH = 64


def batch_slices(count: int) -> list[slice]:
    """Returns the parts, of 64 at most, that `count` examples are passed in."""
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def in_batches(
    function: Callable[[Tensor], Tensor], variables: Sequence[Any], inputs: Any
) -> Tensor:
    """Returns a function's outputs for all inputs, computed in batches of 64.

    Args:
        function: of a batch.
        variables: that it reads.
        inputs: an array or tensor (examples, ...).
    """
    run = traced(function, variables, inputs)
    parts = [run(ops.convert_to_tensor(inputs[part])) for part in batch_slices(len(inputs))]
    return ops.concatenate(parts, axis=0)


def traced(
    function: Callable[[Tensor], Any], variables: Sequence[Any], inputs: Any
) -> Callable[[Tensor], Any]:
    """Returns a function of the batches of some inputs, traced now.

    Args:
        function: of a batch.
        variables: that it reads.
        inputs: an array or tensor (examples, ...).
    """
    sizes = {min(_BATCH, len(inputs)), len(inputs) % _BATCH} - {0}
    like = [(np.zeros((size, *inputs.shape[1:]), np.float32),) for size in sizes]
    return backend.traced(function, variables, like)
