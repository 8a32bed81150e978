"""Where the windows of pooling and upsampling layers lie."""

from __future__ import annotations

import keras
import numpy as np

from ddq_tf.graph.flat_graph import FlatNode

EXACT_FACTORS = (1, 2, 4, 8, 16)  # by which LiteRT interpolates without rounding weights


def covers_input(node: FlatNode) -> bool:
    """Returns whether an average pooling takes the mean of its whole input."""
    return stays_inside(node) and tuple(node.shapes[0][1:3]) == tuple(node.layer.pool_size)


def stays_inside(node: FlatNode) -> bool:
    """Returns whether no window of an average pooling reaches over the border."""
    layer = node.layer
    if not isinstance(layer, keras.layers.AveragePooling2D):
        return False
    if layer.padding == "valid":
        return True
    rows = zip(node.shapes[0][1:3], layer.pool_size, layer.strides, strict=True)
    return all(
        size is not None and (-(-size // stride) - 1) * stride + window <= size
        for size, window, stride in rows
    )


def upsampling_fractions(node: FlatNode) -> int | None:
    """Returns into how many parts a step bilinear upsampling divides, at its finest.

    The weights of a factor f are odd multiples of 1 / 2f. LiteRT holds them in 11 bits: exactly for
    powers of 2. None for other factors, and where float32 could not tell the parts apart.
    """
    factors = [int(factor) for factor in node.layer.size]
    if any(factor not in EXACT_FACTORS for factor in factors):
        return None
    return int(np.prod([2 * factor for factor in factors if factor > 1]))


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Returns how many pixels SAME padding puts before and after an axis."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def values_inside(size: int, window: int, stride: int) -> list[int]:
    """Returns how many pixels of an axis each window of SAME padding covers."""
    before, _ = same_padding(size, window, stride)
    starts = range(-before, -before + -(-size // stride) * stride, stride)
    return [min(start + window, size) - max(start, 0) for start in starts]
