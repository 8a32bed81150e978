"""Convolutions."""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras.src.ops import nn

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    A_KERNEL,
    SEQUENCE,
    Made,
    example_numbers,
    is_channels_last,
    ops,
    pairs,
    table_entry,
)
from ddq_tf.kinds.operations.weights import kernel_at, weighted
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value

L = keras.layers


def _window(node: FlatNode, rank: int) -> dict[str, Any]:
    operation = node.layer
    return {
        "strides": pairs(operation.strides, rank),
        "padding": operation.padding,
        "dilation_rate": pairs(operation.dilation_rate, rank),
        "use_bias": False,
    }


def _convolution(steps: Steps, node: FlatNode, *, transposed: bool = False) -> Made:
    rank = len(node.shapes[0]) - 2
    kernel = kernel_at(node, 1, rank + 2)
    if rank not in (1, 2) or kernel is None or not is_channels_last(node):
        return None
    *size, inner, filters = (int(n) for n in kernel.shape)
    kind, options = getattr(L, f"Conv{rank}D"), _window(node, rank)
    if transposed:
        kind, filters = getattr(L, f"Conv{rank}DTranspose"), inner
        options["output_padding"] = node.layer.output_padding
    return weighted(
        steps, steps.inputs[0], lambda name: kind(filters, size, name=name, **options), kernel
    )


def _depthwise(steps: Steps, node: FlatNode, value: Value, kernel: Any, role: str = "") -> Value:
    rank = len(value.shape) - 2
    *size, _, multiplier = (int(n) for n in kernel.shape)
    kind, options = getattr(L, f"DepthwiseConv{rank}D"), _window(node, rank)
    if rank == 1:
        options["strides"], options["dilation_rate"] = (
            options["strides"][0],
            options["dilation_rate"][0],
        )
    return weighted(
        steps,
        value,
        lambda name: kind(size, depth_multiplier=multiplier, name=name, **options),
        kernel,
        role,
    )


def _depthwise_convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    kernel = kernel_at(node, 1, rank + 2)
    if rank not in (1, 2) or kernel is None or not is_channels_last(node):
        return None
    return _depthwise(steps, node, steps.inputs[0], kernel)


def _separable_convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    first, second = kernel_at(node, 1, rank + 2), kernel_at(node, 2, rank + 2)
    if rank not in (1, 2) or first is None or second is None or not is_channels_last(node):
        return None
    value = _depthwise(steps, node, steps.inputs[0], first, "depthwise")
    kind, filters = getattr(L, f"Conv{rank}D"), int(second.shape[-1])
    return weighted(steps, value, lambda name: kind(filters, 1, use_bias=False, name=name), second)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "conv",
        _convolution,
        nn.Conv,
        needs=A_KERNEL,
        examples=(
            lambda x: ops.conv(x, example_numbers(3, 3, 4, 6), 2, "same"),
            Example(build=lambda x: ops.conv(x, example_numbers(3, 4, 6)), shape=SEQUENCE),
        ),
    ),
    table_entry(
        "depthwise_conv",
        _depthwise_convolution,
        nn.DepthwiseConv,
        needs=A_KERNEL,
        examples=(
            lambda x: ops.depthwise_conv(x, example_numbers(3, 3, 4, 2), padding="same"),
            Example(
                build=lambda x: ops.depthwise_conv(x, example_numbers(3, 4, 1)), shape=SEQUENCE
            ),
        ),
    ),
    table_entry(
        "separable_conv",
        _separable_convolution,
        nn.SeparableConv,
        needs=A_KERNEL,
        examples=(
            lambda x: ops.separable_conv(
                x, example_numbers(3, 3, 4, 1), example_numbers(1, 1, 4, 5)
            ),
        ),
    ),
    table_entry(
        "conv_transpose",
        functools.partial(_convolution, transposed=True),
        nn.ConvTranspose,
        needs=A_KERNEL,
        # Keras 3.15 fails to run the operation where it is a node of its own.
        examples=(
            lambda x: L.Lambda(
                lambda t: ops.conv_transpose(t, example_numbers(3, 3, 6, 4), 2, "same")
            )(x),
        ),
    ),
)
