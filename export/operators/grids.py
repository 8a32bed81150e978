"""Changes of grid and type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.export.operators.arithmetic import (
    F32,
    quantization,
    ratio,
    requantize_factor,
    round_to,
    saturate,
    scale,
)
from ddq_tf.export.operators.operand import Operand, refuse
from ddq_tf.export.operators.operator import Operator, Requantization, always


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


def _ratio(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[Requantization]:
    """The input's scale by the output's, between INT8 tensors."""
    image, output = tensors[op.inputs[0]], tensors[op.outputs[0]]
    if image.dtype is output.dtype is DType.INT8:
        name = "input scale / output scale"
        yield Requantization(name=name, values=ratio(image, output), taken=xnnpack.REQUANTIZED)


def _quantize_constants(reads: Sequence[np.float32], output: np.float32) -> int:
    """The factor in 256ths."""
    return requantize_factor(reads[0], output)


def _dequantize_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 from INT8, 5 if per channel, 6 from INT4, 7 from INT2."""
    source = tensors[op.inputs[0]]
    per_channel = source.quantization is not None and source.quantization.scale.size > 1
    by_type = {DType.INT8: 2, DType.INT4: 6, DType.INT2: 7}.get(source.dtype, 1)
    return max(by_type, 5 if per_channel else 1)


OPERATORS = (
    Operator(
        kind="QUANTIZE",
        kernel=quantize,
        options="QuantizeOptions",
        version=always(1),
        changes_type=True,
        constants=_quantize_constants,
        requantizations=_ratio,
    ),
    Operator(
        kind="DEQUANTIZE",
        kernel=dequantize,
        options="DequantizeOptions",
        version=_dequantize_version,
        changes_type=True,
    ),
)
