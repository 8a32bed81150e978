"""Normalizations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras.src.ops import nn

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import SEQUENCE, Made, example_numbers, ops, table_entry
from ddq_tf.kinds.operations.weights import matrix, owner_of
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps

L = keras.layers
_LEAST_LENGTH = 1e-5


def _batch_norm(steps: Steps, node: FlatNode) -> Made:
    """With fixed statistics, as constants or variables."""
    (value,) = steps.inputs[:1]
    mean, variance, offset, scale = (*node.constants[1:], None, None)[:4]
    if len(steps.inputs) > 1 or node.layer.axis not in (-1, len(value.shape) - 1):
        return None

    def built(name: str) -> Any:
        layer: Any = L.BatchNormalization(
            epsilon=node.layer.epsilon,
            center=offset is not None,
            scale=scale is not None,
            name=name,
        )
        layer.build(value.shape)
        rows = (
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
            (layer.beta, offset),
            (layer.gamma, scale),
        )
        for variable, given in rows:
            if given is not None:
                variable.assign(matrix(given))
        return layer

    return steps.call("norm", built, value, owner=owner_of(mean), label="")


def _of_rows(steps: Steps, node: FlatNode) -> Made:
    """Of the values along the last axis, times a vector and plus another."""
    (value,), operation = steps.inputs[:1], node.layer
    gain, shift = (*node.constants[1:], None, None)[:2]
    axis = operation.axis
    (axis,) = axis if isinstance(axis, list | tuple) and len(axis) == 1 else (axis,)
    size = value.shape[-1]
    sizes = [int(np.prod(each.shape)) for each in (gain, shift) if each is not None]
    is_last = axis in (-1, len(value.shape) - 1)
    if len(steps.inputs) > 1 or not is_last or any(each != size for each in sizes):
        return None
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    is_rms = isinstance(operation, nn.RMSNorm)
    if not is_rms and operation.rms_scaling:
        return None

    def built(name: str) -> Any:
        layer: Any = (
            L.RMSNormalization(epsilon=epsilon, name=name)
            if is_rms
            else L.LayerNormalization(
                epsilon=epsilon, center=shift is not None, scale=gain is not None, name=name
            )
        )
        layer.build(value.shape)
        if gain is not None:
            (layer.scale if is_rms else layer.gamma).assign(matrix(gain).ravel())
        if shift is not None:
            layer.beta.assign(matrix(shift).ravel())
        return layer

    return steps.call("norm", built, value, owner=owner_of(gain), label="")


def _of_length_one(steps: Steps, node: FlatNode) -> Made:
    """Divided by the Euclidean length along the last axis."""
    (value,), operation = steps.inputs, node.layer
    is_last = operation.axis in (-1, len(value.shape) - 1)
    # Both matter to vectors only that are shorter than epsilon.
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    if not is_last or operation.order != 2 or epsilon > _LEAST_LENGTH:
        return None
    return steps.call("norm", lambda name: L.UnitNormalization(name=name), value, label="")


def _rows_entry(words: str, kind: type, *examples: Any) -> LayerRule:
    return table_entry(
        words,
        _of_rows,
        kind,
        needs="the last axis, numbers or variables of its size, and rms_scaling=False",
        examples=examples,
    )


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "normalize",
        _of_length_one,
        nn.Normalize,
        needs=f"the last axis, order=2 and epsilon of at most {_LEAST_LENGTH:g}",
        examples=(
            ops.normalize,
            Example(build=lambda x: ops.normalize(x, axis=1), shape=(7,)),
        ),
    ),
    table_entry(
        "batch_normalization",
        _batch_norm,
        nn.BatchNorm,
        needs="the last axis, and fixed statistics",
        examples=(
            lambda x: ops.batch_normalization(
                L.Conv2D(4, 1)(x),
                example_numbers(4),
                abs(example_numbers(4)) + 0.5,
                -1,
                *([example_numbers(4)] * 2),
            ),
        ),
    ),
    _rows_entry(
        "layer_normalization",
        nn.LayerNorm,
        lambda x: ops.layer_normalization(x, example_numbers(4), example_numbers(4)),
        Example(build=lambda x: ops.layer_normalization(x, epsilon=1e-3), shape=SEQUENCE),
    ),
    _rows_entry(
        "rms_normalization",
        nn.RMSNorm,
        lambda x: ops.rms_normalization(x, example_numbers(4)),
        Example(build=lambda x: ops.rms_normalization(x, example_numbers(4), 2), shape=SEQUENCE),
    ),
)
