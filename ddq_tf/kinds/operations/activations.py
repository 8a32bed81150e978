"""Activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.activations.activations import ReLU as ReluFunction
from keras.src.ops import nn
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.operations.entry import (
    A_TENSOR,
    AXES,
    SEQUENCE,
    Made,
    is_known,
    one_layer,
    ops,
    table_entry,
)
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps
from ddq_tf.layers import DDQFunction

L = keras.layers


def _clip(operation: Any, name: str) -> Any:
    low, high = operation.x_min, operation.x_max
    if np.ndim(low) or np.ndim(high) or not -math.inf < low < high < math.inf:
        return None
    if low == 0:
        return L.ReLU(float(high), name=name)
    return DDQFunction("clip", {"x_min": float(low), "x_max": float(high)}, name=name)


def _relu_function(operation: Any, name: str) -> Any:
    """Keras's layer takes no arguments below 0."""
    kept = ("negative_slope", "max_value", "threshold")
    arguments = {n: v and float(v) for n in kept for v in (getattr(operation, n),)}
    if min(v or 0.0 for v in arguments.values()) < 0:
        return DDQFunction("relu", arguments, name=name)
    return L.ReLU(**arguments, name=name)


def _gelu(operation: Any, name: str) -> Any:
    if operation.approximate:
        return DDQFunction("gelu", {"approximate": True}, name=name)
    return L.Activation("gelu", name=name)


def _log_softmax(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    return steps.of_rows(value, node.layer.axis, lambda name: DDQFunction("log_softmax", name=name))


def _glu(steps: Steps, node: FlatNode) -> Made:
    """Half of it, times the sigmoid of the other half."""
    (value,) = steps.inputs
    axis = node.layer.axis % len(value.shape)
    size = value.shape[axis]
    if axis == 0 or not is_known(value.shape) or (size or 1) % 2:
        return None
    half, gate = (
        steps.cut(value, axis, start, (size or 0) // 2, role)
        for role, start in (("half", 0), ("gated", (size or 0) // 2))
    )
    gate = steps.call("gate", lambda name: L.Activation("sigmoid", name=name), gate)
    return steps.call("", lambda name: L.Multiply(name=name), half, gate)


def _activation(word: str, kind: type, layer: Callable[[Any, str], Any], *uses: Any) -> LayerRule:
    return table_entry(word, one_layer(layer), kind, needs=A_TENSOR, examples=uses)


def _formula(
    function: str, kind: type, *uses: Any, names: tuple[str, ...] = (), words: str = ""
) -> LayerRule:
    """An operation that is one formula.

    Args:
        function: of `ddq_tf.layers.DDQFunction`.
        kind: of Keras.
        *uses: examples.
        names: of its attributes that are arguments of the formula.
        words: the operation as users write it, if not as the function.
    """

    def layer(operation: Any, name: str) -> Any:
        arguments = {each: float(getattr(operation, each)) for each in names}
        return DDQFunction(function, arguments, name=name)

    return _activation(words or function, kind, layer, *uses)


def _named(word: str, kind: type) -> LayerRule:
    def layer(operation: Any, name: str) -> Any:
        return L.Activation(word, name=name)

    return _activation(word, kind, layer, getattr(ops, word))


RULES: tuple[LayerRule, ...] = (
    _activation(
        "keras.activations.relu",
        ReluFunction,
        _relu_function,
        lambda x: keras.activations.relu(x),
        lambda x: keras.activations.relu(x, max_value=2.0),
        lambda x: keras.activations.relu(x, negative_slope=0.1),
        lambda x: keras.activations.relu(x, 0.2, 1.0, threshold=-0.5),
    ),
    _activation("relu", nn.Relu, lambda _, name: L.ReLU(name=name), ops.relu),
    _activation("relu6", nn.Relu6, lambda _, name: L.ReLU(6.0, name=name), ops.relu6),
    _activation(
        "leaky_relu",
        nn.LeakyRelu,
        lambda op, name: L.LeakyReLU(op.negative_slope, name=name),
        ops.leaky_relu,
    ),
    _activation("elu", nn.Elu, lambda op, name: L.ELU(op.alpha, name=name), ops.elu),
    _activation("softmax", nn.Softmax, lambda op, name: L.Softmax(op.axis, name=name), ops.softmax),
    _named("sigmoid", nn.Sigmoid),
    _named("tanh", op.Tanh),
    _named("silu", nn.Silu),
    _named("hard_sigmoid", nn.HardSigmoid),
    _named("hard_silu", nn.HardSilu),
    _activation(
        "gelu",
        nn.Gelu,
        _gelu,
        lambda x: ops.gelu(x, approximate=False),
        lambda x: ops.gelu(x),
    ),
    _formula("celu", nn.Celu, lambda x: ops.celu(x, 0.7), names=("alpha",)),
    _formula("hard_shrink", nn.HardShrink, lambda x: ops.hard_shrink(x, 0.3), names=("threshold",)),
    _formula("hard_tanh", nn.HardTanh, ops.hard_tanh),
    _formula("log_sigmoid", nn.LogSigmoid, ops.log_sigmoid),
    _formula("selu", nn.Selu, ops.selu),
    _formula("soft_shrink", nn.SoftShrink, lambda x: ops.soft_shrink(x, 0.3), names=("threshold",)),
    _formula("softplus", nn.Softplus, ops.softplus),
    _formula("softsign", nn.Softsign, ops.softsign),
    _formula("sparse_plus", nn.SparsePlus, ops.sparse_plus),
    _formula("sparse_sigmoid", nn.SparseSigmoid, ops.sparse_sigmoid),
    _formula("squareplus", nn.Squareplus, lambda x: ops.squareplus(x, 2), names=("b",)),
    _formula("tanh_shrink", nn.TanhShrink, ops.tanh_shrink),
    _formula(
        "threshold",
        nn.Threshold,
        lambda x: ops.threshold(x, 0.2, -0.1),
        names=("threshold", "default_value"),
    ),
    _formula("absolute", op.Absolute, ops.absolute),
    _formula("sqrt", op.Sqrt, lambda x: ops.sqrt(ops.square(x) + 0.01)),
    _formula("exponential", op.Exp, lambda x: ops.exp(ops.tanh(x)), words="exp"),
    table_entry(
        "log_softmax",
        _log_softmax,
        nn.LogSoftmax,
        needs="other axes than the batch",
        examples=(ops.log_softmax, lambda x: ops.log_softmax(x, axis=1)),
    ),
    table_entry(
        "clip",
        one_layer(_clip),
        op.Clip,
        needs="two numbers, the first below the second",
        examples=(lambda x: ops.clip(x, 0.0, 1.0), lambda x: ops.clip(x, -0.5, 0.7)),
    ),
    table_entry(
        "glu",
        _glu,
        nn.Glu,
        needs=AXES,
        examples=(
            lambda x: ops.glu(x),
            lambda x: ops.glu(x, axis=1),
            Example(build=lambda x: ops.glu(x), shape=(8,)),
            Example(build=lambda x: ops.glu(x), shape=SEQUENCE),
        ),
    ),
)
