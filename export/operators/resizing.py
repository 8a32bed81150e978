"""Images of another size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import saturate
from ddq_tf.export.operators.operand import Operand, require_same_grid
from ddq_tf.export.operators.operator import Operator, int8_is_2


def resize_nearest_neighbor(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RESIZE_NEAREST_NEIGHBOR: pixel floor((i + offset) * scale), in float32.

    The scale is size in / size out; with align_corners (in - 1) / (out - 1), and halves round up.
    The offset is 1/2 with half_pixel_centers.
    """
    require_same_grid(op, reads[:1], output)
    attrs = op.attrs
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
    attrs, values = op.attrs, reads[0].values.astype(np.int64)
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


_ATTRS = {"align_corners": False, "half_pixel_centers": False}


def _version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 for INT8; 3 for the sampling positions that came later."""
    newer = op.attrs["half_pixel_centers"] or (
        op.kind == "RESIZE_NEAREST_NEIGHBOR" and op.attrs["align_corners"]
    )
    return 3 if newer else int8_is_2(op, tensors)


OPERATORS = (
    Operator(
        kind="RESIZE_BILINEAR",
        kernel=resize_bilinear,
        options="ResizeBilinearOptions",
        attrs=_ATTRS,
        version=_version,
        keeps_grid=True,
    ),
    Operator(
        kind="RESIZE_NEAREST_NEIGHBOR",
        kernel=resize_nearest_neighbor,
        options="ResizeNearestNeighborOptions",
        attrs=_ATTRS,
        version=_version,
        keeps_grid=True,
    ),
)
