"""Sliding windows over images (batch, height, width, channels)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """How a kernel moves; pairs are (height, width)."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    same: bool

    @classmethod
    def of(cls, attrs: Mapping[str, Any], size: tuple[int, int]) -> Window:
        """Returns the window of an op.

        Args:
            attrs: all attributes of the op.
            size: of its kernel.
        """
        return cls(
            size=size,
            strides=(attrs["stride_h"], attrs["stride_w"]),
            dilations=(attrs.get("dilation_h_factor", 1), attrs.get("dilation_w_factor", 1)),
            same=attrs["padding"] == "SAME",
        )


def same_padding(size: int, extent: int, stride: int) -> tuple[int, int]:
    """Returns how many pixels SAME padding puts before and after an axis.

    Together max((ceil(n / stride) - 1) * stride + extent - n, 0), the smaller half before.

    Args:
        size: pixels n of the axis.
        extent: pixels from the kernel's first to its last, both included.
        stride: of the kernel.
    """
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def pad(images: np.ndarray, window: Window, value: int) -> np.ndarray:
    """Returns images with the border that SAME padding adds, if the window has it."""
    if not window.same:
        return images
    axes = zip(images.shape[1:3], _extents(window), window.strides, strict=True)
    widths = [same_padding(*axis) for axis in axes]
    return np.pad(images, [(0, 0), *widths, (0, 0)], constant_values=value)


def taps(padded: np.ndarray, window: Window) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields for each position (i, j) in the kernel the pixels that it meets.

    Args:
        padded: images with their border.
        window: as it was padded for.

    Yields:
        i, j and an array (batch, output height, output width, channels).
    """
    rows, columns = (
        (length - extent) // stride + 1
        for length, extent, stride in zip(
            padded.shape[1:3], _extents(window), window.strides, strict=True
        )
    )
    (down, right), (row_step, column_step) = window.dilations, window.strides
    for i in range(window.size[0]):
        for j in range(window.size[1]):
            top, left = i * down, j * right
            yield (
                i,
                j,
                padded[
                    :,
                    top : top + (rows - 1) * row_step + 1 : row_step,
                    left : left + (columns - 1) * column_step + 1 : column_step,
                ],
            )


def _extents(window: Window) -> tuple[int, int]:
    """Pixels from the kernel's first to its last, both included."""
    (height, width), (down, right) = window.size, window.dilations
    return (height - 1) * down + 1, (width - 1) * right + 1
