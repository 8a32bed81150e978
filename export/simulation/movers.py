"""Simulated pooling, and ops that only move values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.ops import attributes
from ddq_tf.export.simulation.arithmetic import quantization, saturate
from ddq_tf.export.simulation.operand import Operand, refuse, require_same_grid
from ddq_tf.export.simulation.windows import Window, pad, taps


def max_pool_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MAX_POOL_2D."""
    require_same_grid(op, reads, output)
    attrs = attributes(op)
    window = Window.of(attrs, (attrs["filter_height"], attrs["filter_width"]))
    lowest = int(np.iinfo(output.dtype.numpy).min)
    pixels = [x for _, _, x in taps(pad(reads[0].values, window, lowest), window)]
    return saturate(np.maximum.reduce(pixels), output, attrs["fused_activation_function"])


def average_pool_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """AVERAGE_POOL_2D by LiteRT's built-in kernel.

    The mean of the raw codes within the image, halves rounded away from zero.
    """
    require_same_grid(op, reads, output)
    attrs = attributes(op)
    window = Window.of(attrs, (attrs["filter_height"], attrs["filter_width"]))
    codes = reads[0].values.astype(np.int64)
    totals = sum(x for _, _, x in taps(pad(codes, window, 0), window))
    counts = sum(x for _, _, x in taps(pad(np.ones_like(codes), window, 0), window))
    means = np.sign(totals) * ((np.abs(totals) + counts // 2) // counts)
    return saturate(means, output, attrs["fused_activation_function"])


def reshape(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RESHAPE, SQUEEZE and EXPAND_DIMS."""
    require_same_grid(op, reads[:1], output)
    return reads[0].values.reshape(output.shape)


def transpose(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """TRANSPOSE."""
    require_same_grid(op, reads[:1], output)
    return np.transpose(reads[0].values, reads[1].values.tolist())


def pad_image(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """PAD with the code of zero, PADV2 with its third input."""
    require_same_grid(op, (reads[0], *reads[2:]), output)
    value = int(reads[2].values.ravel()[0]) if len(reads) > 2 else quantization(output).zero_point
    return np.pad(reads[0].values, reads[1].values.tolist(), constant_values=value)


def concatenate(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """CONCATENATION, on one grid."""
    require_same_grid(op, reads, output)
    attrs = attributes(op)
    joined = np.concatenate([operand.values for operand in reads], axis=attrs["axis"])
    return saturate(joined, output, attrs["fused_activation_function"])


def cut(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """SLICE: from `begin`, `size` elements, -1 for all that follow."""
    require_same_grid(op, reads[:1], output)
    begins, sizes = (operand.values.tolist() for operand in reads[1:])
    ranges = zip(begins, sizes, strict=True)
    return reads[0].values[
        tuple(slice(begin, None if size < 0 else begin + size) for begin, size in ranges)
    ]


def cut_strided(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """STRIDED_SLICE without ellipsis and new axes."""
    require_same_grid(op, reads[:1], output)
    attrs = attributes(op)
    if attrs["ellipsis_mask"] or attrs["new_axis_mask"]:
        raise refuse(op, "ellipsis_mask and new_axis_mask must be 0")
    parts: list[slice | int] = []
    rows = zip(*(operand.values.tolist() for operand in reads[1:]), strict=True)
    for axis, (begin, end, stride) in enumerate(rows):
        bit = 1 << axis
        if attrs["shrink_axis_mask"] & bit:
            parts.append(begin)
            continue
        first = None if attrs["begin_mask"] & bit else begin
        last = None if attrs["end_mask"] & bit else end
        parts.append(slice(first, last, stride))
    return reads[0].values[tuple(parts)]


def resize_nearest_neighbor(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RESIZE_NEAREST_NEIGHBOR: pixel floor((i + offset) * scale), in float32.

    The scale is size in / size out; with align_corners (in - 1) / (out - 1), and halves round up.
    The offset is 1/2 with half_pixel_centers.
    """
    require_same_grid(op, reads[:1], output)
    attrs = attributes(op)
    offset = np.float32(0.5 if attrs["half_pixel_centers"] else 0)
    picked = reads[0].values
    for axis, size in enumerate(reads[1].values.tolist(), start=1):
        length = picked.shape[axis]
        corners = attrs["align_corners"] and size > 1
        step = (
            np.float32(length - 1) / np.float32(size - 1)
            if corners
            else (np.float32(length) / np.float32(size))
        )
        places = (np.arange(size, dtype=np.float32) + offset) * step
        places = np.floor(places + np.float32(0.5)) if attrs["align_corners"] else np.floor(places)
        picked = np.take(picked, np.clip(places.astype(np.int64), 0, length - 1), axis=axis)
    return picked


def resize_bilinear(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RESIZE_BILINEAR: between neighbours in steps of 1/2048, rounded once, halves up.

    With w = rint(2048 * fraction), along the columns t = 2048 a + w (b - a), then along the rows
    y = (2048 t + w (u - t) + 2^21) >> 22.
    """
    require_same_grid(op, reads[:1], output)
    attrs, values = attributes(op), reads[0].values.astype(np.int64)
    for axis in (2, 1):
        size = int(reads[1].values.ravel()[axis - 1])
        low, high, weights = _neighbours(values.shape[axis], size, attrs)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        first, second = np.take(values, low, axis), np.take(values, high, axis)
        values = (first << 11) + (second - first) * weights.reshape(shape)
    return saturate((values + (1 << 21)) >> 22, output)


def _neighbours(
    length: int, size: int, attrs: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which two pixels of an axis each new one lies between, and the second's weight of 2048.

    All positions are float32: scale * i, with half_pixel_centers plus scale / 2 - 1/2.
    """
    single = np.float32
    corners = attrs["align_corners"] and size > 1
    scale = single(length - 1) / single(size - 1) if corners else single(length) / single(size)
    offset = single(0.5) * scale - single(0.5) if attrs["half_pixel_centers"] else single(0)
    places = np.arange(size, dtype=np.float32) * scale + offset
    places = np.clip(places, single(0), single(length - 1))
    low = places.astype(np.int64)
    weights = np.rint((places - low.astype(np.float32)) * single(2048)).astype(np.int64)
    return low, np.minimum(low + 1, length - 1), weights


def space_to_depth(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """SPACE_TO_DEPTH."""
    require_same_grid(op, reads, output)
    block = attributes(op)["block_size"]
    batch, height, width, depth = reads[0].values.shape
    blocks = reads[0].values.reshape(batch, height // block, block, width // block, block, depth)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // block, width // block, block * block * depth
    )


def depth_to_space(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """DEPTH_TO_SPACE."""
    require_same_grid(op, reads, output)
    block = attributes(op)["block_size"]
    batch, height, width, channels = reads[0].values.shape
    depth = channels // (block * block)
    blocks = reads[0].values.reshape(batch, height, width, block, block, depth)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, depth)
