"""Simulated sums, products, means, activations and changes of grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.export.ops import attributes
from ddq_tf.export.simulation.arithmetic import (
    F32,
    add_constants,
    limits,
    mean_scale,
    product_multiplier,
    quantization,
    requantize_factor,
    round_to,
    saturate,
    scale,
)
from ddq_tf.export.simulation.operand import Operand, refuse, require_same_grid


def add(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """ADD and SUB: y = ((a - z_a) * A + (b - z_b) * B + 2^(shift - 1)) >> shift, plus z_y."""
    left, right = reads
    by = add_constants(left.scale, right.scale, scale(output), subtract=op.kind == "SUB")
    total = left.centred() * by.left + right.centred() * by.right
    codes = ((total + (1 << (by.shift - 1))) >> by.shift) + quantization(output).zero_point
    return saturate(codes, output, attributes(op)["fused_activation_function"])


def multiply(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MUL: y = rint(f32((a - z_a)(b - z_b)) * f32(f32(s_a * s_b) / s_y)) + z_y."""
    left, right = reads
    products = (left.centred() * right.centred()).astype(F32)
    multiplier = product_multiplier(left.scale, right.scale, scale(output))
    return round_to(products * multiplier, output, attributes(op)["fused_activation_function"])


def mean(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MEAN over height and width.

    y = rint(f32(f32(sum of codes) * s) + f32(f32(z_y) - f32(f32(z_x * N) * s))) with `mean_scale` s
    and N values in each sum.
    """
    image, axes = reads
    rank = image.values.ndim
    if rank != 4 or sorted(int(axis) % rank for axis in axes.values.ravel()) != [1, 2]:
        raise refuse(op, f"only means over axes 1 and 2 of 4 are known. Received: {axes.values}")
    count = math.prod(image.values.shape[1:3])
    factor = mean_scale(image.scale, scale(output), count)
    bias = F32(quantization(output).zero_point) - F32(image.zero_point * count) * factor
    totals = image.values.sum(
        axis=(1, 2), dtype=np.int64, keepdims=bool(attributes(op)["keep_dims"])
    )
    return saturate(np.rint(totals.astype(F32) * factor + bias), output)


def quantize(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """QUANTIZE.

    From FLOAT32: y = rint(x * f32(1 / s_y)) + z_y. Between INT8: with r of `requantize_factor`,
    y = (((x - z_x) * r + 128) >> 8) + z_y. Between INT8 and UINT8 of one scale: a shift.
    """
    (image,) = reads
    if image.tensor.dtype is DType.FLOAT32:
        return round_to(image.values * (F32(1) / scale(output)), output)
    zero_point = quantization(output).zero_point
    if image.tensor.dtype is output.dtype is DType.INT8:
        factor = requantize_factor(image.scale, scale(output))
        return saturate(((image.centred() * factor + 128) >> 8) + zero_point, output)
    if image.scale != scale(output):
        raise refuse(op, f"{image.tensor.dtype.value} to {output.dtype.value} of another scale")
    return saturate(image.centred() + zero_point, output)


def dequantize(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """DEQUANTIZE: f32(x - z_x) * s_x."""
    del op, output
    (image,) = reads
    return image.centred().astype(F32) * image.scale


def logistic(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """LOGISTIC: y = rint(1 / (1 + e^-x) / s_y) + z_y."""
    del op
    return _table(lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))), reads[0], output)


def tanh(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """TANH: y = rint(tanh(x) / s_y) + z_y."""
    del op
    return _table(np.tanh, reads[0], output)


def elu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """ELU: y = rint((e^x - 1 below 0, else x) / s_y) + z_y."""
    del op
    return _table(lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), reads[0], output)


def gelu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """GELU by LiteRT's built-in kernel: a table of 256 codes, made in float32.

    y = round(f32(g) * f32(1 / s_y)) + z_y, halves rounded away from zero, g = x/2 erfc(-x/sqrt(2));
    with `approximate` x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    (image,) = reads
    codes = np.arange(-128, 128)
    real = ((codes - image.zero_point).astype(F32) * image.scale).astype(np.float64)
    if attributes(op)["approximate"]:
        inner = np.sqrt(2 / np.pi) * (real + 0.044715 * real**3)
        factors = (1 + np.tanh(inner)) / 2
    else:
        factors = np.array([math.erfc(-x * math.sqrt(0.5)) / 2 for x in real])
    scaled = ((real * factors).astype(F32) * (F32(1) / scale(output))).astype(np.float64)
    rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    table = saturate(rounded + quantization(output).zero_point, output)
    return table[image.values.astype(np.int64) + 128]


def leaky_relu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """LEAKY_RELU: y = (((x - z_x) * r + 128) >> 8) + z_y.

    r is `requantize_factor`; below 0, of the input scale times the slope.
    """
    (image,) = reads
    slope = F32(attributes(op)["alpha"])
    positive = requantize_factor(image.scale, scale(output))
    ratio = F32(image.scale / scale(output)) * slope
    if not 2**-8 <= abs(ratio) <= 2**7:
        raise refuse(op, f"XNNPACK takes slopes of 1/256 to 128 steps. Received: {ratio}")
    negative = int(np.rint(F32(256) * ratio))
    centred = image.centred()
    products = centred * np.where(centred < 0, negative, positive)
    return saturate(((products + 128) >> 8) + quantization(output).zero_point, output)


def softmax(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """SOFTMAX by LiteRT's built-in kernel on x86, in float32.

    With e = expf(-s_x * beta * (max x - x)): y = round(e * f32(1 / f32(sum(e) * s_y))) + z_y, the
    sum taken one by one, halves rounded away from zero. (On ARM another kernel runs.)
    """
    (image,) = reads
    step = -image.scale * F32(attributes(op)["beta"])
    # The C library's expf rounds correctly, which numpy's float32 exp does not.
    table = np.exp((step * np.arange(256, dtype=F32)).astype(np.float64)).astype(F32)
    codes = image.values.astype(np.int64)
    powers = table[codes.max(axis=-1, keepdims=True) - codes]
    total = np.cumsum(powers, axis=-1, dtype=F32)[..., -1:]
    scaled = powers * (F32(1) / (total * scale(output)))
    # No probability is negative, so this rounds halves away from zero.
    rounded = np.floor(scaled.astype(np.float64) + 0.5)
    return saturate(rounded + quantization(output).zero_point, output)


def clamp(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """RELU, RELU6 and RELU_N1_TO_1 as operators of their own, on one grid."""
    require_same_grid(op, reads, output)
    return np.clip(reads[0].values, *limits(output, op.kind)).astype(output.dtype.numpy)


def extremum(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MAXIMUM and MINIMUM, on one grid."""
    require_same_grid(op, reads, output)
    choose = np.maximum if op.kind == "MAXIMUM" else np.minimum
    return choose(reads[0].values, reads[1].values)


def _table(
    function: Callable[[np.ndarray], np.ndarray], image: Operand, output: Tensor
) -> np.ndarray:
    """Applies a function in float64."""
    real = image.centred() * np.float64(image.scale)
    return round_to(function(real) / np.float64(scale(output)), output)
