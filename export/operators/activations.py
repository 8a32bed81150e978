"""Functions of one value: tables of 256 codes, LEAKY_RELU, clamps, SOFTMAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators.arithmetic import (
    F32,
    limits,
    quantization,
    ratio,
    requantize_factor,
    round_to,
    saturate,
    scale,
)
from ddq_tf.export.operators.operand import Operand, refuse, require_same_grid
from ddq_tf.export.operators.operator import (
    FloatKernel,
    Operator,
    Requantization,
    Version,
    always,
    eight_bit_is_2,
    int8_is_2,
)

# What an operator's results are, where they are probabilities. DIV is the end of a softmax that is
# computed in float: no other function that is written so ends with one.
PROBABILITIES: Mapping[str, str] = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax", "DIV": "softmax"}


def logistic(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """LOGISTIC: y = rint(1 / (1 + e^-x) / s_y) + z_y."""
    del op
    return _table(_sigmoid, reads[0], output)


def tanh(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """TANH: y = rint(tanh(x) / s_y) + z_y."""
    del op
    return _table(np.tanh, reads[0], output)


def elu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """ELU: y = rint((e^x - 1 below 0, else x) / s_y) + z_y."""
    del op
    return _table(_elu, reads[0], output)


def gelu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """GELU by LiteRT's built-in kernel: a table of 256 codes, made in float32.

    y = round(f32(g) * f32(1 / s_y)) + z_y, halves rounded away from zero, g = x/2 erfc(-x/sqrt(2));
    with `approximate` x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    (image,) = reads
    codes = np.arange(-128, 128)
    real = ((codes - image.zero_point).astype(F32) * image.scale).astype(np.float64)
    values = _gelu_of(op)(real).astype(F32)
    scaled = (values * (F32(1) / scale(output))).astype(np.float64)
    rounded = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    table = saturate(rounded + quantization(output).zero_point, output)
    return table[image.values.astype(np.int64) + 128]


def _gelu_of(op: Op) -> Callable[[np.ndarray], np.ndarray]:
    """The function that a GELU is, in float64."""
    if op.attrs["approximate"]:
        root = np.sqrt(2 / np.pi)
        return lambda x: x * (1 + np.tanh(root * (x + 0.044715 * x**3))) / 2
    return lambda x: x * np.vectorize(math.erfc, otypes=[np.float64])(-x * math.sqrt(0.5)) / 2


def leaky_relu(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """LEAKY_RELU: y = (((x - z_x) * r + 128) >> 8) + z_y.

    r is `requantize_factor`; below 0, of the input scale times the slope.
    """
    (image,) = reads
    slope = F32(op.attrs["alpha"])
    positive = requantize_factor(image.scale, scale(output))
    factor = F32(image.scale / scale(output)) * slope
    if not (xnnpack.NEGATIVE_SLOPES.holds(factor) and abs(factor) >= xnnpack.REQUANTIZED.least):
        raise refuse(op, f"XNNPACK takes slopes of 1/256 to 128 steps. Received: {factor}")
    negative = int(np.rint(F32(256) * factor))
    centred = image.centred()
    products = centred * np.where(centred < 0, negative, positive)
    return saturate(((products + 128) >> 8) + quantization(output).zero_point, output)


def softmax(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """SOFTMAX by LiteRT's built-in kernel on x86, in float32.

    With e = expf(-s_x * beta * (max x - x)): y = round(e * f32(1 / f32(sum(e) * s_y))) + z_y, the
    sum taken one by one, halves rounded away from zero. (On ARM another kernel runs.)
    """
    (image,) = reads
    step = -image.scale * F32(op.attrs["beta"])
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


def _table(
    function: Callable[[np.ndarray], np.ndarray], image: Operand, output: Tensor
) -> np.ndarray:
    """Applies a function in float64."""
    real = image.centred() * np.float64(image.scale)
    return round_to(function(real) / np.float64(scale(output)), output)


def _slopes(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[Requantization]:
    """The factors of LEAKY_RELU above and below 0."""
    step = ratio(tensors[op.inputs[0]], tensors[op.outputs[0]])
    name = "input scale / output scale"
    yield Requantization(name=name, values=step, taken=xnnpack.REQUANTIZED)
    slope = step * F32(op.attrs["alpha"])
    name = f"{name} * slope"
    yield Requantization(name=name, values=slope, taken=xnnpack.NEGATIVE_SLOPES)
    least = xnnpack.Ratios(least=xnnpack.REQUANTIZED.least, greatest=float("inf"))
    yield Requantization(name=f"|{name}|", values=np.abs(slope), taken=least)


def _clamp(kind: str, version: Version, *, keeps_grid: bool = False) -> Operator:
    return Operator(kind=kind, kernel=clamp, version=version, keeps_grid=keeps_grid)


def _prelu(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    """PRELU of floats: x where it is not below 0, else f32(slope * x)."""
    del op
    image, slopes = values
    return np.where(image < 0, image * slopes, image)


def _of_real(function: Callable[[np.ndarray], np.ndarray]) -> FloatKernel:
    """Of floats, rounded to the nearest; LiteRT's may be a few units in the last place away."""

    def kernel(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
        del op
        (image,) = values
        with np.errstate(over="ignore"):
            return function(image.astype(np.float64)).astype(F32)

    return kernel


def _float_gelu(op: Op, values: Sequence[np.ndarray]) -> np.ndarray:
    return _of_real(_gelu_of(op))(op, values)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.expm1(np.minimum(x, 0)), x)


def _on_floats(
    kind: str, function: Callable[[np.ndarray], np.ndarray], options: str | None = None
) -> Operator:
    """Of one value, which only floats are put through."""
    return Operator(
        kind=kind,
        unknown="built-in kernels run it on integers; their rule is not written down",
        floats=_of_real(function),
        options=options,
        version=int8_is_2,
    )


OPERATORS = (
    Operator(kind="LOGISTIC", kernel=logistic, floats=_of_real(_sigmoid), version=int8_is_2),
    Operator(kind="TANH", kernel=tanh, floats=_of_real(np.tanh), version=int8_is_2),
    Operator(kind="ELU", kernel=elu, floats=_of_real(_elu), version=always(1)),
    Operator(
        kind="GELU",
        kernel=gelu,
        floats=_float_gelu,
        options="GeluOptions",
        attrs={"approximate": False},
        version=eight_bit_is_2,
    ),
    Operator(
        kind="HARD_SWISH",
        unknown="built-in kernels run it, which round in 16 bits; their rule is not written down",
        options="HardSwishOptions",
        version=always(1),
    ),
    Operator(
        kind="LEAKY_RELU",
        kernel=leaky_relu,
        options="LeakyReluOptions",
        attrs={"alpha": 0.0},
        version=always(1),
        keeps_grid=True,
        requantizations=_slopes,
    ),
    Operator(
        kind="PRELU",
        unknown="built-in kernels run it on integers; their rule is not written down",
        floats=_prelu,
        version=always(1),
    ),
    _on_floats("ABS", np.abs, "AbsOptions"),
    _on_floats("EXP", np.exp, "ExpOptions"),
    _on_floats("NEG", np.negative, "NegOptions"),
    _on_floats("SQRT", np.sqrt),
    _clamp("RELU", eight_bit_is_2, keeps_grid=True),
    # Their bounds are real numbers: they need the true scale.
    _clamp("RELU6", int8_is_2),
    _clamp("RELU_N1_TO_1", always(1)),
    Operator(
        kind="SOFTMAX",
        kernel=softmax,
        options="SoftmaxOptions",
        attrs={"beta": 1.0},
        version=int8_is_2,
    ),
)
