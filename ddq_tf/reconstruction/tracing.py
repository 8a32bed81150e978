"""Compiled passes over batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_BATCH = 64


def batch_slices(count: int) -> list[slice]:
    """Returns the parts, of 64 at most, that `count` examples are passed in."""
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def in_batches(function: Callable[[tf.Tensor], tf.Tensor], inputs: Any) -> tf.Tensor:
    """Returns a function's outputs for all inputs, computed in batches of 64.

    Args:
        function: of a batch.
        inputs: an array or tensor (examples, ...).
    """
    run = traced(function, inputs)
    return tf.concat([run(tf.constant(inputs[part])) for part in batch_slices(len(inputs))], axis=0)


def traced(function: Callable[[tf.Tensor], Any], inputs: Any) -> Callable[[tf.Tensor], Any]:
    """Returns a function of batches, traced now.

    A tf.function for each block would draw TensorFlow's warning of too much retracing.

    Args:
        function: of a batch.
        inputs: an array or tensor (examples, ...) like the batches to come.
    """
    spec = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
    return tf.function(function).get_concrete_function(spec)
