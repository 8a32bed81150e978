"""Operators that only move values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import quantization, saturate
from ddq_tf.export.operators.operand import Kernel, Operand, refuse, require_same_grid
from ddq_tf.export.operators.operator import FUSED, Operator, Version, always, int8_is_2


def reshape(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RESHAPE, SQUEEZE and EXPAND_DIMS."""
    require_same_grid(op, reads[:1], output)
    return reads[0].values.reshape(output.shape)


def _reshaped(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    """RESHAPE of floats."""
    del op
    return values[0].reshape(values[1].tolist())


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
    attrs = op.attrs
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
    return _cut_strided(op, [operand.values for operand in reads])


def _cut_strided(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    image, *ranges = values
    attrs = op.attrs
    if attrs["ellipsis_mask"] or attrs["new_axis_mask"]:
        raise refuse(op, "ellipsis_mask and new_axis_mask must be 0")
    parts: list[slice | int] = []
    rows = zip(*(each.tolist() for each in ranges), strict=True)
    for axis, (begin, end, stride) in enumerate(rows):
        bit = 1 << axis
        if attrs["shrink_axis_mask"] & bit:
            parts.append(begin)
            continue
        first = None if attrs["begin_mask"] & bit else begin
        last = None if attrs["end_mask"] & bit else end
        parts.append(slice(first, last, stride))
    return image[tuple(parts)]


def space_to_depth(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """SPACE_TO_DEPTH."""
    require_same_grid(op, reads, output)
    block = op.attrs["block_size"]
    batch, height, width, depth = reads[0].values.shape
    blocks = reads[0].values.reshape(batch, height // block, block, width // block, block, depth)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // block, width // block, block * block * depth
    )


def depth_to_space(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """DEPTH_TO_SPACE."""
    require_same_grid(op, reads, output)
    block = op.attrs["block_size"]
    batch, height, width, channels = reads[0].values.shape
    depth = channels // (block * block)
    blocks = reads[0].values.reshape(batch, height, width, block, block, depth)
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, depth)


def _mover(
    kind: str, kernel: Kernel, options: str, version: Version = int8_is_2, **attrs: Any
) -> Operator:
    """Keeps the lines of the table short."""
    return Operator(
        kind=kind, kernel=kernel, options=options, attrs=attrs, version=version, keeps_grid=True
    )


_MASKS: Mapping[str, Any] = dict.fromkeys(
    ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0
)

OPERATORS = (
    _mover("CONCATENATION", concatenate, "ConcatenationOptions", axis=0, **FUSED),
    _mover("DEPTH_TO_SPACE", depth_to_space, "DepthToSpaceOptions", block_size=1),
    _mover("EXPAND_DIMS", reshape, "ExpandDimsOptions", always(1)),
    _mover("PAD", pad_image, "PadOptions"),
    _mover("PADV2", pad_image, "PadV2Options"),
    dataclasses.replace(
        _mover("RESHAPE", reshape, "ReshapeOptions", always(1), new_shape=()), floats=_reshaped
    ),
    _mover("SLICE", cut, "SliceOptions"),
    _mover("SPACE_TO_DEPTH", space_to_depth, "SpaceToDepthOptions", block_size=1),
    _mover("SQUEEZE", reshape, "SqueezeOptions", always(1), squeeze_dims=()),
    dataclasses.replace(
        _mover("STRIDED_SLICE", cut_strided, "StridedSliceOptions", **_MASKS), floats=_cut_strided
    ),
    _mover("TRANSPOSE", transpose, "TransposeOptions"),
)
