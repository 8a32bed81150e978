"""What XNNPACK computes, written down a second time: loops and int64, nothing shared."""

from __future__ import annotations

import numpy as np

F32 = np.float32


def requantize(accumulator, image, weights, output, activation="NONE"):
    """facts: clip(rint(f32(acc) * f32(f32(sx*sw)/sy)) + zy), halves to even."""
    multiplier = F32(F32(image.scale[0] * weights.scale) / output.scale[0])
    codes = np.rint(accumulator.astype(F32) * multiplier).astype(np.int64) + output.zero_point
    low, high = -128, 127
    if activation.startswith("RELU"):
        low = max(low, output.zero_point)
    if activation == "RELU6":
        high = min(high, output.zero_point + int(np.rint(F32(6) / output.scale[0])))
    return np.clip(codes, low, high).astype(np.int8)


def pad_same(codes, zero_point, kernel, stride):
    """TFLite's SAME padding, filled with the zero point, as int64 distances from it."""
    widths = [(0, 0)]
    for size in codes.shape[1:3]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        widths.append((total // 2, total - total // 2))
    return np.pad(codes.astype(np.int64) - zero_point, [*widths, (0, 0)])


def windows(centred, kernel, stride):
    """(batch, H, W, C) to (batch, H', W', kernel, kernel, C)."""
    view = np.lib.stride_tricks.sliding_window_view(centred, (kernel, kernel), axis=(1, 2))
    return np.moveaxis(view[:, ::stride, ::stride], 3, 5)


def convolution(codes, zero_point, weights, bias, stride):
    """Accumulators of a SAME CONV_2D with (O, k, k, I) weights."""
    kernel = weights.shape[1]
    patches = windows(pad_same(codes, zero_point, kernel, stride), kernel, stride)
    return np.einsum("bhwijc,oijc->bhwo", patches, weights.astype(np.int64)) + bias


def depthwise(codes, zero_point, weights, bias, stride):
    """Accumulators of a SAME DEPTHWISE_CONV_2D with (1, k, k, C) weights."""
    kernel = weights.shape[1]
    patches = windows(pad_same(codes, zero_point, kernel, stride), kernel, stride)
    return np.einsum("bhwijc,ijc->bhwc", patches, weights[0].astype(np.int64)) + bias


def fully_connected(codes, zero_point, weights, bias):
    """Accumulators of a FULLY_CONNECTED with (O, I) weights."""
    return (codes.astype(np.int64) - zero_point) @ weights.T.astype(np.int64) + bias


def add(left, left_q, right, right_q, output):
    """XNNPACK's qs8 ADD: 21-bit fixed point, halves up."""
    ratios = [F32(q.scale[0] / output.scale[0]) for q in (left_q, right_q)]
    exponent = int(np.frexp(max(ratios))[1]) - 1
    shift = 20 - exponent
    a, b = (int(np.rint(np.ldexp(float(ratio), shift))) for ratio in ratios)
    total = (left.astype(np.int64) - left_q.zero_point) * a
    total += (right.astype(np.int64) - right_q.zero_point) * b
    rounded = (total + (1 << (shift - 1))) >> shift
    return np.clip(rounded + output.zero_point, -128, 127).astype(np.int8)


def mean(codes, image, output):
    """XNNPACK's qs8 MEAN over height and width: float32, the zero points folded in a bias."""
    count = codes.shape[1] * codes.shape[2]
    scale = F32(image.scale[0] / output.scale[0]) * F32(F32(1) / F32(count))
    bias = F32(output.zero_point) - F32(image.zero_point * count) * scale
    total = codes.astype(np.int64).sum(axis=(1, 2)).astype(F32)
    return np.clip(np.rint(total * scale + bias), -128, 127).astype(np.int8)
