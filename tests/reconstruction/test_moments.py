"""Moments against numpy's, and the kernels that they ask for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.moments import Moments, input_moments, moments_of
from ddq_tf.reconstruction.rounding import best_ridge, kernels_for, round_block
from ddq_tf.transform.calibrate import float_network
from tests.toys import array, images, layers, mixed_net, shake

LOW = DDQConfig(target="litert-int8", precisions=(2,), budget=None)
GAIN = np.ones((1, 1))


def about(x: np.ndarray, f: np.ndarray) -> Moments:
    """Of columns (groups, positions, k), by numpy."""
    dx, df = (c - c.mean(axis=1, keepdims=True) for c in (x, f))
    return Moments(
        count=x.shape[1],
        x_mean=x.mean(axis=1),
        f_mean=f.mean(axis=1),
        xx=np.einsum("gni,gnj->gij", dx, dx) / x.shape[1],
        xf=np.einsum("gni,gnj->gij", dx, df) / x.shape[1],
    )


def columns(positions: int, seed: int, groups: int = 1, k: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(size=(groups, 1, k)), 1, (groups, positions, k))


def assert_same(first: Moments, second: Moments, tolerance: float = 1e-9) -> None:
    assert first.count == second.count
    for name in ("x_mean", "f_mean", "xx", "xf"):
        values = getattr(first, name), getattr(second, name)
        np.testing.assert_allclose(*values, atol=tolerance, rtol=tolerance, err_msg=name)


def test_parts_add_up():
    x, f = columns(30, 0, groups=3), columns(30, 1, groups=3)
    parts = about(x[:, :7], f[:, :7]) + about(x[:, 7:8], f[:, 7:8]) + about(x[:, 8:], f[:, 8:])
    assert_same(parts, about(x, f))


def test_about_zero_and_power():
    x, f = columns(30, 2), columns(30, 3)
    found = about(x, f).about_zero()
    np.testing.assert_allclose(found.xx, np.einsum("gni,gnj->gij", x, x) / 30)
    np.testing.assert_allclose(found.xf, np.einsum("gni,gnj->gij", x, f) / 30)
    np.testing.assert_allclose(found.power, np.mean(np.square(x), axis=(1, 2)))
    np.testing.assert_allclose(about(x, f).power, found.power)


@pytest.mark.parametrize("name", ["expand", "wise", "logits"])
def test_they_are_of_what_the_layer_reads_in_both_networks(name):
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2D(5, 1, activation="relu", name="expand")(x)
    x = layers.DepthwiseConv2D(2, activation="relu", name="wise")(x)
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))
    model = quantize_model(shake(keras.Model(inputs, x)), LOW, images(80, (6, 6, 3)))
    layer = model.get_layer(name)
    (block, *_) = [b for b in blocks_of(model) if layer in b.layers]
    stream, upto = tf.constant(images(80, (6, 6, 3))), keras.Model(model.input, block.start)
    with float_network(model):
        float_stream = upto(stream)
    changed = layer.kernel if name == "logits" else model.get_layer("conv").kernel
    before = [(changed, array(changed).copy())]
    reads = keras.Model(model.input, layer.input)
    with float_network(model):
        f = array(reads(stream))
    if name != "logits":
        changed.assign(array(changed) * 0.5)
    now, x = array(changed).copy(), array(reads(stream))
    if name == "wise":
        x, f = (
            np.stack([c[:, i : i + 3, j : j + 3] for i in (0, 1) for j in (0, 1)], axis=-1)
            .transpose(3, 0, 1, 2, 4)
            .reshape(5, -1, 4)
            for c in (x, f)
        )
    else:
        x, f = (c.reshape(1, -1, c.shape[-1]) for c in (x, f))
    (found,) = moments_of(
        block, layer, array(float_stream), array(upto(stream)), [np.arange(80)], before
    )
    assert_same(found, about(x.astype(np.float64), f.astype(np.float64)), 1e-5)
    np.testing.assert_array_equal(array(changed), now)
    (own,), outputs = input_moments(block, [layer], array(upto(stream)))
    assert_same(own, about(x.astype(np.float64), x.astype(np.float64)), 1e-5)
    given = array(keras.Model(model.input, block.output)(images(80, (6, 6, 3)), training=True))
    np.testing.assert_allclose(outputs[:], given, rtol=1e-6)


def test_kernels_undo_what_is_linear():
    f, kernel = columns(200, 4), np.random.default_rng(5).normal(size=(1, 5, 3))
    turned = np.linalg.qr(np.random.default_rng(6).normal(size=(5, 5)))[0]
    mixing = turned * np.geomspace(0.5, 2, 5)
    (found,) = kernels_for(kernel, about(f @ mixing, f), [1e-9])
    np.testing.assert_allclose(found, np.linalg.inv(mixing) @ kernel, atol=0.01)


def test_kernels_solve_their_equation():
    x, f = columns(200, 7, groups=2), columns(200, 8, groups=2)
    kernel = np.random.default_rng(9).normal(size=(2, 5, 3))
    moments = about(x, f)
    for ridge, found in zip((0.3, 5.0), kernels_for(kernel, moments, (0.3, 5.0)), strict=True):
        scale = ridge * np.trace(moments.xx, axis1=1, axis2=2) / 5 + 1e-4 * moments.power
        slope = moments.xx @ found - moments.xf @ kernel + scale[:, None, None] * (found - kernel)
        np.testing.assert_allclose(slope, 0, atol=1e-10)
    assert kernels_for(kernel, moments, [np.inf])[0] is kernel


def test_the_ridge_is_small_where_halves_agree_and_infinite_where_they_tell_nothing():
    f, kernel = columns(400, 10), np.ones((1, 5, 1))
    halves = [about(part * 0.8, part) for part in (f[:, :200], f[:, 200:])]
    assert best_ridge(kernel, halves, GAIN) == 0.01
    rng, few = np.random.default_rng(12), columns(12, 13, k=5)
    noisy = [about(p + rng.normal(0, 0.01, p.shape), p) for p in (few[:, :6], few[:, 6:])]
    assert best_ridge(kernel, noisy, GAIN) > 1
    assert best_ridge(kernel, halves[:1], GAIN) == np.inf


def test_means_of_the_outputs_are_those_of_the_float_network():
    x = images(256)
    model = quantize_model(shake(mixed_net()), LOW, x)
    reads = keras.Model(model.input, [model.get_layer(n).output for n in ("norm", "expand")])

    def means() -> list[np.ndarray]:
        # A linear layer's own output, before its activation is rounded.
        return [array(y).mean(axis=(0, 1, 2)) for y in reads(x)]

    with float_network(model):
        wanted = means()
    before = means()
    round_block(blocks_of(model)[0], x, x, views=1)
    for mean, had, found in zip(wanted, before, means(), strict=True):
        assert np.abs(had - mean).max() > 0.01
        np.testing.assert_allclose(found, mean, atol=1e-4)


def test_wide_depthwise_layers_are_rounded_too():
    net = keras.Sequential([keras.Input((3, 3, 500)), layers.DepthwiseConv2D(3, name="wise")])
    model = quantize_model(net, LOW, images(8, (3, 3, 500)))
    before = array(model.get_layer("wise").kernel).copy()
    stream = images(8, (3, 3, 500))
    round_block(blocks_of(model)[0], stream, stream, views=1)
    assert not np.array_equal(array(model.get_layer("wise").kernel), before)


def test_one_image_is_enough():
    model, x = quantize_model(shake(mixed_net()), LOW, images(8)), images(1)
    round_block(blocks_of(model)[0], x, x, views=1)
