"""Sums, products, means and extrema."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import (
    F32,
    AddConstants,
    add_constants,
    mean_scale,
    product_multiplier,
    quantization,
    ratio,
    round_to,
    saturate,
    scale,
)
from ddq_tf.export.operators.operand import Operand, refuse, require_same_grid
from ddq_tf.export.operators.operator import (
    FUSED,
    FloatKernel,
    Operator,
    Requantization,
    int8_is_2,
)
from ddq_tf.export.operators.products import product_requantization


def add(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """ADD and SUB: y = ((a - z_a) * A + (b - z_b) * B + 2^(shift - 1)) >> shift, plus z_y."""
    left, right = reads
    by = add_constants(left.scale, right.scale, scale(output), subtract=op.kind == "SUB")
    total = left.centred() * by.left + right.centred() * by.right
    codes = ((total + (1 << (by.shift - 1))) >> by.shift) + quantization(output).zero_point
    return saturate(codes, output, op.attrs["fused_activation_function"])


def multiply(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MUL: y = rint(f32((a - z_a)(b - z_b)) * f32(f32(s_a * s_b) / s_y)) + z_y."""
    left, right = reads
    products = (left.centred() * right.centred()).astype(F32)
    multiplier = product_multiplier(left.scale, right.scale, scale(output))
    return round_to(products * multiplier, output, op.attrs["fused_activation_function"])


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
    totals = image.values.sum(axis=(1, 2), dtype=np.int64, keepdims=bool(op.attrs["keep_dims"]))
    return saturate(np.rint(totals.astype(F32) * factor + bias), output)


def extremum(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """MAXIMUM and MINIMUM, on one grid."""
    require_same_grid(op, reads, output)
    choose = np.maximum if op.kind == "MAXIMUM" else np.minimum
    return choose(reads[0].values, reads[1].values)


def _floats(compute: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> FloatKernel:
    """Of two tensors, each value rounded once."""

    def kernel(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
        if op.attrs["fused_activation_function"] != "NONE":
            raise refuse(op, "its clamp on floats is not written down")
        return compute(*values)

    return kernel


def _float_maximum(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    del op
    return np.maximum(*values)


def _float_minimum(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    del op
    return np.minimum(*values)


def _float_max(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    image, axes = values
    return image.max(axis=_axes(axes), keepdims=bool(op.attrs["keep_dims"]))


def _float_sum(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    """SUM of floats that no order of adding rounds."""
    image, axes = values
    wide, keeps = image.astype(np.float64), bool(op.attrs["keep_dims"])
    total = wide.sum(axis=_axes(axes), keepdims=keeps)
    unit = np.spacing(np.abs(wide).sum(axis=_axes(axes), keepdims=True).astype(F32))
    if np.any(wide % unit):
        raise refuse(op, "its floats are too fine for their sum to be exact")
    return total.astype(F32)


def _axes(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(axis) for axis in values.ravel())


def _add_constants(reads: Sequence[np.float32], output: np.float32) -> AddConstants:
    """The factors and the shift of ADD, and of SUB but for a sign."""
    return add_constants(reads[0], reads[1], output)


def _mean_constants(reads: Sequence[np.float32], output: np.float32) -> float:
    """f32(s_x / s_y)."""
    return float(reads[0] / output)


def _ratios(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[Requantization]:
    """Each input's scale by the output's."""
    for name in op.inputs:
        yield Requantization(
            name="input scale / output scale",
            values=ratio(tensors[name], tensors[op.outputs[0]]),
            taken=xnnpack.SUMS,
        )


def _mul_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 for INT8; 3 if the product of the input scales reaches the output scale."""
    quantizations = [tensors[name].quantization for name in (*op.inputs, *op.outputs)]
    scales = [float(item.scale[0]) for item in quantizations if item is not None]
    if len(scales) == 3 and scales[0] * scales[1] >= scales[2]:
        return 3
    return int8_is_2(op, tensors)


def _sum(kind: str, options: str) -> Operator:
    return Operator(
        kind=kind,
        kernel=add,
        floats=_floats(np.add if kind == "ADD" else np.subtract),
        options=options,
        attrs=FUSED,
        version=int8_is_2,
        constants=_add_constants,
        requantizations=_ratios,
    )


def _extremum(kind: str) -> Operator:
    return Operator(
        kind=kind,
        kernel=extremum,
        floats=_float_maximum if kind == "MAXIMUM" else _float_minimum,
        options="MaximumMinimumOptions",
        version=int8_is_2,
        keeps_grid=True,
    )


OPERATORS = (
    _sum("ADD", "AddOptions"),
    _sum("SUB", "SubOptions"),
    Operator(
        kind="MUL",
        kernel=multiply,
        floats=_floats(np.multiply),
        options="MulOptions",
        attrs=FUSED,
        version=_mul_version,
        requantizations=product_requantization(xnnpack.PRODUCTS),
    ),
    Operator(
        kind="DIV",
        unknown="built-in kernels run it on integers; their rule is not written down",
        floats=_floats(np.divide),
        options="DivOptions",
        attrs=FUSED,
        version=int8_is_2,
    ),
    Operator(
        kind="MEAN",
        kernel=mean,
        options="ReducerOptions",
        attrs={"keep_dims": False},
        version=int8_is_2,
        constants=_mean_constants,
    ),
    Operator(
        kind="SUM",
        unknown="no model of this package has it; how XNNPACK rounds it is not measured",
        floats=_float_sum,
        options="ReducerOptions",
        attrs={"keep_dims": False},
        version=int8_is_2,
    ),
    Operator(
        kind="REDUCE_MAX",
        unknown="no model of this package has it on integers",
        floats=_float_max,
        options="ReducerOptions",
        attrs={"keep_dims": False},
        version=int8_is_2,
    ),
    _extremum("MAXIMUM"),
    _extremum("MINIMUM"),
)
