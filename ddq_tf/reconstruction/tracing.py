"""Compiled passes over examples, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf import backend
from ddq_tf.graph.inputs import as_array
from ddq_tf.reconstruction.streams import Values

Tensor = Any


def batch_slices(count: int, batch: int) -> list[slice]:
    """Returns the parts that `count` examples are passed in.

    Args:
        count: of examples.
        batch: how many go into a part at most.
    """
    return [slice(start, min(start + batch, count)) for start in range(0, count, batch)]


def in_batches(
    function: Callable[[Tensor], Tensor],
    variables: Sequence[Any],
    inputs: Values,
    count: int,
    batch: int,
) -> Iterator[np.ndarray]:
    """Returns a function's outputs for the first inputs, batch by batch; it is traced now.

    Args:
        function: of a batch.
        variables: that it reads.
        inputs: (examples, ...).
        count: of the inputs.
        batch: how many examples are computed at once.
    """
    run = traced(function, variables, inputs.shape[1:], [count], batch)
    return (
        as_array(run(ops.convert_to_tensor(inputs[part]))) for part in batch_slices(count, batch)
    )


def traced(
    function: Callable[[Tensor], Any],
    variables: Sequence[Any],
    shape: Sequence[int],
    counts: Iterable[int],
    batch: int,
) -> Callable[[Tensor], Any]:
    """Returns a function of the batches of some inputs, traced now.

    Args:
        function: of a batch.
        variables: that it reads.
        shape: of one input.
        counts: how many inputs it will be computed for, each time that it is.
        batch: how many examples are computed at once.
    """
    sizes = {part.stop - part.start for count in counts for part in batch_slices(count, batch)}
    like = [(np.zeros((size, *shape), np.float32),) for size in sorted(sizes, reverse=True)]
    return backend.traced(function, variables, like)
