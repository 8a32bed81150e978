"""Activations, written as the operators on floats that a file computes them with.

Each is written once. `steps_in_keras` makes a DDQ model of it, `steps_in_float64` a table for
`ddq_tf.grids`, and the exporter operators. They keep what small values mean: nowhere 1 + x - 1,
whose x float32 loses.

Two read a whole row: softmax and log_softmax, with p_i = e_i / sum(e), e_i = exp(x_i - max x)
rounded to multiples of 2^-14. Sums of these are exact in float32 in any order, and what is made of
them by +, -, * and / is the same everywhere.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.layers.activation import elu
from ddq_tf.quantizers.fake_quant import as_float32, fake_quantize

# step("ADD", x, 1.0): an operator of TFLite on floats, from tensors and numbers to a tensor. Five
# are none of TFLite's: "ABOVE" is 1.0 where x > y, else 0.0; "ROUND" rounds to whole multiples of a
# step, "PEAK" is the greatest along the last axis, "TOTAL" the sum, "VIEW" another shape, given
# without the batch.
Step = Callable[..., Any]

ROWS = ("log_softmax",)  # formulas of a whole row; all others are of one value
POWER_STEP = 2.0**-14
MASKED = -(2.0**60)  # far below all that a softmax sees
MOST_POWERS = 1024  # sums of so many of them, each at most 1, are exact


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor under construction.

    Attributes:
        step: does one operator.
        tensor: what `step` takes and makes.
    """

    step: Step
    tensor: Any

    def of(self, kind: str, *others: Any, **attrs: Any) -> Value:
        """Returns the result of an operator that reads this first."""
        return self._made(kind, self, *others, **attrs)

    def _made(self, kind: str, *operands: Any, **attrs: Any) -> Value:
        tensors = (each.tensor if isinstance(each, Value) else each for each in operands)
        return Value(self.step, self.step(kind, *tensors, **attrs))

    def __add__(self, other: Value | float) -> Value:
        return self.of("ADD", other)

    def __sub__(self, other: Value | float) -> Value:
        return self.of("SUB", other)

    def __rsub__(self, other: float) -> Value:
        return self._made("SUB", other, self)

    def __mul__(self, other: Value | float) -> Value:
        return self.of("MUL", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.of("DIV", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._made("DIV", other, self)

    def __neg__(self) -> Value:
        return self.of("NEG")

    def __abs__(self) -> Value:
        return self.of("ABS")

    def clip(self, low: float | None = None, high: float | None = None) -> Value:
        """Returns what lies in [low, high]."""
        raised = self if low is None else self.of("MAXIMUM", low)
        return raised if high is None else raised.of("MINIMUM", high)

    def exp(self) -> Value:
        """Returns e^x."""
        return self.of("EXP")

    def elu(self) -> Value:
        """Returns x above 0, else e^x - 1."""
        return self.of("ELU")

    def above(self, threshold: float) -> Value:
        """Returns 1 where x > threshold, else 0."""
        return self.of("ABOVE", threshold)


Formula = Callable[[Value], Value]


def _powers(x: Value) -> tuple[Value, Value]:
    """The distances from the greatest of a row, and their powers of e, rounded."""
    below = x - x.of("PEAK")
    return below, below.exp().of("ROUND", POWER_STEP)


def softmax(x: Value, below: Any = None) -> Value:
    """Returns e^x / sum(e^x) along the last axis.

    Args:
        x: the rows.
        below: 0 for what counts and `MASKED` for what does not, which broadcasts to x; None if all
            counts. Of each row something must.
    """
    _, powers = _powers(x if below is None else x.of("ADD", below))
    return powers / powers.of("TOTAL")


def _log_softmax(x: Value) -> Value:
    """X - max x - log(sum) along the last axis, the sum in [1, 2^16]."""
    below, powers = _powers(x)
    total, halvings = powers.of("TOTAL"), None
    for bits in (8, 4, 2, 1):  # until the sum lies in [1, 2]
        is_larger = total.above(2.0**bits)
        total = total * (1.0 - is_larger * (1 - 2.0**-bits))
        shift = is_larger * float(bits)
        halvings = shift if halvings is None else halvings + shift
    return below - (halvings * math.log(2) + _log1p(total - 1.0))


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """c_0 + c_1 x + c_2 x^2 + ..."""
    *others, last = coefficients
    total = x * last
    for coefficient in reversed(others[1:]):
        total = (total + coefficient) * x
    return total + others[0]


def _log1p(y: Value) -> Value:
    """Log(1 + y) for y in [0, 1]: 2 artanh(s) with s = y / (y + 2), at most 1/3."""
    s = y / (y + 2.0)
    return s * _polynomial(s * s, [2 / (2 * n + 1) for n in range(9)])


def _gelu(x: Value, approximate: bool = False) -> Value:
    """x/2 erfc(-x/sqrt(2)); approximately x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))."""
    if not approximate:
        return x.of("GELU")
    inner = (x * x * 0.044715 + 1.0) * x
    return x * (inner * (2 * math.sqrt(2 / math.pi))).of("LOGISTIC")


def _softplus(x: Value) -> Value:
    """Log(1 + e^x)."""
    return x.clip(0.0) + _log1p((-abs(x)).exp())


def _log_sigmoid(x: Value) -> Value:
    """-log(1 + e^-x)."""
    return x.clip(None, 0.0) - _log1p((-abs(x)).exp())


def _mish(x: Value) -> Value:
    """X tanh(log(1 + e^x)) = x n / (n + 2), n = e^x (e^x + 2)."""
    power = x.clip(None, 20.0).exp()  # from there on the quotient is 1
    n = power * (power + 2.0)
    return x * (n / (n + 2.0))


def _elu(x: Value, alpha: float = 1.0) -> Value:
    """X above 0, else alpha (e^x - 1)."""
    return x.elu().of("PRELU", alpha)


def _selu(x: Value) -> Value:
    """ELU with the two numbers of Klambauer et al., 2017."""
    return _elu(x, 1.6732632423543772) * 1.0507009873554805


def _celu(x: Value, alpha: float = 1.0) -> Value:
    """X above 0, else alpha (e^(x / alpha) - 1)."""
    return x.clip(0.0) + (x.clip(None, 0.0) / alpha).elu() * alpha


def _softsign(x: Value) -> Value:
    """X / (1 + |x|)."""
    return x * (1.0 / (abs(x) + 1.0))


def _squareplus(x: Value, b: float = 4.0) -> Value:
    """(x + r) / 2 = max(x, 0) + b / (2 (r + |x|)), r = sqrt(x^2 + b)."""
    root = (x * x + b).of("SQRT")
    return x.clip(0.0) + (b / 2) / (root + abs(x))


def _tanh_shrink(x: Value) -> Value:
    """X - tanh(x); within 1/2 of 0 by its series."""
    near = x.clip(-0.5, 0.5)
    square = near * near
    series = square * near * _polynomial(square, _TANH)
    return series + ((x - near) - (x.of("TANH") - near.of("TANH")))


_TANH = (
    1 / 3,
    -2 / 15,
    17 / 315,
    -62 / 2835,
    1382 / 155925,
    -21844 / 6081075,
    929569 / 638512875,
    -6404582 / 10854718875,
    443861162 / 1856156927625,
)


def _hard_shrink(x: Value, threshold: float = 0.5) -> Value:
    """X where |x| > threshold, else 0."""
    return x * abs(x).above(threshold)


def _soft_shrink(x: Value, threshold: float = 0.5) -> Value:
    """X less what lies in [-threshold, threshold]."""
    return x - x.clip(-threshold, threshold)


def _threshold(x: Value, threshold: float, default_value: float) -> Value:
    """X where x > threshold, else the default."""
    passes = x.above(threshold)
    return x * passes + (1.0 - passes) * default_value


def _sparse_plus(x: Value) -> Value:
    """0 below -1, (x + 1)^2 / 4 up to 1, x above."""
    inner = x.clip(-1.0, 1.0) + 1.0
    return inner * inner * 0.25 + (x - 1.0).clip(0.0)


def _sparse_sigmoid(x: Value) -> Value:
    """(x + 1) / 2 within [0, 1]."""
    return ((x + 1.0) * 0.5).clip(0.0, 1.0)


def _sqrt(x: Value) -> Value:
    """The square root of x above 2^-40, a constant below: its gradient at 0 is 0, not infinite."""
    return x.clip(2.0**-40).of("SQRT")


def _hard_sigmoid(x: Value) -> Value:
    """X / 6 + 1/2 within [0, 1]."""
    return (x + 3.0).clip(0.0, 6.0) * (1 / 6)


def _relu(
    x: Value, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> Value:
    """Keras's ReLU with all its arguments."""
    passed = x * x.above(threshold)
    kept = passed if max_value is None else passed.clip(0.0, max_value)
    if not negative_slope:
        return kept
    return kept - (threshold - x).clip(0.0) * negative_slope


# By Keras's names, of activations or else of operations.
FORMULAS: dict[str, Callable[..., Value]] = {
    "absolute": Value.__abs__,
    "celu": _celu,
    "clip": lambda x, x_min, x_max: x.clip(x_min, x_max),
    "elu": _elu,
    "exponential": Value.exp,
    "gelu": _gelu,
    "hard_shrink": _hard_shrink,
    "hard_sigmoid": _hard_sigmoid,
    "hard_tanh": lambda x: x.clip(-1.0, 1.0),
    "log_sigmoid": _log_sigmoid,
    "log_softmax": _log_softmax,
    "mish": _mish,
    "relu": _relu,
    "selu": _selu,
    "soft_shrink": _soft_shrink,
    "softplus": _softplus,
    "softsign": _softsign,
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": _sparse_sigmoid,
    "sqrt": _sqrt,
    "squareplus": _squareplus,
    "tanh_shrink": _tanh_shrink,
    "threshold": _threshold,
}


def steps_in_keras(kind: str, *operands: Any) -> Any:
    """Does a step in float32, as `keras.ops`."""
    return _KERAS[kind](*operands)


def steps_in_float64(kind: str, *operands: Any) -> np.ndarray:
    """Does a step in float64, as numpy."""
    with np.errstate(over="ignore"):
        return _FLOAT64[kind](*operands)


def _total(powers: Any) -> Any:
    """Exact sums of parts of a row, added one by one."""
    parts: list[Any] = [
        ops.sum(powers[..., start : start + MOST_POWERS], axis=-1, keepdims=True)
        for start in range(0, powers.shape[-1], MOST_POWERS)
    ]
    return functools.reduce(ops.add, parts)


def _rounded(x: Any, step: float) -> Any:
    """To a grid that no value here leaves: powers are at most 1."""
    return fake_quantize(x, as_float32(step), as_float32(0), as_float32(1 / step))


_KERAS: dict[str, Callable[..., Any]] = {
    "ABOVE": lambda x, y: ops.cast(x > y, "float32"),
    "ABS": ops.absolute,
    # Not ops.add, which takes a column for a bias where rows are as many as columns.
    "ADD": lambda x, y: ops.subtract(x, -y),
    "DIV": ops.divide,
    "ELU": elu,
    "EXP": ops.exp,
    "GELU": lambda x: ops.gelu(x, approximate=False),
    "LOGISTIC": ops.sigmoid,
    "MAXIMUM": ops.maximum,
    "MINIMUM": ops.minimum,
    "MUL": ops.multiply,
    "NEG": ops.negative,
    "PEAK": lambda x: ops.max(x, axis=-1, keepdims=True),
    "PRELU": lambda x, slope: ops.where(x < 0, x * slope, x),
    "ROUND": _rounded,
    "SQRT": ops.sqrt,
    "SUB": ops.subtract,
    "TANH": ops.tanh,
    "TOTAL": _total,
    "VIEW": lambda x, target: ops.reshape(x, (-1, *target)),
}

_FLOAT64: dict[str, Callable[..., np.ndarray]] = {
    "ABOVE": lambda x, y: (x > y).astype(np.float64),
    "ABS": np.abs,
    "ADD": np.add,
    "DIV": np.divide,
    "ELU": lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
    "EXP": np.exp,
    "GELU": lambda x: x * np.array([math.erfc(-v * math.sqrt(0.5)) / 2 for v in x]),
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))),
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "MUL": np.multiply,
    "NEG": np.negative,
    "PRELU": lambda x, slope: np.where(x < 0, x * slope, x),
    "SQRT": np.sqrt,
    "SUB": np.subtract,
    "TANH": np.tanh,
}


def values_of(formula: Formula) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a formula of one value as a function of float64 arrays of rank 1."""
    return lambda x: formula(Value(steps_in_float64, x)).tensor
