"""Images of another size."""

from __future__ import annotations

import keras
from keras.src.ops import image
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    SEQUENCE,
    Made,
    is_channels_last,
    ops,
    table_entry,
)
from ddq_tf.kinds.pooling import resized
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps

L = keras.layers


def _repeat(steps: Steps, node: FlatNode) -> Made:
    (value,), times = steps.inputs, node.layer.repeats
    rank, axis = len(value.shape), node.layer.axis
    if not isinstance(times, int) or axis is None or rank not in (3, 4):
        return None
    axis %= rank
    if axis in (0, rank - 1):
        return None
    if rank == 3:
        return steps.call("", lambda name: L.UpSampling1D(times, name=name), value)
    size = (times, 1) if axis == 1 else (1, times)
    return steps.call("", lambda name: L.UpSampling2D(size, name=name), value)


def _resize(steps: Steps, node: FlatNode) -> Made:
    operation = node.layer
    if operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio:
        return None
    if not is_channels_last(node):
        return None
    return resized(
        steps,
        steps.inputs[0],
        operation.size,
        operation.interpolation,
        antialias=operation.antialias,
    )


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "repeat",
        _repeat,
        op.Repeat,
        needs="a number, and an axis between batch and channels, of images or sequences",
        examples=(
            lambda x: ops.repeat(x, 2, 2),
            Example(build=lambda x: ops.repeat(x, 2, 1), shape=SEQUENCE),
        ),
    ),
    table_entry(
        "image.resize",
        _resize,
        image.Resize,
        needs="images of a fixed size, channels last, and no cropping and padding",
        examples=(
            lambda x: ops.image.resize(x, (16, 8)),
            lambda x: ops.image.resize(x, (24, 16), interpolation="nearest"),
            lambda x: ops.image.resize(x, (12, 4)),
        ),
    ),
)
