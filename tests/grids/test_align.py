import fractions

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.graph import flatten
from ddq_tf.grids import align, fold, grid_of
from ddq_tf.grids.fractions import odd_fraction
from ddq_tf.layers import (
    DDQActivation,
    DDQDense,
    DDQRescaling,
    DDQSoftmax,
    weighted_layers,
)
from tests.toys import array, images, mixed_net, shake


@given(st.floats(1e-4, 0.5))
@example(1 / 32)
@example(1 / 258)
@example(5e-4)
@settings(max_examples=30, deadline=None)
def test_odd_fraction_is_near_and_has_an_odd_denominator(value):
    fraction = float(odd_fraction(np.array(value)))
    assert abs(fraction / value - 1) <= 4 / (3 * 1023)
    exact = fractions.Fraction(fraction).limit_denominator(max(1023, int(3.01 / value) + 1))
    assert float(exact) == pytest.approx(fraction, rel=1e-12)
    assert exact.denominator % 2 == 1
    again = float(odd_fraction(np.array(np.float32(fraction), np.float64)))
    assert again == pytest.approx(fraction, rel=1e-12)


def test_odd_fractions_take_as_long_for_numbers_of_any_size():
    values = np.array([1e-30, 0.3, 1 / 3, 1.0, 5.2, 1e9, 1e30])
    fractions = odd_fraction(values)
    np.testing.assert_allclose(fractions, values, rtol=4 / (3 * 1023))
    assert odd_fraction(np.array(5.2)) == 5.2


@pytest.fixture
def model():
    """A model whose free numbers training has moved."""
    model = quantize_model(shake(mixed_net()), DDQConfig(budget=None), images(16))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name in ("log_range", "bias", "beta"):
            variable.assign(array(variable) + rng.normal(0, 0.05, variable.shape))
    return model


def test_codes_stay_and_outputs_hardly_move(model):
    codes = [layer.integer_weights()[0] for layer in weighted_layers(model)]
    before = array(model(images(16)))
    align(model)
    for layer, old in zip(weighted_layers(model), codes, strict=True):
        np.testing.assert_array_equal(layer.integer_weights()[0], old)
    # Some thousandths of the output, and steps of its 8-bit grid.
    assert np.abs(array(model(images(16))) - before).max() < 0.03 * np.abs(before).max()


@pytest.mark.parametrize("levels", ["uniform", "free"])
def test_no_last_bit_chooses_a_weight_code(levels):
    """Compiled code may divide by a step, or multiply by its reciprocal."""
    config = DDQConfig(target="litert-int8", levels=levels, precisions=(4,), budget=None)
    model = quantize_model(shake(mixed_net()), config, images(16))
    for layer in weighted_layers(model):
        kernel, codes = array(layer.kernel), np.unique(layer.integer_weights()[0])
        middles = (codes[:-1] + codes[1:]) / 2 * (1 + 1e-6 * np.sign(codes[:-1]))
        chosen = np.resize(middles, kernel.shape) * layer.quantizer.export_scale()
        layer.kernel.assign(
            np.where(np.arange(kernel.size).reshape(kernel.shape) % 3, kernel, chosen)
        )
    align(model)
    for layer in weighted_layers(model):
        codes = layer.integer_weights()[0]
        kernel = array(layer.kernel)
        for factor in (1 - 2e-6, 1 + 2e-6):
            layer.kernel.assign(kernel * factor)
            np.testing.assert_array_equal(layer.integer_weights()[0], codes)


@pytest.mark.parametrize("seed", range(4))
def test_repeating_changes_nothing_more(seed):
    model = quantize_model(shake(mixed_net(), seed=seed), DDQConfig(budget=None), images(16))
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if variable.name in ("log_range", "bias", "beta"):
            variable.assign(array(variable) + rng.normal(0, 0.05, variable.shape))
    align(model)
    once = model.get_weights()
    align(model)
    for one, two in zip(once, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


def test_additions_share_a_unit(model):
    align(model)
    scales = {
        n: float(model.get_layer(n).quantizer.export_scale())
        for n in ("relu", "project_quant", "add_quant")
    }
    largest = max(scales.values())
    assert scales["add_quant"] == largest
    # Odd at the output, at most 1023, so that no sum comes nearer than 1/2046 to a middle.
    units = (largest / n for n in range(1, 1024, 2))
    assert any(
        all(abs(scale / unit - round(scale / unit)) < 1e-3 for scale in scales.values())
        for unit in units
    )


def test_a_ceiling_is_kept(model):
    model.get_layer("relu").quantizer.log_range.assign([2.0])
    align(model)
    assert float(model.get_layer("relu").quantizer.export_scale()) * 255 <= 6 * (1 + 1e-6)


def test_a_diverged_model_stays_as_it_is(model):
    model.get_layer("expand").kernel.assign(np.full((1, 1, 8, 16), np.nan))
    before = model.get_weights()
    align(model)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "elu", "gelu"])
def test_no_value_of_a_table_lies_near_the_middle_of_two_codes(name):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.Activation(name), layers.Dense(2)]
    )
    q = quantize_model(shake(model), DDQConfig(budget=None), images(16, (4,)))
    graph = flatten(q)
    node = next(n for n in graph.nodes if isinstance(n.layer, layers.Activation))
    after = graph.sole_consumer(node.outputs[0])
    source = graph.producer(node.inputs[0]).layer.quantizer
    margins = []
    for factor in (1.0, 1.11, 0.93, 1.27, 0.8, 1.05):
        source.rescale(factor)
        align(q)
        grid = grid_of(graph, node.inputs[0])
        codes = np.arange(grid.qmin, grid.qmax + 1, dtype=np.float32) * grid.scale
        values = array(node.layer(codes)).astype(np.float64)
        values /= float(grid_of(graph, after.outputs[0]).scale)
        margins.append(np.abs(values - np.floor(values) - 0.5).min())
    assert min(margins) > 0.9e-3


def test_models_without_additions_or_quantizers_go_through():
    align(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))


QUANTIZERS = {
    "per tensor": {"per_channel": False},
    "free": {"levels": "free", "level_init": "kmeans"},
    "free per tensor": {"levels": "free", "per_channel": False},
}


def net_of_all_kinds():
    """A convolution and a depthwise one with BatchNorms of either sign, pointwise ones, a dense."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = skip = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(scale=False)(x))
    x = keras.layers.BatchNormalization(center=False)(keras.layers.Conv2D(8, 1)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, skip]))
    return shake(keras.Model(inputs, keras.layers.Dense(4)(x)), seed=2)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_file_equals_keras_code_for_code(name, bits, tmp_path):
    config = DDQConfig(target="litert-int8", budget=None, precisions=(3, 8), **QUANTIZERS[name])
    x = images(256, seed=5)
    model = quantize_model(net_of_all_kinds(), config, x[:32])
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name in ("log_range", "bias", "beta", "levels"):
            variable.assign(array(variable) + rng.normal(0, 0.05, variable.shape))
    gammas = [array(v) for v in model.trainable_variables if v.name == "gamma"]
    assert any((gamma < 0).any() for gamma in gammas)
    for layer in weighted_layers(model):
        layer.quantizer.choose((3, 8).index(bits))
    codes = [layer.integer_weights()[0] for layer in weighted_layers(model)]
    align(model)
    for layer, old in zip(weighted_layers(model), codes, strict=True):
        now, scale = layer.integer_weights()
        np.testing.assert_array_equal(now, old)
        assert len(np.unique(now)) <= 2**bits
        assert config.per_channel or len(np.unique(scale)) == 1
    proof = verify(model, export_tflite(model, tmp_path / "net.tflite"), [x])
    assert proof.weight_codes_identical
    assert proof.num_samples == 256
    assert (proof.equal_codes_share, proof.max_lsb) == (1, 0)


def test_an_affine_layer_is_aligned_for_the_code_that_it_keeps():
    """Its weight is a code that the bias picks, and both move."""
    inputs = keras.Input((2, 2, 1))
    rescaling = DDQRescaling(1.0, 1.0, name="rescaling")
    x = rescaling(DDQActivation("linear", learned=False, name="in")(inputs))
    model = keras.Model(inputs, DDQActivation("relu", name="out")(x))
    rng = np.random.default_rng(0)
    for _ in range(60):
        model.get_layer("in").quantizer.set_range(rng.uniform(0.5, 9))
        model.get_layer("out").quantizer.set_range(rng.uniform(0.5, 9))
        rescaling.gain.assign([rng.uniform(0.3, 2)])
        rescaling.shift.assign([rng.uniform(-3, 3)])
        align(model)
        graph = flatten(model)
        node = next(n for n in graph.nodes if n.name == "rescaling")
        unit = float(grid_of(graph, node.inputs[0]).scale) * fold(graph, node).scale.astype(float)
        multiplier = unit / float(model.get_layer("out").quantizer.export_scale())
        np.testing.assert_allclose(multiplier, odd_fraction(multiplier), rtol=3e-7)


def test_logits_keep_steps_that_a_softmax_takes():
    inputs = keras.Input((4,))
    x = DDQActivation("linear", learned=False, name="in")(inputs)
    logits = DDQActivation("linear", name="logits")
    model = keras.Model(inputs, DDQSoftmax()(logits(DDQDense(3)(x))))
    logits.quantizer.set_range(1e-9)
    align(model)
    assert 2.0**-26 < logits.quantizer.export_scale() < 2.0**-24
