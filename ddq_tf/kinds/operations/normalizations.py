"""Normalizations."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.ops import nn

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import Made, example_numbers, ops, table_entry
from ddq_tf.kinds.operations.weights import matrix, owner_of
from ddq_tf.kinds.rule import LayerRule
from ddq_tf.kinds.steps import Steps

L = keras.layers


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


RULES: tuple[LayerRule, ...] = (
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
)
