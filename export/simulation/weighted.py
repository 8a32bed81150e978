"""Simulated convolutions and fully connected layers.

All of them: y = clip(rint(f32(acc) * f32(f32(s_x * s_w) / s_y)) + z_y), where acc is the int32 sum
of (x - z_x) * w and the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.export.ops import attributes
from ddq_tf.export.simulation.arithmetic import (
    F32,
    product_multiplier,
    quantization,
    round_to,
    scale,
)
from ddq_tf.export.simulation.operand import Operand, refuse
from ddq_tf.export.simulation.windows import Window, pad, taps


def conv_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """CONV_2D with (O, h, w, I / groups) weights."""
    image, weights = reads[:2]
    channels, height, width, depth = weights.values.shape
    groups = image.values.shape[-1] // depth
    per_group = channels // groups
    window = Window.of(attributes(op), (height, width))
    padded = pad(image.centred().astype(np.float64), window, 0)
    parts = []
    for group in range(groups):
        kernels = weights.values[group * per_group : (group + 1) * per_group].astype(np.float64)
        pixels = padded[..., group * depth : (group + 1) * depth]
        parts.append(sum(x @ kernels[:, i, j].T for i, j, x in taps(pixels, window)))
    return _finish(op, np.concatenate(parts, axis=-1), reads, output)


def depthwise_conv_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """DEPTHWISE_CONV_2D with (1, h, w, C * depth_multiplier) weights."""
    image, weights = reads[:2]
    kernel = weights.values[0].astype(np.float64)
    attrs = attributes(op)
    window = Window.of(attrs, (kernel.shape[0], kernel.shape[1]))
    pixels = np.repeat(image.centred().astype(np.float64), attrs["depth_multiplier"], axis=-1)
    padded = pad(pixels, window, 0)
    accumulator = np.zeros(1)
    for i, j, x in taps(padded, window):
        accumulator = accumulator + x * kernel[i, j]
    return _finish(op, accumulator, reads, output)


def fully_connected(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """FULLY_CONNECTED with (O, I) weights, on the last axis or on rows of I values."""
    image, weights = reads[:2]
    rows = image.centred().astype(np.float64)
    if not attributes(op)["keep_num_dims"]:
        rows = rows.reshape(-1, weights.values.shape[1])
    return _finish(op, rows @ weights.values.T.astype(np.float64), reads, output)


def transpose_conv(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """TRANSPOSE_CONV with (O, h, w, I) weights; its inputs are the output's shape, then as others.

    Each pixel adds its kernel to the output, `stride` apart; SAME cuts the border off as SAME
    padding of the convolution back would add it. XNNPACK does not take SAME with kernels shorter
    than the stride.
    """
    attrs, (_, weights, image, *bias) = attributes(op), reads
    batch, rows, columns, _ = image.values.shape
    channels, *size, _ = weights.values.shape
    strides = (attrs["stride_h"], attrs["stride_w"])
    same = attrs["padding"] == "SAME"
    if same and any(n < stride for n, stride in zip(size, strides, strict=True)):
        raise refuse(op, f"XNNPACK does not take SAME padding with kernel {size} < {strides}")
    spans = [(n - 1) * stride for n, stride in zip((rows, columns), strides, strict=True)]
    extents = [s + k for s, k in zip(spans, size, strict=True)]
    outer = [max(n, m) for n, m in zip(extents, output.shape[1:3], strict=True)]
    accumulator = np.zeros((batch, *outer, channels))
    pixels, kernels = image.centred().astype(np.float64), weights.values.astype(np.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            down = slice(i, i + spans[0] + 1, strides[0])
            right = slice(j, j + spans[1] + 1, strides[1])
            accumulator[:, down, right] += pixels @ kernels[:, i, j].T
    top, left = (
        max(n - m, 0) // 2 if same else 0 for n, m in zip(extents, output.shape[1:3], strict=True)
    )
    _, height, width, _ = output.shape
    cut = accumulator[:, top : top + height, left : left + width]
    return _finish(op, cut, (image, weights, *bias), output)


def _finish(
    op: Op, accumulator: np.ndarray, reads: Sequence[Operand], output: Tensor
) -> np.ndarray:
    """Adds the bias and requantizes.

    float64 holds the sums exactly: they stay far below 2^53. Like the kernels' registers, they
    wrap around at 32 bits; at 28 with INT4 weights, which the kernels hold 16-fold.
    """
    image, weights = reads[:2]
    _check_weights(op, weights.tensor)
    if len(reads) > 2:
        accumulator = accumulator + reads[2].values
    spare_bits = 4 if weights.tensor.dtype is DType.INT4 else 0
    wrapped = (accumulator.astype(np.int64) << spare_bits).astype(np.int32) >> spare_bits
    multiplier = product_multiplier(image.scale, quantization(weights.tensor).scale, scale(output))
    activation = attributes(op)["fused_activation_function"]
    return round_to(wrapped.astype(F32) * multiplier, output, activation)


def _check_weights(op: Op, weights: Tensor) -> None:
    """Raises for weights that XNNPACK leaves to built-in kernels, which round differently."""
    grid = quantization(weights)
    if grid.zero_point != 0:
        raise refuse(op, f"the zero point of weights must be 0. Received: {grid.zero_point}")
    if weights.dtype is DType.INT8:
        return
    per_channel = grid.scale.size == weights.shape[0]
    taken = {
        DType.INT4: weights.shape[-1] % 2 == 0,
        DType.INT2: weights.shape[-1] % 4 == 0 and per_channel,
    }
    if op.kind != "FULLY_CONNECTED" or not taken.get(weights.dtype, False):
        raise refuse(
            op, f"XNNPACK does not take {weights.dtype.value} weights of shape {weights.shape}"
        )
