"""Formulas of activations against the functions themselves, in float64 and in float32."""

import keras
import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.layers import DDQFunction
from ddq_tf.layers.formulas import FORMULAS, ROWS, values_of
from tests.toys import array

X = np.concatenate([np.linspace(-30, 30, 2401), [-1e3, 1e3, -1e-4, 1e-4, -0.0]])


def log1p_exp(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return np.exp(-log1p_exp(-x))


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def piecewise(x, *pairs):
    """Values where a condition holds, the first that does; else 0."""
    conditions, values = zip(*pairs, strict=True)
    return np.select(conditions, values, 0.0)


def relu(x, slope, ceiling, threshold):
    kept = np.clip(np.where(x > threshold, x, 0), 0, ceiling)
    return kept - slope * np.maximum(threshold - x, 0)


# By name: arguments, and the function as papers and Keras's documentation have it.
EXACT = {
    "absolute": ({}, np.abs),
    "clip": ({"x_min": -0.5, "x_max": 0.7}, lambda x: np.clip(x, -0.5, 0.7)),
    "celu": ({"alpha": 0.7}, lambda x: np.maximum(x, 0) + 0.7 * np.expm1(np.minimum(x, 0) / 0.7)),
    "elu": ({"alpha": 0.5}, lambda x: elu(x, 0.5)),
    "exponential": ({}, lambda x: np.exp(np.minimum(x, 700))),
    "gelu": (
        {"approximate": True},
        lambda x: x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    ),
    "hard_shrink": ({"threshold": 0.3}, lambda x: np.where(np.abs(x) > 0.3, x, 0)),
    "hard_sigmoid": ({}, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hard_tanh": ({}, lambda x: np.clip(x, -1, 1)),
    "log_sigmoid": ({}, lambda x: -log1p_exp(-x)),
    "mish": ({}, lambda x: x * np.tanh(log1p_exp(x))),
    "relu": (
        {"negative_slope": 0.2, "max_value": 1.0, "threshold": -0.5},
        lambda x: relu(x, 0.2, 1.0, -0.5),
    ),
    "selu": ({}, lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772)),
    "soft_shrink": ({"threshold": 0.3}, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.3, 0)),
    "softplus": ({}, log1p_exp),
    "softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "sparse_plus": ({}, lambda x: piecewise(x, (x >= 1, x), (x > -1, (x + 1) ** 2 / 4))),
    "sparse_sigmoid": ({}, lambda x: np.clip((x + 1) / 2, 0, 1)),
    "sqrt": ({}, lambda x: np.sqrt(np.maximum(x, 2.0**-40))),
    "squareplus": ({"b": 2.0}, lambda x: (x + np.sqrt(x * x + 2)) / 2),
    "tanh_shrink": ({}, lambda x: x - np.tanh(x)),
    "threshold": (
        {"threshold": 0.2, "default_value": -0.1},
        lambda x: np.where(x > 0.2, x, -0.1),
    ),
}


def test_every_formula_is_compared():
    assert set(EXACT) == set(FORMULAS) - set(ROWS)


@pytest.mark.parametrize("name", EXACT)
def test_in_float64_a_formula_is_the_function(name):
    arguments, exact = EXACT[name]
    x = np.minimum(X, 700) if name == "exponential" else X
    made = values_of(lambda value: FORMULAS[name](value, **arguments))(x)
    # Series end where float32 does.
    np.testing.assert_allclose(made, exact(x), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_inference_and_training_are_keras_own_function(name):
    arguments, _ = EXACT[name]
    x = X[np.abs(X) <= 30].astype(np.float32)  # at -1000 Keras's squareplus loses two digits
    x = x[x >= 0] if name == "sqrt" else x
    layer = DDQFunction(name, arguments)
    function = getattr(keras.activations, name, None) or getattr(keras.ops, name)
    theirs = array(function(x, **arguments))
    # At 0 our square root is 2^-20, so that it has a gradient.
    np.testing.assert_allclose(
        array(layer(x, training=True)), theirs, rtol=0, atol=name == "sqrt" and 2.0**-20
    )
    np.testing.assert_allclose(array(layer(x)), theirs, rtol=3e-6, atol=2e-6)


# Where a plain formula in float32 gives 0, or noise.
SMALL = {
    "log_sigmoid": (50.0, -np.exp(-50.0)),
    "softplus": (-50.0, np.exp(-50.0)),
    "squareplus": (-1e4, 1e-4),
    "tanh_shrink": (1e-5, 1e-15 / 3),
    "mish": (-50.0, -50 * np.exp(-50.0)),
    "celu": (-1e-9, -1e-9),
    "elu": (-1e-9, -1e-9),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_values_keep_their_digits(name):
    x, exact = SMALL[name]
    made = float(array(DDQFunction(name)(np.array([x], np.float32)))[0])
    assert made == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 7, 300, 1500])
def test_log_softmax(classes):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (20, classes)).astype(np.float32)
    peak = x.max(axis=-1, keepdims=True).astype(np.float64)
    below = x - peak
    total = (np.rint(np.exp(below) * 2**14) / 2**14).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(array(DDQFunction("log_softmax")(x)), below - np.log(total), 3e-6)


def test_it_is_saved_with_its_arguments():
    layer = DDQFunction("celu", {"alpha": 0.7}, name="f")
    again = DDQFunction.from_config(layer.get_config())
    assert (again.function, dict(again.arguments), again.name) == ("celu", {"alpha": 0.7}, "f")


def test_unknown_functions_are_refused():
    with pytest.raises(DDQError, match=r"'f': function must be one of .*celu.*'sparsemax'"):
        DDQFunction("sparsemax", name="f")
