"""One precision per channel, and full grids: against numpy, and in the file."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.export.tflite import read
from ddq_tf.grids import align
from ddq_tf.layers import weighted_layers
from ddq_tf.quantizers import WeightQuantizer
from ddq_tf.training.oscillation import level_numbers
from tests.toys import array, images, layers, mixed_net, shake

PRECISIONS = (2, 3, 4, 8)
FULL = DDQConfig(precisions=PRECISIONS, budget=None, channel_precision=True, narrow_range=False)


def quantizer_of(kernel, *, narrow_range=False, axes=1) -> WeightQuantizer:
    quantizer = WeightQuantizer(
        PRECISIONS, channel_axes=axes, channel_precision=True, narrow_range=narrow_range
    )
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel)
    return quantizer


def limits(bits, narrow_range):
    top = 2 ** (bits - 1) - 1
    return np.where(narrow_range | (bits == 8), -top, -top - 1), top


@pytest.mark.parametrize("narrow_range", [True, False])
@pytest.mark.parametrize(("shape", "axes"), [((5, 8), 1), ((3, 3, 4, 2), 2)])
def test_each_channel_lies_on_the_grid_of_its_own_precision(shape, axes, narrow_range):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape).astype(np.float32)
    quantizer = quantizer_of(kernel, narrow_range=narrow_range, axes=axes)
    channels = shape[-axes:]
    index = rng.integers(0, len(PRECISIONS), channels)
    quantizer.choose(index)
    bits = np.array(PRECISIONS)[index]
    low, top = limits(bits, narrow_range)
    scale = quantizer.range_in_force() / top
    wanted = np.clip(np.rint(kernel / scale), low, top)
    codes, scales = quantizer.export(kernel)
    np.testing.assert_array_equal(codes, wanted)
    np.testing.assert_allclose(scales, scale, rtol=1e-6)
    for training in (False, True):
        got = array(quantizer(tf.constant(kernel), training=training))
        np.testing.assert_allclose(got, wanted * scale, rtol=1e-5, atol=1e-7)
    assert quantizer.num_bits == bits.max()
    assert quantizer.mean_bits == bits.mean()


def test_gradients_reach_kernel_and_range_of_each_channel():
    kernel = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    quantizer = quantizer_of(kernel)
    quantizer.choose(np.array([0, 1, 2, 3]))
    x = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(x, training=True) * images(1, kernel.shape)[0])
    dx, drange = tape.gradient(loss, [x, quantizer.log_range.value])
    assert (array(dx) != 0).any(axis=0).all()
    touched = array(drange) != 0
    np.testing.assert_array_equal(touched, np.eye(4, dtype=bool))  # each at its own precision


def test_it_survives_saving(tmp_path):
    model = quantize_model(shake(mixed_net()), FULL, images(16))
    rng = np.random.default_rng(2)
    for layer in weighted_layers(model):
        layer.quantizer.choose(rng.integers(0, 3, layer.quantizer.channel_shape))
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    for one, two in zip(weighted_layers(model), weighted_layers(again), strict=True):
        np.testing.assert_array_equal(one.quantizer.bits, two.quantizer.bits)
    np.testing.assert_array_equal(array(model(images(4))), array(again(images(4))))


def test_full_grids_reach_the_file_in_int4_whatever_the_signs_of_gamma(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 1, use_bias=False, name="first")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(8, 1, use_bias=False, name="second")(x)
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="norm_2")(x))
    net = shake(keras.Model(inputs, layers.Dense(4)(x)))
    assert (array(net.get_layer("norm").gamma) < 0).any()
    model = quantize_model(net, dataclasses.replace(FULL, precisions=(4,)), images(32))
    assert (array(model.get_layer("norm").gamma) >= 0).all()
    align(model)
    result = export_tflite(model, tmp_path / "m.tflite")
    found = verify(model, result, [images(32, seed=3)])
    assert found.weight_codes_identical
    assert found.equal_codes_share == 1
    graph = read((tmp_path / "m.tflite").read_bytes())
    kernels = [graph.tensors[op.inputs[1]] for op in graph.ops if op.kind == "FULLY_CONNECTED"]
    stored = {kernel.dtype.name for kernel in kernels if kernel.shape[-1] % 2 == 0}
    assert stored == {"INT4"}
    assert min(int(kernel.data.min()) for kernel in kernels) == -8


def test_a_sign_that_moves_changes_nothing_in_the_float_network():
    net = shake(mixed_net())
    outputs = []
    for narrow in (True, False):
        config = dataclasses.replace(FULL, precisions=(8,), narrow_range=narrow)
        outputs.append(array(quantize_model(net, config, images(32))(images(8, seed=7))))
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-4)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(DDQError, match="levels='uniform'"):
        DDQConfig(target="litert-int8", levels="free", channel_precision=True)
    with pytest.raises(DDQError, match="levels='uniform'"):
        DDQConfig(target="litert-int8", levels="free", narrow_range=False)
    with pytest.raises(DDQError, match="range per channel"):
        DDQConfig(channel_precision=True, per_channel=False)
    with pytest.raises(DDQError, match=r"code_bits.*\(0, 8\].*9"):
        DDQConfig(code_bits=9)


def test_level_numbers_lead_back_to_the_weights():
    kernel = np.random.default_rng(4).normal(size=(6, 8)).astype(np.float32)
    quantizer = quantizer_of(kernel)
    quantizer.choose(np.resize([0, 1, 2], 8))
    numbers, values = level_numbers(quantizer, tf.constant(kernel), quantizer.num_bits)
    np.testing.assert_array_equal(array(values(numbers)), array(quantizer(kernel)))
    assert (array(numbers) >= 0).all()
