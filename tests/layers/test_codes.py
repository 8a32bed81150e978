"""Sums of codes against integers, and gradients of inference against those of real numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.layers.codes import sums_of_codes
from tests.toys import array, images, summing_net

_LARGEST = 255 * 127


def codes(shape, low, high, seed=0):
    return np.random.default_rng(seed).integers(low, high + 1, shape)


@pytest.mark.parametrize("terms", [1, 518, 519, 3000])
def test_sums_are_those_of_integers(terms):
    left, right = codes((50, terms), 0, 255), codes((terms, 20), -127, 127)
    given = (keras.ops.convert_to_tensor(side.astype(np.float32)) for side in (left, right))
    sums = sums_of_codes(keras.ops.matmul, *given, largest=_LARGEST, terms=terms)
    np.testing.assert_array_equal(array(sums), (left @ right).astype(np.float32))


def test_a_sum_that_leaves_24_bits_on_its_way_comes_back_exactly():
    """1 + 254 * 127 * 1000 - 254 * 127 * 1000: float32 alone loses the 1."""
    left = np.full((1, 2001), 254, np.int64)
    left[0, 0] = 1
    right = np.repeat([1, 127, -127], [1, 1000, 1000])[:, None]
    given = [keras.ops.convert_to_tensor(side.astype(np.float32)) for side in (left, right)]
    parts = []

    def multiply(one, other):
        parts.append(np.abs(array(one)) @ np.abs(array(other)))
        return keras.ops.matmul(one, other)

    sums = sums_of_codes(multiply, *given, largest=_LARGEST, terms=2001)
    assert np.max(parts) <= 2**24
    # Parts are exact; where they are added up, float32 rounds to even numbers above 2^24.
    assert abs(float(array(sums)[0, 0]) - 1) <= 1


def test_sums_that_cannot_be_parted_are_float64():
    kernel = codes((31, 31, 4, 1), -127, 127).astype(np.float32)
    inputs = codes((1, 31, 31, 4), 0, 255).astype(np.float32)
    dtypes = []

    def multiply(one, other):
        dtypes.append(keras.backend.standardize_dtype(one.dtype))
        return keras.ops.depthwise_conv(one, other)

    sums = sums_of_codes(multiply, inputs, kernel, largest=_LARGEST, terms=31 * 31, splits=False)
    assert dtypes == ["float64"]
    exact = np.sum(inputs.astype(np.int64)[0] * kernel.astype(np.int64)[..., 0], axis=(0, 1))
    np.testing.assert_array_equal(array(sums)[0, 0, 0], exact.astype(np.float32))


@pytest.fixture(scope="module")
def model():
    return quantize_model(summing_net(), DDQConfig(), images())


def test_gradients_in_inference_are_those_of_real_numbers(model, monkeypatch):
    """Against each layer's sums of real numbers in float64, as where no grid is known."""
    rng = np.random.default_rng(0)
    compared = 0
    for layer in weighted_layers(model):
        source: Any = layer.grids.layers[0]
        shape = (2, *layer.input.shape[1:])
        x = tf.constant(rng.integers(0, 100, shape).astype(np.float32) * source.step)

        def gradients(layer=layer, x=x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=False)
                loss = tf.reduce_sum(tf.square(y))
            return [array(g) for g in tape.gradient(loss, [x, layer.kernel.value])]

        ours = gradients()
        with monkeypatch.context() as patched:
            patched.setattr(layer, "grids", None)
            theirs = gradients()
        for one, other in zip(ours, theirs, strict=True):
            largest = np.abs(other).max()
            assert largest > 0
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)
            compared += 1
    assert compared > 20


def test_clones_know_their_grids_too(model):
    clone = keras.models.clone_model(model)
    for one, other in zip(weighted_layers(model), weighted_layers(clone), strict=True):
        (ours,), (theirs,) = one.grids.layers, other.grids.layers
        assert ours is not theirs
        assert ours.name == theirs.name


def test_a_layer_that_is_called_twice_has_one_grid():
    inputs = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    net = keras.Model(inputs, keras.layers.Flatten()(shared(keras.layers.ReLU()(shared(inputs)))))
    layer: Any = quantize_model(net, DDQConfig(), images()).get_layer("shared")
    assert layer.grids is not None
