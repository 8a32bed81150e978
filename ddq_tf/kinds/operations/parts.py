"""Parts of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import core
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    AXES,
    SEQUENCE,
    Made,
    axes_of,
    is_known,
    ops,
    pairs,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQSlice

L = keras.layers


_MOST_PARTS = 16  # of a reversed axis, which is cut and joined
_PARTS = (
    f"all of the batch, a fixed size, no arrays, and no more than {_MOST_PARTS} parts of an axis"
)


def _split(steps: Steps, node: FlatNode) -> Made:
    (value,), sections = steps.inputs, node.layer.indices_or_sections
    axis = node.layer.axis % len(value.shape)
    if axis == 0 or not is_known(value.shape):
        return None
    size = value.shape[axis] or 0
    if isinstance(sections, int):
        ends = [size // sections * (n + 1) for n in range(sections)]
    else:
        ends = [*(int(n) for n in sections), size]
    starts = [0, *ends[:-1]]
    return [
        steps.cut(value, axis, start, end - start, f"part_{number}")
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _unstacked(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    axis = node.layer.axis % len(value.shape)
    if axis == 0 or not is_known(value.shape):
        return None
    target = value.shape[1:axis] + value.shape[axis + 1 :]
    return [
        steps.reshaped(f"at_{n}", steps.cut(value, axis, n, 1, f"cut_{n}"), target)
        for n in range(value.shape[axis] or 0)
    ]


def _item(steps: Steps, node: FlatNode) -> Made:
    """`x[:, 1:5, ::2, -1]`, with `...` and None."""
    (value,), key = steps.inputs, node.constants[-1]
    entries = _entries(key, len(value.shape))
    if entries is None or not is_known(value.shape):
        return None
    target: list[int] = []
    axis = 0
    for entry in entries:
        if entry is None:
            target.append(1)
            continue
        if axis == 0:
            if entry != slice(None):
                return None
        elif isinstance(entry, slice):
            found = _ranged(steps, value, axis, entry)
            if found is None:
                return None
            value = found
            target.append(value.shape[axis] or 0)
        else:
            place = int(entry) % (value.shape[axis] or 1)
            value = steps.cut(value, axis, place, 1, f"at_{axis}_{place}")
        axis += 1
    if entries[0] is None:  # before the batch
        return None
    return steps.reshaped("", value, tuple(target))


def _entries(key: Any, rank: int) -> list[Any] | None:
    """One entry for each axis, and None for new ones; None if there are others, as arrays."""
    given = list(key) if isinstance(key, tuple | list) else [key]
    known = (slice, int, np.integer, type(None), type(Ellipsis))
    if not all(isinstance(entry, known) for entry in given) or isinstance(key, list):
        return None
    taken = sum(entry is not None and entry is not Ellipsis for entry in given)
    rest = [slice(None)] * (rank - taken)
    place = next((n for n, entry in enumerate(given) if entry is Ellipsis), None)
    if place is None:
        return [*given, *rest]
    return [*given[:place], *rest, *given[place + 1 :]]


def _ranged(steps: Steps, value: Value, axis: int, entry: slice) -> Value | None:
    """A slice of one axis, also with a step or backwards."""
    size = value.shape[axis] or 0
    places = range(*entry.indices(size))
    if not places:
        return None
    if places.step == 1:
        return steps.cut(value, axis, places[0], len(places), f"cut_{axis}")
    if places.step < 0:
        return _picked(steps, value, axis, list(places), f"turned_{axis}")
    rank = len(value.shape)
    if rank != 4 or axis == rank - 1:
        return _picked(steps, value, axis, list(places), f"picked_{axis}")
    value = steps.cut(value, axis, places[0], places[-1] + 1 - places[0], f"cut_{axis}")
    strides = (places.step, 1) if axis == 1 else (1, places.step)
    return steps.call(f"each_{axis}", lambda name: L.MaxPooling2D(1, strides, name=name), value)


def _picked(
    steps: Steps, value: Value, axis: int, places: Sequence[int], role: str = ""
) -> Value | None:
    """Single values of an axis, in any order, cut and joined."""
    if len(places) > _MOST_PARTS:
        return None
    parts = [steps.cut(value, axis, place, 1, f"one_{axis}_{place}") for place in places]
    if len(parts) == 1:
        return parts[0]
    return steps.call(role, lambda name: L.Concatenate(axis, name=name), *parts)


def _turned(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    axes = axes_of(node.layer.axis, len(value.shape))
    if 0 in axes or not is_known(value.shape):
        return None
    found: Value | None = value
    for axis in axes:
        if found is not None:
            places = list(reversed(range(value.shape[axis] or 0)))
            found = _picked(steps, found, axis, places, f"turned_{axis}")
    return found


def _rolled(steps: Steps, node: FlatNode) -> Made:
    """Two parts of each axis in the other order."""
    (value,), shifts, axes = steps.inputs, node.layer.shift, node.layer.axis
    if axes is None or not is_known(value.shape):
        return None
    rows = zip(pairs(shifts, 1), pairs(axes, 1), strict=True)
    for shift, given in rows:
        axis = given % len(value.shape)
        size = value.shape[axis] or 1
        if axis == 0:
            return None
        if shift % size:
            value = _around(steps, value, axis, size - shift % size)
    return value


def _around(steps: Steps, value: Value, axis: int, start: int) -> Value:
    size = value.shape[axis] or 1
    tail = steps.cut(value, axis, start, size - start, f"tail_{axis}")
    head = steps.cut(value, axis, 0, start, f"head_{axis}")
    return steps.call(f"roll_{axis}", lambda name: L.Concatenate(axis, name=name), tail, head)


def _window_of(steps: Steps, node: FlatNode) -> Made:
    """`keras.ops.slice`, of all the batch."""
    (value,) = steps.inputs[:1]
    start = node.constants[1] if len(node.constants) > 1 else None
    if start is None or len(steps.inputs) > 1 or not is_known(value.shape):
        return None
    begin = [int(n) for n in np.asarray(keras.ops.convert_to_numpy(start)).ravel()]
    sizes = [int(n) for n in node.layer.shape]
    if begin[0] != 0 or sizes[0] != -1:
        return None
    rows = zip(sizes[1:], begin[1:], value.shape[1:], strict=True)
    kept = [(full or 0) - first if size == -1 else size for size, first, full in rows]
    return steps.call("", lambda name: DDQSlice(begin[1:], kept, name=name), value)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "`x[...]`",
        _item,
        op.GetItem,
        needs=_PARTS,
        examples=(
            lambda x: x[:, 1:5, ::2],
            lambda x: x[..., ::-1],
            lambda x: x[:, 3, :, None, 1:],
            Example(build=lambda x: x[:, 2:-3], shape=SEQUENCE),
            Example(build=lambda x: x[:, 0, :], shape=SEQUENCE),
            Example(build=lambda x: x[:, 2:5], shape=(7,)),
            Example(build=lambda x: x[:, None, None, :], shape=(7,)),
        ),
    ),
    table_entry(
        "slice",
        _window_of,
        core.Slice,
        needs=_PARTS,
        examples=(lambda x: ops.slice(x, (0, 1, 2, 0), (-1, 4, 3, 2)),),
    ),
    table_entry(
        "split",
        _split,
        op.Split,
        needs=AXES,
        examples=(
            lambda x: ops.split(x, 2, -1)[1],
            lambda x: L.Concatenate(1)(ops.split(x, [3, 5], 1)[::-1]),
        ),
    ),
    table_entry(
        "unstack",
        _unstacked,
        core.Unstack,
        needs=AXES,
        examples=(lambda x: L.Add()(ops.unstack(x, axis=1)[:2]),),
    ),
    table_entry("flip", _turned, op.Flip, needs=_PARTS, examples=(lambda x: ops.flip(x, -1),)),
    table_entry(
        "roll",
        _rolled,
        op.Roll,
        needs=AXES,
        examples=(lambda x: ops.roll(x, (1, -2), (1, 2)),),
    ),
)
