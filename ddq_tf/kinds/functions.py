"""Functions of one value: activations, and how the integer graph computes each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ddq_tf.kinds.rule import Output
from ddq_tf.layers import SOFTMAX_SCALE, DDQFunction, elu
from ddq_tf.layers.formulas import FORMULAS, ROWS, Formula, values_of

Values = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Function:
    """What is known of an activation.

    Attributes:
        name: Keras's; "clipped_relu" for a ReLU with a ceiling other than 6.
        output: how the integer graph sees what it writes where it stands alone.
        is_fused: whether an operator that it alone follows does it.
        values: float64 to float64, for what is looked up in a table of 256 entries.
        grid: (scale, lowest code) of what it writes, where that is fixed.
        operator: TFLite's, where it is one on integers.
        formula: the same on floats, where XNNPACK has no kernel for integers.
        gate: the function g of x * g(x).
    """

    name: str
    output: Output | None
    is_fused: bool = False
    values: Values | None = None
    grid: tuple[float, int] | None = None
    operator: str = ""
    formula: Formula | None = None
    gate: str = ""


# A hard sigmoid is our own 1x1 convolution, with 1/2 and 1 on the grid.
FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function(name="linear", output=Output.KEEPS, is_fused=True),
        Function(name="relu", output=Output.KEEPS, is_fused=True),
        Function(name="relu6", output=Output.ROUNDS, is_fused=True),
        Function(name="clipped_relu", output=Output.ROUNDS, is_fused=True),
        Function(name="softmax", output=Output.FIXED, grid=(SOFTMAX_SCALE, 0), operator="SOFTMAX"),
        Function(name="leaky_relu", output=None),
        Function(name="silu", output=None, gate="sigmoid"),
        Function(name="hard_silu", output=None, gate="hard_sigmoid"),
        Function(
            name="sigmoid",
            output=Output.FIXED,
            grid=(1 / 256, 0),
            values=lambda x: 1 / (1 + np.exp(-np.clip(x, -700, 700))),
            operator="LOGISTIC",
        ),
        Function(
            name="tanh",
            output=Output.FIXED,
            grid=(1 / 128, -128),
            values=np.tanh,
            operator="TANH",
        ),
        Function(name="hard_sigmoid", output=Output.FIXED, grid=(1 / 254, 0)),
        Function(
            name="elu",
            output=Output.OWN,
            values=lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
            operator="ELU",
        ),
        Function(
            name="gelu",
            output=Output.OWN,
            values=values_of(FORMULAS["gelu"]),
            operator="GELU",
            formula=FORMULAS["gelu"],
        ),
    )
}


# What Keras knows by a name alone, and is one formula: a `DDQFunction` in DDQ models.
FUNCTIONS |= {
    name: Function(name=name, output=None, formula=formula)
    for name, formula in FORMULAS.items()
    # The threshold needs arguments.
    if name not in FUNCTIONS and hasattr(keras.activations, name) and name != "threshold"
}


# By the name that a function of tf.nn has: Keras's for the same function.
_OF_TENSORFLOW = {
    "swish": "silu",
    "softmax_v2": "softmax",
    "log_softmax_v2": "log_softmax",
    **{name: name for name in ("relu", "relu6", "leaky_relu", "elu", "selu", "gelu")},
    **{name: name for name in ("sigmoid", "tanh", "softplus", "softsign")},
}


def activation_name(layer: Any) -> str | None:
    """Returns Keras's name for the function of an activation layer, or of a layer's `activation`.

    ReLU layers are "relu", "relu6", "clipped_relu" (another ceiling) or "leaky_relu", ELU(1) is
    "elu"; None stands for functions without a name and arguments without an integer form.
    """
    if isinstance(layer, keras.layers.LeakyReLU):
        return "leaky_relu"
    if isinstance(layer, keras.layers.ELU):
        return "elu" if layer.alpha == 1 else None
    if isinstance(layer, keras.layers.ReLU):
        if layer.threshold:
            return None
        if layer.max_value is None:
            return "leaky_relu" if layer.negative_slope else "relu"
        if layer.negative_slope or not 0 < layer.max_value < float("inf"):
            return None
        return "relu6" if layer.max_value == 6 else "clipped_relu"
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis == -1 else None
    function = layer.activation
    if function is elu:
        return "elu"
    module = (getattr(function, "__module__", None) or "").split(".")[0]
    if module == "tensorflow":  # tf.nn.relu and its kin compute what Keras's do
        return _OF_TENSORFLOW.get(function.__name__)
    name = keras.activations.serialize(function) if module == "keras" else None
    return name if isinstance(name, str) else None


def function_of(layer: Any) -> Function | None:
    """Returns what is known of the function of an activation layer, or of a layer's `activation`.

    None for functions without an integer form.
    """
    if isinstance(layer, DDQFunction):
        values = None if layer.function in ROWS else values_of(layer.formula)
        return Function(
            name=layer.function, output=Output.OWN, values=values, formula=layer.formula
        )
    return FUNCTIONS.get(activation_name(layer) or "")


def ceiling_of(layer: Any) -> float | None:
    """Returns where the ReLU of an activation layer ends: 6 for ReLU6; None for no ceiling."""
    if isinstance(layer, keras.layers.ReLU):
        return None if layer.max_value is None else float(layer.max_value)
    return 6.0 if activation_name(layer) == "relu6" else None


def known_names() -> str:
    """Returns the names of all functions with an integer form, as errors list them."""
    return ", ".join(FUNCTIONS)
