"""Pooling."""

from __future__ import annotations

import keras
from keras.src.ops import nn

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    SEQUENCE,
    Made,
    Make,
    is_channels_last,
    ops,
    pairs,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps

L = keras.layers


def _pool(kind: str) -> Make:
    def make(steps: Steps, node: FlatNode) -> Made:
        rank, operation = len(node.shapes[0]) - 2, node.layer
        if rank not in (1, 2) or not is_channels_last(node):
            return None
        size = pairs(operation.pool_size, rank)
        strides = size if operation.strides is None else pairs(operation.strides, rank)
        layer = getattr(L, f"{kind}Pooling{rank}D")
        return steps.call(
            "",
            lambda name: layer(
                size if rank == 2 else size[0],
                strides if rank == 2 else strides[0],
                operation.padding,
                name=name,
            ),
            steps.inputs[0],
        )

    return make


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "max_pool",
        _pool("Max"),
        nn.MaxPool,
        needs="images or sequences, channels last",
        examples=(
            lambda x: ops.max_pool(x, 3, 2, "same"),
            Example(build=lambda x: ops.max_pool(x, 2), shape=SEQUENCE),
        ),
    ),
    table_entry(
        "average_pool",
        _pool("Average"),
        nn.AveragePool,
        needs="images or sequences, channels last",
        examples=(
            lambda x: ops.average_pool(x, 2),
            Example(build=lambda x: ops.average_pool(x, 3, 2, "same"), shape=SEQUENCE),
        ),
    ),
)
