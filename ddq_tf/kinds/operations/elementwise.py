"""Sums and products of two tensors, or of one and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import nn
from keras.src.ops import numpy as op

from ddq_tf.graph import MOST_MASKED, FlatNode, numbers
from ddq_tf.graph.flat_graph import Shape
from ddq_tf.kinds.operations.entry import (
    A_TENSOR,
    SEQUENCE,
    TWO,
    Made,
    Make,
    example_numbers,
    is_known,
    only_number,
    ops,
    rescaled,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQConstant, DDQMask, DDQRescaling

L = keras.layers


Affine = tuple[Any, Any]


def _pair(kind: type | None, affine: Callable[[Any, int], Affine | None]) -> Make:
    """The case of an operator between two tensors, or a tensor and numbers.

    Args:
        kind: the layer for two tensors; None if there is none.
        affine: (gain, shift) for a number, or one for each channel, and the place at which it
            stands; None if there is no such.
    """

    def make(steps: Steps, node: FlatNode) -> Made:
        if len(steps.inputs) == 2:
            return _of_two(steps, kind)
        given = [(i, c) for i, c in enumerate(node.constants) if c is not None]
        if len(steps.inputs) != 1 or len(given) != 1:
            return None
        place, numbers = given[0][0], _for_channels(given[0][1], node.shapes[0])
        found = None if numbers is None else affine(numbers, place)
        return None if found is None else rescaled(steps, steps.inputs[0], *found)

    return make


def _of_two(steps: Steps, kind: Any) -> Made:
    return kind and steps.call("", lambda name: kind(name=name), *steps.inputs)


def _for_channels(given: Any, shape: Shape) -> np.ndarray | None:
    """A number, or one for each channel, from what broadcasts so; None for anything else."""
    try:
        values = np.asarray(keras.ops.convert_to_numpy(given), np.float64)
    except (TypeError, ValueError):
        return None
    if values.size == 1 and values.ndim <= len(shape):
        return values.reshape(())
    fits = values.ndim <= len(shape) and values.shape[-1:] == (shape[-1],)
    return values.ravel() if fits and values.size == shape[-1] else None


def _divided(numbers: np.ndarray, place: int) -> Affine | None:
    """By numbers; a number by x has no integer form."""
    return (1 / numbers, 0.0) if place and numbers.all() else None


def _negated(steps: Steps, node: FlatNode) -> Made:
    return rescaled(steps, steps.inputs[0], -1.0, 0.0)


def _squared(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    return steps.call("", lambda name: L.Multiply(name=name), value, value)


def _power(steps: Steps, node: FlatNode) -> Made:
    is_square = only_number(node) == 2 and node.constants[0] is None
    return _squared(steps, node) if is_square else None


def largest(steps: Steps, values: Sequence[Value], role: str = "") -> Value | None:
    """Returns the element-wise maximum of tensors of one shape: as rows of an image, pooled.

    They share a grid, as the inputs of a Concatenate do, so nothing is rounded.
    """
    shape = values[0].shape
    if any(value.shape != shape for value in values) or not is_known(shape):
        return None
    size = math.prod(shape[1:])  # type: ignore[arg-type]
    rows = [
        steps.reshaped(f"{role}row_{number}", value, (1, 1, size))
        for number, value in enumerate(values)
    ]
    joined = steps.call(f"{role}rows", lambda name: L.Concatenate(1, name=name), *rows)
    pooled = steps.call(f"{role}max", lambda name: L.GlobalMaxPooling2D(name=name), joined)
    return steps.reshaped(role, pooled, shape[1:])


def smallest(steps: Steps, values: Sequence[Value]) -> Value | None:
    """Returns the element-wise minimum of tensors of one shape: -max(-a, -b)."""
    minus = [
        rescaled(steps, value, -1.0, 0.0, f"minus_{number}") for number, value in enumerate(values)
    ]
    found = largest(steps, minus, "of_minus")
    return None if found is None else rescaled(steps, found, -1.0, 0.0)


def _maximum(steps: Steps, node: FlatNode) -> Made:
    """Of a number k: relu(x - k) + k. Below 0 the difference of like numbers would be left."""
    if len(steps.inputs) == 2:
        return largest(steps, steps.inputs)
    number = only_number(node)
    if number is None or number < 0:
        return None
    (value,) = steps.inputs
    value = rescaled(steps, value, 1.0, -number, "above") if number else value
    value = steps.call("relu" if number else "", lambda name: L.ReLU(name=name), value)
    return rescaled(steps, value, 1.0, number) if number else value


def _minimum(steps: Steps, node: FlatNode) -> Made:
    """Of a number: the ceiling of the ReLU before it."""
    if len(steps.inputs) == 2:
        return smallest(steps, steps.inputs)
    number = only_number(node)
    if number is None or number <= 0 or not steps.is_behind(_RELUS):
        return None
    return steps.call("", lambda name: L.ReLU(number, name=name), steps.inputs[0])


def _chosen(steps: Steps, node: FlatNode) -> Made:
    """By a mask that does not vary: x, or what a softmax does not see, or 0."""
    condition, *others = (*node.constants, None, None)[:3]
    mask = None if condition is None else numbers(condition, None, len(node.shapes[0]))
    if mask is None:
        return None
    if len(steps.inputs) == 2 and others == [None, None]:
        return _lowered(steps, mask.values > 0.5)
    if len(steps.inputs) != 1 or others.count(None) != 1:
        return None
    (value,) = steps.inputs
    other = next(each for each in others if each is not None)
    if np.ndim(other):
        return None
    kept = (mask.values > 0.5) == (others[0] is None)
    if float(other) <= MOST_MASKED:
        return steps.call("", lambda name: DDQMask.keeping(kept, name), value)
    if other:
        return None
    held = steps.call("mask", lambda name: DDQConstant.holding(kept, name, trainable=False), value)
    return steps.call("", lambda name: L.Multiply(name=name), value, held)


def _lowered(steps: Steps, first: np.ndarray) -> Value | None:
    """Of x and x less a large number, chosen by a mask, as Keras's Attention does."""
    for place, other in ((0, 1), (1, 0)):
        low, value = steps.inputs[place], steps.inputs[other]
        before = steps.writer(low)
        if before is None or not isinstance(before.layer, DDQRescaling):
            continue
        by = before.layer.get_config()
        is_lower = by["gain"] == [1.0] and max(by["shift"]) <= MOST_MASKED
        if is_lower and before.inputs == (value.tensor,):
            kept = first if place else ~first
            return steps.call("", lambda name, kept=kept: DDQMask.keeping(kept, name), value)
    return None


_RELUS = (nn.Relu, nn.Relu6, L.ReLU)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "add (`+`)",
        _pair(L.Add, lambda c, _: (1.0, c)),
        op.Add,
        needs=TWO,
        examples=(
            lambda x: x + 0.5,
            lambda x: x + x,
            lambda x: x + np.array([[[[1, 2, 3, 4]]]], np.float32),
        ),
    ),
    table_entry(
        "subtract (`-`)",
        _pair(L.Subtract, lambda c, place: (1.0, -c) if place else (-1.0, c)),
        op.Subtract,
        needs=TWO,
        examples=(
            lambda x: 1.0 - x,
            lambda x: x - 0.5,
            lambda x: x - np.array([1, 2, 3, 4], np.float32),
        ),
    ),
    table_entry(
        "multiply (`*`)",
        _pair(L.Multiply, lambda c, _: (c, 0.0)),
        op.Multiply,
        needs=TWO,
        examples=(lambda x: x * 0.3, lambda x: x * x),
    ),
    table_entry(
        "divide (`/`) by numbers",
        _pair(None, _divided),
        op.TrueDivide,
        op.Divide,
        needs=TWO,
        examples=(
            lambda x: x / 3.0,
            lambda x: ops.divide(x, np.array([1, 2, 3, 4], np.float32)),
        ),
    ),
    table_entry("negative", _negated, op.Negative, needs=A_TENSOR, examples=(lambda x: -x,)),
    table_entry("square", _squared, op.Square, needs=A_TENSOR, examples=(ops.square,)),
    table_entry("power of 2", _power, op.Power, needs="the power 2", examples=(lambda x: x**2,)),
    table_entry(
        "maximum",
        _maximum,
        op.Maximum,
        needs="two tensors of one fixed shape, or a tensor and a number that is not below 0",
        examples=(
            lambda x: ops.maximum(x, 0.0),
            lambda x: ops.maximum(x, 0.25),
            lambda x: ops.maximum(x, L.Conv2D(4, 1)(x)),
        ),
    ),
    table_entry(
        "minimum",
        _minimum,
        op.Minimum,
        needs="two tensors of one fixed shape, or a ReLU and a number above 0",
        examples=(
            lambda x: ops.minimum(ops.relu(x), 6.0),
            lambda x: ops.minimum(x, L.Conv2D(4, 1)(x)),
        ),
    ),
    table_entry(
        "where, by a mask that does not vary",
        _chosen,
        op.Where,
        needs="a mask of fixed numbers, a tensor, and 0 or, before a softmax, a number below "
        f"{MOST_MASKED:g}",
        examples=(
            lambda x: ops.where(example_numbers(1, 8, 1, 4) > 0, x, 0.0),
            lambda x: ops.softmax(ops.where(np.arange(4) < 3, x, -np.inf)),
            Example(
                build=lambda x: ops.softmax(ops.where(np.eye(12, 4) > 0, -1e9, x)), shape=SEQUENCE
            ),
        ),
    ),
)
