"""Equalization: rows become alike, the float network stays."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import activation_layers
from ddq_tf.models import mobilenet_v2
from ddq_tf.reconstruction.equalize import equalize, row_magnitudes
from ddq_tf.transform.calibrate import float_network
from tests.toys import array, images, layers, mixed_net, shake

EIGHT = DDQConfig(precisions=(8,), budget=None)


def float_outputs(model, x) -> np.ndarray:
    with float_network(model):
        return array(model(x))


def unlike(model: keras.Model, seed: int = 0) -> keras.Model:
    """Rows of kernels that differ by up to 50 times; BatchNorm and ReLU6 in between."""
    rng = np.random.default_rng(seed)
    for layer in shake(model).layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            kernel = array(layer.kernel)
            rows = np.exp(rng.uniform(-2, 2, kernel.shape[-2]))[:, None]
            layer.kernel.assign(kernel * rows)
    return model


def block() -> keras.Model:
    """A bottleneck with a residual, as MobileNetV2 has it."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 8, 3))

    def norm(y, relu=True):
        y = layers.BatchNormalization()(y)
        return layers.ReLU(6.0)(y) if relu else y

    skip = norm(layers.Conv2D(8, 1, use_bias=False, name="in")(x), relu=False)
    x = norm(layers.Conv2D(24, 1, use_bias=False, name="expand")(skip))
    x = norm(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="dw")(x))
    x = norm(layers.Conv2D(8, 1, use_bias=False, name="project")(x), relu=False)
    x = layers.Add()([x, skip])
    x = norm(layers.Conv2D(16, 1, use_bias=False, name="head")(x))
    return keras.Model(inputs, layers.Dense(4, name="logits")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    "net", [block, mixed_net, lambda: mobilenet_v2(input_shape=(32, 32, 3), classes=4, alpha=0.25)]
)
def test_the_float_network_stays(net):
    model_in = unlike(net())
    x = images(32, model_in.input_shape[1:])
    model = quantize_model(model_in, EIGHT, x)
    before = [v.numpy() for v in model.weights]
    wanted = float_outputs(model, x)
    equalize(model, [x[:16], x[16:]])
    assert any((v.numpy() != was).any() for v, was in zip(model.weights, before, strict=True))
    np.testing.assert_allclose(float_outputs(model, x), wanted, rtol=2e-3, atol=2e-4)


def test_rows_become_alike_as_far_as_ceilings_allow():
    model = quantize_model(unlike(block()), EIGHT, images(32))

    def spread(name):
        return np.std(row_magnitudes(array(model.get_layer(name).kernel).astype(np.float64)))

    before = {name: spread(name) for name in ("expand", "head", "project")}
    equalize(model, [images(32)])
    # One scale serves both readers of the sum, so neither becomes perfect.
    assert spread("expand") < 0.85 * before["expand"]
    assert spread("head") < 0.85 * before["head"]
    assert spread("project") <= before["project"]


def test_channels_at_their_ceiling_stay_and_none_is_lifted_to_it():
    model = quantize_model(unlike(block()), EIGHT, images(64))
    _, relu, _ = (x for x in activation_layers(model) if x.ceiling is not None)  # behind "dw"
    seen = []
    peaks = []
    for _ in range(2):
        seen.clear()
        with float_network(model, {relu.name: seen.append}):
            model(images(64))
        peaks.append(array(seen[0]).max(axis=(0, 1, 2)))
        equalize(model, [images(64)])
    at_ceiling = peaks[0] >= 6 / 1.1
    np.testing.assert_allclose(peaks[1][at_ceiling], peaks[0][at_ceiling], rtol=1e-4)
    assert (peaks[1][~at_ceiling] <= 6 / 1.1 + 1e-3).all()


def test_magnitudes_are_free_of_columns():
    rng = np.random.default_rng(0)
    rows, columns = np.exp(rng.normal(size=7)), np.exp(rng.normal(size=300))
    kernel = rng.choice([-1.0, 1.0], (7, 300)) * rows[:, None] * columns
    found = row_magnitudes(kernel)
    np.testing.assert_allclose(found - found.mean(), np.log(rows) - np.log(rows).mean(), atol=1e-6)


def test_what_depends_on_its_scale_stays():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="a")(inputs)
    gate = layers.Activation("sigmoid")(layers.Conv2D(4, 3, name="b")(inputs))
    x = layers.Multiply()([x, gate])
    net = unlike(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))
    model = quantize_model(net, EIGHT, images(16))
    before = model.get_weights()
    equalize(model, [images(16)])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
