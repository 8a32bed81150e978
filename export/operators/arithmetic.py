"""The numbers and roundings that XNNPACK's quantized kernels use, in numpy.

All of it is float32 where XNNPACK's is, operation by operation; `rint` rounds halves to even.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import Quantization, Tensor

F32 = np.float32

_BOUNDS = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}


def quantization(tensor: Tensor) -> Quantization:
    """Returns a tensor's quantization.

    Raises:
        DDQError: if it has none.
    """
    if tensor.quantization is None:
        raise DDQError(f"tensor {tensor.name!r} must be quantized. Received: {tensor.dtype.value}")
    return tensor.quantization


def scale(tensor: Tensor) -> np.float32:
    """Returns the scale of an activation.

    Raises:
        DDQError: if it has none, or one per channel.
    """
    scales = quantization(tensor).scale
    if scales.size != 1:
        raise DDQError(f"activation {tensor.name!r} must have one scale. Received: {scales.size}")
    return F32(scales[0])


def ratio(image: Tensor, output: Tensor) -> np.ndarray:
    """Returns f32(s_x / s_y), shape ()."""
    return np.asarray(scale(image) / scale(output))


def product_multiplier(
    left: np.float32, right: np.ndarray | np.float32, output: np.float32
) -> np.ndarray:
    """Returns f32(f32(left * right) / output): what a sum of products is multiplied by.

    Args:
        left: scale of the activations.
        right: scale or scales of the weights (of the second factor, in MUL).
        output: scale of the result.
    """
    return np.asarray(F32(left) * np.asarray(right, F32), F32) / F32(output)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddConstants:
    """ADD in fixed point: (left * a + right * b + 2^(shift - 1)) >> shift.

    Attributes:
        left: the first input's factor; the greater of the two in absolute value has 21 bits.
        right: the second's; negative in SUB.
        shift: binary places of the factors.
    """

    left: int
    right: int
    shift: int


def add_constants(
    left: np.float32, right: np.float32, output: np.float32, *, subtract: bool = False
) -> AddConstants:
    """Returns the factors of ADD or SUB.

    With r = f32(s / s_y) for either input: shift = 20 - floor(log2(max r)), rint(r * 2^shift).

    Args:
        left: scale of the first input.
        right: scale of the second.
        output: scale of the result.
        subtract: whether the op is SUB.
    """
    ratios = (float(F32(left) / F32(output)), float(F32(right) / F32(output)))
    shift = 21 - int(np.frexp(max(ratios))[1])
    factors = [int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios]
    return AddConstants(left=factors[0], right=-factors[1] if subtract else factors[1], shift=shift)


def mean_scale(image: np.float32, output: np.float32, count: int) -> np.float32:
    """Returns f32(f32(s_x / s_y) * f32(1 / count)): what a sum of codes is multiplied by."""
    return F32(F32(image) / F32(output)) * F32(F32(1) / F32(count))


def requantize_factor(image: np.float32, output: np.float32) -> int:
    """Returns rint(256 * f32(s_x / s_y)): QUANTIZE from INT8 to INT8, eight binary places."""
    return int(np.rint(F32(256) * (F32(image) / F32(output))))


def limits(output: Tensor, activation: str = "NONE") -> tuple[int, int]:
    """Returns the least and the greatest code that an op writes.

    Args:
        output: what it writes.
        activation: fused into it; its bounds c become rint(f32(c / s_y) + z_y).

    Raises:
        DDQError: if the activation is unknown.
    """
    if activation not in _BOUNDS:
        raise DDQError(f"fused activations must be among {sorted(_BOUNDS)}. Received: {activation}")
    info = np.iinfo(output.dtype.numpy)
    zero_point = quantization(output).zero_point
    low, high = (
        None if bound is None else int(np.rint(F32(bound) / scale(output) + F32(zero_point)))
        for bound in _BOUNDS[activation]
    )
    return (
        int(info.min) if low is None else max(int(info.min), low),
        int(info.max) if high is None else min(int(info.max), high),
    )


def saturate(codes: np.ndarray, output: Tensor, activation: str = "NONE") -> np.ndarray:
    """Returns codes within `limits`, in the output's type."""
    return np.clip(codes, *limits(output, activation)).astype(output.dtype.numpy)


def round_to(values: np.ndarray, output: Tensor, activation: str = "NONE") -> np.ndarray:
    """Returns rint(values) + z_y, within `limits`."""
    return saturate(np.rint(values) + quantization(output).zero_point, output, activation)
