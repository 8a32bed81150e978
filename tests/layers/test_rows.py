"""Normalizations of rows against Keras's own formulas in float64."""

from typing import Any

import keras
import numpy as np
import pytest

from ddq_tf.layers import (
    DDQGroupNormalization,
    DDQLayerNormalization,
    DDQRMSNormalization,
    DDQUnitNormalization,
)
from tests.toys import array

STEP = np.float32(0.0371)
SIZES = (1, 2, 7, 32, 96, 768, 1024, 1500)


def rows(size: int) -> dict[str, np.ndarray]:
    """Codes of an int8 tensor, wide and hardly varying, (32, size)."""
    random = np.random.default_rng(size)
    one = np.full((32, size), 100.0)
    one[:, 0] = 101
    return {
        "wide": np.rint(random.normal(0, 30, (32, size))),
        "far from 0": np.rint(random.normal(100, 1, (32, size))),
        "one other": one,
        "constant": np.full((32, size), -77.0),
        "zero": np.zeros((32, size)),
    }


def layer_norm(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def rms(x, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)


def unit(x, epsilon):
    return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), epsilon)


KINDS = {
    "layer": (DDQLayerNormalization(epsilon=1e-6), lambda x: layer_norm(x, 1e-6)),
    "layer, large epsilon": (DDQLayerNormalization(), lambda x: layer_norm(x, 1e-3)),
    "rms": (DDQRMSNormalization(epsilon=1e-6), lambda x: rms(x, 1e-6)),
    "unit": (DDQUnitNormalization(), lambda x: unit(x, 1e-12)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rounded_sums_hardly_move_what_is_normalized(kind):
    layer, exact = KINDS[kind]
    for size in SIZES:
        for name, codes in rows(size).items():
            x = STEP * codes.astype(np.float32)
            fresh: Any = type(layer).from_config(layer.get_config())
            expected = exact(x.astype(np.float64))
            error = np.abs(array(fresh(x)) - expected).max()
            # A step of an int8 tensor that holds these rows is 2^-7 of the largest.
            assert error <= 2.0**-9 * np.abs(expected).max() + 1e-5, (size, name, error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_a_row_decides_nothing(kind):
    """Sums are exact, so a row and its mirror image give the same bits."""
    layer, _ = KINDS[kind]
    for size in SIZES[:-1]:  # rows of one part
        x = STEP * rows(size)["wide"].astype(np.float32)
        fresh: Any = type(layer).from_config(layer.get_config())
        np.testing.assert_array_equal(array(fresh(x)), array(fresh(x[:, ::-1]))[:, ::-1])


def test_groups_are_rows():
    """Keras's own, in float64."""
    x = np.random.default_rng(0).normal(3, 2, (4, 12, 30)).astype(np.float32)
    layer: Any = DDQGroupNormalization(3, axis=1)
    layer.build(x.shape)
    gamma, beta = np.arange(12.0) - 5, np.arange(12.0)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    groups = layer_norm(x.astype(np.float64).reshape(4, 3, 120), 1e-3).reshape(x.shape)
    expected = groups * gamma[:, None] + beta[:, None]
    assert np.abs(array(layer(x)) - expected).max() < 2.0**-9 * np.abs(expected).max()
    np.testing.assert_allclose(array(layer(x, training=True)), expected, atol=1e-4)


def test_training_is_keras_s_own():
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 24)).astype(np.float32)
    ours: Any = DDQLayerNormalization()
    theirs: Any = keras.layers.LayerNormalization()
    np.testing.assert_array_equal(array(ours(x, training=True)), array(theirs(x)))
