"""Second-order rounding against exhaustive search and plain rounding."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import activation_layers
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.moments import columns_of
from ddq_tf.reconstruction.rounding import descend, round_block, round_kernel
from tests.toys import array, images, layers, mixed_net, shake

LOW = DDQConfig(target="litert-int8", precisions=(2,), budget=None)


def correlated(inputs: int, seed: int) -> np.ndarray:
    mixing = np.random.default_rng(seed).normal(size=(inputs, inputs))
    return (mixing @ np.diag(np.geomspace(1, 1e-3, inputs)) @ mixing.T)[None]


def error(kernel: np.ndarray, rounded: np.ndarray, correlations: np.ndarray) -> float:
    apart = (kernel - rounded)[0]
    return float(np.trace(apart.T @ correlations[0] @ apart))


@pytest.mark.parametrize("seed", range(8))
def test_it_lies_between_plain_rounding_and_the_best_of_all(seed):
    kernel = np.random.default_rng(seed).uniform(-2, 2, (1, 6, 1))
    correlations = correlated(6, seed)
    choices = itertools.product(*[[np.floor(w), np.ceil(w)] for w in kernel.ravel()])
    best = min(error(kernel, np.reshape(c, (1, 6, 1)), correlations) for c in choices)
    found = error(kernel, round_kernel(kernel, correlations, np.rint, 1e-6), correlations)
    assert found >= 0.2 * best  # it may leave floor and ceiling, so a little better is possible
    assert found <= error(kernel, np.rint(kernel), correlations) + 1e-9


def test_without_correlations_it_is_plain_rounding():
    kernel = np.random.default_rng(0).uniform(-3, 3, (1, 7, 5))
    spread = np.diag(np.geomspace(1, 100, 7))[None]
    np.testing.assert_array_equal(round_kernel(kernel, spread, np.rint), np.rint(kernel))
    nothing = np.zeros((1, 7, 7))
    np.testing.assert_array_equal(round_kernel(kernel, nothing, np.rint), np.rint(kernel))


@pytest.mark.parametrize("seed", range(6))
def test_descent_ends_where_no_single_weight_can_do_better(seed):
    rng = np.random.default_rng(seed)
    kernel, correlations = (
        rng.uniform(-2, 2, (2, 9, 4)),
        np.concatenate([correlated(9, seed), correlated(9, seed + 100)]),
    )
    correlations += 1e-2 * np.eye(9)
    start = np.rint(kernel)
    found = descend(start, kernel, correlations, np.rint, sweeps=50)

    def errors(q):
        return np.sum((q - kernel) * (correlations @ (q - kernel)), axis=1)

    assert (errors(found) <= errors(start) + 1e-9).all()
    for i, by in itertools.product(range(9), (-1, 1)):
        moved = found.copy()
        moved[:, i] += by
        assert (errors(moved) >= errors(found) - 1e-9).all()


def test_repeated_inputs_share_their_error():
    kernel = np.full((1, 4, 1), 0.4)
    rounded = round_kernel(kernel, np.ones((1, 4, 4)), np.rint, 1e-6)
    assert rounded.sum() == 2  # plain rounding gives 0, the float kernel 1.6


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_columns_are_what_layers_multiply(strides, padding):
    x = images(3, (7, 7, 4))
    conv = layers.Conv2D(5, 3, strides=strides, padding=padding, use_bias=False)
    wise = layers.DepthwiseConv2D(3, strides=strides, padding=padding, depth_multiplier=2)
    net = keras.Sequential([keras.Input((7, 7, 4)), conv])
    model = quantize_model(net, LOW, x)
    (conv,) = [layer for layer in model.layers if layer.name == conv.name]
    x = array(activation_layers(model)[0](x))  # layers multiply codes
    columns = array(columns_of(conv, tf.constant(x)))
    kernel = np.reshape(array(conv.quantizer(conv.kernel)), (-1, 5))
    np.testing.assert_allclose(columns @ kernel, np.reshape(array(conv(x)), (-1, 5)), atol=1e-5)
    model = quantize_model(keras.Sequential([keras.Input((7, 7, 4)), wise]), LOW, x)
    (wise,) = [layer for layer in model.layers if layer.name == wise.name]
    x = array(activation_layers(model)[0](x))
    columns = array(columns_of(wise, tf.constant(x)))
    kernel = np.reshape(array(wise.quantizer(wise.kernel)), (9, 4, 2))
    wanted = np.reshape(array(wise(x)), (-1, 4, 2))
    np.testing.assert_allclose(np.einsum("nkc,kcm->ncm", columns, kernel), wanted, atol=1e-5)


def test_blocks_come_nearer_and_kernels_lie_on_their_levels():
    net = shake(mixed_net())
    model = quantize_model(net, LOW, images(256))
    block = blocks_of(model)[0]
    wanted = array(keras.Model(net.input, net.get_layer("add").output)(images(256)))
    before = np.mean(np.square(array(block.model(images(256))) - wanted))
    round_block(block, images(256), images(256), views=1)
    after = np.mean(np.square(array(block.model(images(256))) - wanted))
    assert after < 0.8 * before
    for layer in block.kernels:
        np.testing.assert_allclose(array(layer.quantizer(layer.kernel)), array(layer.kernel), 1e-5)


def test_shared_and_grouped_layers_keep_their_kernels():
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", groups=2, name="grouped")(shared(shared(inputs)))
    net = keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x))
    model = quantize_model(net, LOW, images(16, (8, 8, 4)))
    before = {layer.name: array(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}
    stream = images(16, (8, 8, 4))
    for block in blocks_of(model):
        round_block(block, stream, stream, views=1)
        stream = array(block.model(stream))
    kept = [n for n, k in before.items() if np.array_equal(k, array(model.get_layer(n).kernel))]
    assert kept == ["shared", "grouped"]
