"""Other shapes and orders of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import image, nn
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    SEQUENCE,
    Made,
    Make,
    given_constants,
    is_channels_last,
    is_known,
    ops,
    pairs,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.shapes import zero_padded
from ddq_tf.kinds.steps import Steps

L = keras.layers


def _reshape(steps: Steps, node: FlatNode) -> Made:
    """A Reshape that leaves the batch as it is."""
    (value,) = steps.inputs
    first, *target = node.layer.newshape
    known = is_known(value.shape) and all(isinstance(n, int) for n in target)
    if not known or first not in (-1, None):
        return None
    sizes = [size or 0 for size in value.shape[1:]]
    same = first is None if -1 in target else math.prod(sizes) == math.prod(target)
    return steps.call("", lambda name: L.Reshape(target, name=name), value) if same else None


def _joined(steps: Steps, node: FlatNode) -> Made:
    axis = node.layer.axis
    if axis is None or axis % len(node.shapes[0]) == 0 or given_constants(node):
        return None
    return steps.call("", lambda name: L.Concatenate(axis, name=name), *steps.inputs)


def _stacked(steps: Steps, node: FlatNode) -> Made:
    shape = node.shapes[0]
    axis = node.layer.axis % (len(shape) + 1)
    if axis == 0 or not is_known(shape) or given_constants(node):
        return None
    target = (*shape[1:axis], 1, *shape[axis:])
    parts = [
        steps.reshaped(f"part_{number}", value, target) for number, value in enumerate(steps.inputs)
    ]
    if len(parts) == 1:
        return parts[0]
    return steps.call("", lambda name: L.Concatenate(axis, name=name), *parts)


def _moved(order: Callable[[Any, int], Sequence[int] | None]) -> Make:
    """The case of an operation that puts axes in another order."""

    def make(steps: Steps, node: FlatNode) -> Made:
        (value,) = steps.inputs
        axes = order(node.layer, len(value.shape))
        if axes is None or axes[0] != 0:
            return None
        last = tuple(axes[1:])
        return steps.call("", lambda name: L.Permute(last, name=name), value)

    return make


def _transposed(operation: Any, rank: int) -> Sequence[int]:
    return operation.axes or tuple(reversed(range(rank)))


def _swapped(operation: Any, rank: int) -> Sequence[int]:
    axes = list(range(rank))
    first, second = operation.axis1 % rank, operation.axis2 % rank
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _displaced(operation: Any, rank: int) -> Sequence[int]:
    taken = [axis % rank for axis in operation.source]
    axes = [axis for axis in range(rank) if axis not in taken]
    rows = zip(operation.destination, taken, strict=True)
    for place, axis in sorted((place % rank, axis) for place, axis in rows):
        axes.insert(place, axis)
    return axes


def _other_rank(steps: Steps, node: FlatNode) -> Made:
    """A Reshape that adds or drops axes of one value."""
    (value,) = steps.inputs
    spec = node.layer.compute_output_spec(keras.KerasTensor(value.shape))
    written = tuple(spec.shape)
    if not is_known(written) or written[:1] != value.shape[:1]:
        return None
    return steps.call("", lambda name: L.Reshape(written[1:], name=name), value)


def _blocks(steps: Steps, node: FlatNode, *, to_depth: bool) -> Made:
    """Blocks of pixels as channels, or the other way."""
    (value,), b = steps.inputs, node.layer.block_size
    if not is_known(value.shape) or node.layer.data_format != "channels_last":
        return None
    height, width, depth = (size or 0 for size in value.shape[1:])
    if to_depth:
        inner = (height // b, b, width // b, b, depth)
        target = (height // b, width // b, b * b * depth)
        axes = (1, 3, 2, 4, 5)
    else:
        inner = (height, width, b, b, depth // (b * b))
        target = (height * b, width * b, depth // (b * b))
        axes = (1, 3, 2, 4, 5)
    value = steps.reshaped("blocks", value, inner)
    value = steps.permuted("permute", value, axes)
    return steps.reshaped("", value, target)


def _patches(steps: Steps, node: FlatNode) -> Made:
    """Blocks of pixels that do not overlap, each as the channels of one."""
    (value,), operation = steps.inputs, node.layer
    size = pairs(operation.size, 2)
    strides = size if operation.strides is None else pairs(operation.strides, 2)
    plain = strides == size and pairs(operation.dilation_rate, 2) == (1, 1)
    if not plain or len(value.shape) != 4 or not is_known(value.shape):
        return None
    height, width, depth = (n or 0 for n in value.shape[1:])
    (rows, top), (columns, left) = divmod(height, size[0]), divmod(width, size[1])
    if top or left or not is_channels_last(node):
        return None
    inner = (rows, size[0], columns, size[1], depth)
    value = steps.reshaped("blocks", value, inner)
    value = steps.permuted("permute", value, (1, 3, 2, 4, 5))
    return steps.reshaped("", value, (rows, columns, size[0] * size[1] * depth))


def _padded(steps: Steps, node: FlatNode) -> Made:
    """With zeros: height and width of images, the length of sequences, or channels of either."""
    (value,) = steps.inputs[:1]
    with_zeros = node.layer.mode == "constant" and not any(np.any(c) for c in given_constants(node))
    if not with_zeros or len(steps.inputs) > 1:
        return None
    rows = [(int(row[0]), int(row[1])) for row in node.layer.pad_width]
    rank = len(value.shape)
    rows = rows * rank if len(rows) == 1 else rows
    if any(rows[0]) or rank not in (3, 4) or (rank == 3 and not is_known(value.shape)):
        return None
    return zero_padded(steps, value, rows)


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "reshape",
        _reshape,
        op.Reshape,
        needs="a shape that leaves the batch as it is, as (-1, 10, 3)",
        examples=(lambda x: ops.reshape(x, (-1, 4, 16, 4)),),
    ),
    table_entry(
        "concatenate",
        _joined,
        op.Concatenate,
        needs="tensors, and another axis than the batch",
        examples=(lambda x: ops.concatenate([x, x * 0.5], -1),),
    ),
    table_entry(
        "stack",
        _stacked,
        op.Stack,
        needs="tensors of a fixed size, and another axis than the batch",
        examples=(Example(build=lambda x: ops.stack([x, x * 0.5], -1), shape=SEQUENCE),),
    ),
    table_entry(
        "transpose",
        _moved(_transposed),
        op.Transpose,
        needs="axes that leave the batch first",
        examples=(lambda x: ops.transpose(x, (0, 3, 1, 2)),),
    ),
    table_entry(
        "swapaxes",
        _moved(_swapped),
        op.Swapaxes,
        needs="axes that leave the batch first",
        examples=(lambda x: ops.swapaxes(x, 1, -1),),
    ),
    table_entry(
        "moveaxis",
        _moved(_displaced),
        op.Moveaxis,
        needs="axes that leave the batch first",
        examples=(lambda x: ops.moveaxis(x, -1, 1),),
    ),
    table_entry(
        "expand_dims, squeeze",
        _other_rank,
        op.ExpandDims,
        op.Squeeze,
        needs="another axis than the batch, and a fixed size",
        examples=(
            lambda x: ops.expand_dims(L.GlobalMaxPooling2D()(x), 1),
            lambda x: ops.squeeze(L.GlobalMaxPooling2D(keepdims=True)(x), (1, 2)),
        ),
    ),
    table_entry(
        "depth_to_space",
        lambda steps, node: _blocks(steps, node, to_depth=False),
        nn.DepthToSpace,
        needs="images of a fixed size, channels last",
        examples=(lambda x: nn.depth_to_space(x, 2),),
    ),
    table_entry(
        "space_to_depth",
        lambda steps, node: _blocks(steps, node, to_depth=True),
        nn.SpaceToDepth,
        needs="images of a fixed size, channels last",
        examples=(lambda x: nn.space_to_depth(x, 2),),
    ),
    table_entry(
        "pad",
        _padded,
        op.Pad,
        needs="zeros (mode='constant'), around images or sequences, none around the batch",
        examples=(
            lambda x: ops.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0))),
            lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))),
            Example(build=lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 0))), shape=SEQUENCE),
        ),
    ),
    table_entry(
        "image.extract_patches that do not overlap",
        _patches,
        image.ExtractPatches,
        needs="patches beside each other that cover images of a fixed size, channels last",
        examples=(lambda x: ops.image.extract_patches(x, (2, 4)),),
    ),
)
