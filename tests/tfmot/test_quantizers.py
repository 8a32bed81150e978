"""DDQ's quantizers inside `quantize_apply`: same mathematics, learned ranges, bits move over."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.quantizers import WeightQuantizer
from ddq_tf.tfmot import (
    DDQActivationQuantizer,
    DDQQuantizeConfig,
    DDQQuantizeScheme,
    DDQWeightQuantizer,
    from_tfmot,
    quantize_scope,
)
from tests.tfmot.projects import L, Q, data, network, trained
from tests.toys import array

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")
BITS = {"scores": 8, "dw": 8, "side": 2}


@pytest.fixture(scope="module")
def quantized():
    tf_keras.utils.set_random_seed(0)
    annotated = Q.quantize_annotate_model(trained(network(), epochs=2))
    return trained(Q.quantize_apply(annotated, DDQQuantizeScheme(num_bits=4, bits=BITS)), epochs=2)


def built(quantizer, shape, name="kernel"):
    layer = tf_keras.layers.Layer()
    return quantizer.build(tf.TensorShape(shape), name, layer)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("name", "axes"), [("kernel", 1), ("depthwise_kernel", 2)])
def test_kernels_round_as_a_weight_quantizer(bits, name, axes):
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 1, (3, 3, 4, 6)).astype(np.float32)
    theirs = WeightQuantizer((bits,), channel_axes=axes)
    theirs.build(kernel.shape)
    log_range = rng.normal(0, 0.3, theirs.log_range.shape).astype(np.float32)
    base = rng.uniform(0.5, 2, theirs.log_range.shape).astype(np.float32)
    theirs.base_range.assign(base)
    theirs.log_range.assign(log_range)
    mine = DDQWeightQuantizer(bits)
    variables = built(mine, kernel.shape, name)
    variables["base_range"].assign(base.reshape(variables["base_range"].shape))
    variables["log_range"].assign(log_range.reshape(variables["log_range"].shape))
    with tf.GradientTape() as tape:
        rounded = mine(tf.constant(kernel), True, variables)
        loss = tf.reduce_sum(rounded * np.arange(kernel.size).reshape(kernel.shape))
    np.testing.assert_allclose(rounded, array(theirs(kernel, training=True)), rtol=1e-6)
    (mine_gradient,) = tape.gradient(loss, [variables["log_range"]])
    with tf.GradientTape() as tape:
        other = tf.reduce_sum(
            theirs(kernel, training=True) * np.arange(kernel.size).reshape(kernel.shape)
        )
    gradient = tape.gradient(other, theirs.log_range.value)
    np.testing.assert_allclose(np.ravel(mine_gradient), np.ravel(gradient), rtol=1e-4, atol=1e-3)


def test_ranges_start_near_the_least_error_and_learn(quantized):
    weights = {v.name: v for layer in quantized.layers for v in layer.trainable_weights}
    learned = [v for name, v in weights.items() if "log_range" in name]
    assert len(learned) == 13
    assert all(np.abs(v.numpy()).max() > 0 for v in learned)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_activations_lie_on_their_grid(bits, positive):
    x = np.random.default_rng(0).normal(0, 2, (8, 100)).astype(np.float32)
    x = np.abs(x) if positive else x
    quantizer = DDQActivationQuantizer(bits)
    variables = built(quantizer, (), "output")
    before = quantizer(tf.constant(x), False, variables)
    np.testing.assert_array_equal(before, x)  # nothing is known yet
    assert quantizer.learned_limits(variables) is None
    rounded = quantizer(tf.constant(x), True, variables).numpy()
    low, high = quantizer.learned_limits(variables)
    assert (low == 0) if positive else (low == -high)
    qmax = 2**bits - 1 if positive else 2 ** (bits - 1) - 1
    codes = rounded / (high / qmax)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    assert len(np.unique(np.rint(codes))) <= 2**bits
    errors = [
        np.square(x - np.clip(np.rint(x / s), 0 if positive else -qmax - (bits == 8), qmax) * s)
        for s in np.linspace(0.05, 1, 200) * np.abs(x).max() / qmax
    ]
    assert np.square(x - rounded).mean() < 1.05 * min(error.mean() for error in errors)


def test_what_was_trained_moves_over(quantized):
    model, ranges = from_tfmot(quantized)
    assert ranges.bits == {"stem": 4, "dw": 8, "pw": 4, "side": 2, "scores": 8}
    config = DDQConfig(target="litert-compact", budget=None, rules=ranges.rules)
    made = quantize_model(model, config, ranges=ranges)
    assert {layer.name: layer.num_bits for layer in weighted_layers(made)} == ranges.bits
    for wrapper in quantized.layers:
        if not getattr(wrapper, "_weight_vars", None):
            continue
        ((kernel, quantizer, variables),) = wrapper._weight_vars
        theirs = quantizer(tf.convert_to_tensor(kernel), False, variables).numpy()
        alpha = quantizer.learned_alpha(variables)
        n = 2 ** (quantizer.num_bits - 1) - 1
        codes, _ = next(
            layer for layer in weighted_layers(made) if layer.name == wrapper.layer.name
        ).integer_weights()
        np.testing.assert_array_equal(codes, np.rint(theirs / (alpha / n)))
    x, _ = data()
    answers = np.asarray(made(x)).argmax(axis=1)
    assert (answers == quantized.predict(x, verbose=0).argmax(axis=1)).mean() > 0.95


@pytest.mark.parametrize("suffix", [".h5", ".keras", ""])
def test_saved_and_read(quantized, suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    quantized.save(path)
    _, ranges = from_tfmot(path)
    _, expected = from_tfmot(quantized)
    assert (ranges.outputs, ranges.sums, ranges.bits) == (
        expected.outputs,
        expected.sums,
        expected.bits,
    )
    for name, kernel in expected.kernels.items():
        np.testing.assert_array_equal(ranges.kernels[name].alpha, kernel.alpha)


def test_one_layer_by_annotation():
    dense = Q.quantize_annotate_layer(L.Dense(5, name="scores"), DDQQuantizeConfig(num_bits=3))
    model = tf_keras.Sequential([L.Input((16, 16, 3)), L.Flatten(), dense, L.Softmax()])
    with quantize_scope():
        quantized = Q.quantize_apply(model)
    _, ranges = from_tfmot(trained(quantized))
    assert ranges.bits == {"scores": 3}
    assert set(ranges.outputs) == {"scores"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDQWeightQuantizer(num_bits=9),
        lambda: DDQActivationQuantizer(num_bits=1),
        lambda: DDQQuantizeConfig(num_bits="4"),
        lambda: DDQQuantizeScheme(bits={"scores": 16}),
    ],
)
def test_bits_are_2_to_8(make):
    with pytest.raises(DDQError, match="must be 2 to 8"):
        make()
