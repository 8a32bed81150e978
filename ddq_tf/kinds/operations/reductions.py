"""Means, maxima and sums along axes."""

from __future__ import annotations

import math

import keras
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    AXES,
    SEQUENCE,
    Made,
    axes_of,
    is_known,
    ops,
    rescaled,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value

L = keras.layers


def _reduced(steps: Steps, node: FlatNode, kind: str, role: str = "") -> Value | None:
    """The mean or the maximum over any axes but the batch, as global pooling of an image."""
    (value,) = steps.inputs
    rank = len(value.shape)
    axes = axes_of(node.layer.axis, rank)
    if 0 in axes or not axes:
        return None
    keepdims = bool(node.layer.keepdims)
    if rank in (3, 4) and axes == tuple(range(1, rank - 1)):
        layer = getattr(L, f"Global{kind}Pooling{rank - 2}D")
        return steps.call(role, lambda name: layer(keepdims=keepdims, name=name), value)
    if not is_known(value.shape):
        return None
    kept = tuple(axis for axis in range(1, rank) if axis not in axes)
    sizes = [size or 1 for size in value.shape]
    value = steps.permuted("permute", value, (*axes, *kept))
    folded = (math.prod(sizes[a] for a in axes), 1, math.prod(sizes[a] for a in kept))
    value = steps.reshaped("image", value, folded)
    layer = getattr(L, f"Global{kind}Pooling2D")
    value = steps.call("pool", lambda name: layer(name=name), value)
    target = [1 if axis in axes else sizes[axis] for axis in range(1, rank)]
    if not keepdims:
        target = [sizes[axis] for axis in kept]
    return steps.reshaped(role, value, tuple(target)) if target else None


def _mean(steps: Steps, node: FlatNode) -> Made:
    return _reduced(steps, node, "Average")


def _max(steps: Steps, node: FlatNode) -> Made:
    return None if getattr(node.layer, "initial", None) else _reduced(steps, node, "Max")


def _sum(steps: Steps, node: FlatNode) -> Made:
    """The mean, times their number."""
    mean = _reduced(steps, node, "Average", "mean")
    if mean is None or not is_known(node.shapes[0]):
        return None
    sizes = [node.shapes[0][axis] or 1 for axis in axes_of(node.layer.axis, len(node.shapes[0]))]
    return rescaled(steps, mean, float(math.prod(sizes)), 0.0)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "mean",
        _mean,
        op.Mean,
        needs=AXES,
        examples=(
            lambda x: ops.mean(x, (1, 2)),
            lambda x: ops.mean(x, (-3, -2), keepdims=True),
            lambda x: ops.mean(x, -1, keepdims=True),
            lambda x: ops.mean(x, 1),
            Example(build=lambda x: ops.mean(x, 1), shape=SEQUENCE),
            Example(build=lambda x: ops.mean(x, -1, keepdims=True), shape=SEQUENCE),
        ),
    ),
    table_entry(
        "max, amax",
        _max,
        op.Max,
        op.Amax,
        needs=AXES,
        examples=(
            lambda x: ops.max(x, (1, 2)),
            lambda x: ops.max(x, -1, keepdims=True),
            lambda x: ops.amax(x, 2),
        ),
    ),
    table_entry(
        "sum",
        _sum,
        op.Sum,
        needs=AXES,
        examples=(lambda x: ops.sum(x, (1, 2)), lambda x: ops.sum(x, -1, keepdims=True)),
    ),
)
