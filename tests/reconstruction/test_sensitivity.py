"""What precisions lose, by the gates' Fisher information, against what they really lose."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, ReconstructionConfig, quantize_model, reconstruct_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.moments import input_moments
from ddq_tf.reconstruction.rounding import rounded_kernels
from ddq_tf.reconstruction.sensitivity import learning_layers, precision_losses, steps_of
from tests.toys import array, images, layers, mixed_net, shake

MIXED = DDQConfig(target="litert-int8", precisions=(2, 4, 8), budget="4bits")
QUICK = ReconstructionConfig(views=1, search_views=2)


def softmax_net() -> keras.Model:
    net = mixed_net()
    return shake(keras.Model(net.inputs, layers.Softmax(name="probabilities")(net.outputs[0])))


def losses_of(model, count=256, on_step=lambda: None):
    x = images(count, seed=3)
    return precision_losses(model, blocks_of(model), images(128), x, 0, on_step)


@pytest.mark.parametrize("probabilities", [True, False], ids=["kl", "outputs"])
def test_losses_are_what_rounding_really_loses(probabilities):
    """One layer, of whose rounded kernels numpy computes the loss without any gradient."""
    inputs = keras.Input((6,))
    outputs = layers.Dense(5, name="logits")(inputs)
    if probabilities:
        outputs = layers.Softmax()(outputs)
    net = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    net.set_weights([rng.normal(size=(6, 5)), rng.normal(size=5)])
    config = dataclasses.replace(MIXED, precisions=(4, 5, 8))
    x = rng.normal(0.5, 1.0, (4096, 6)).astype(np.float32)
    model = quantize_model(net, config, x[:256])
    (block,), (layer,) = blocks_of(model), weighted_layers(model)
    quantized = array(activation_layers(model)[0](x))
    found = precision_losses(model, [block], x, np.tile(x, (32, 1)), 0)["logits"]
    (moments,), _ = input_moments(block, [layer], x)
    given = array(model(x, training=True)).astype(np.float64)
    real = np.empty((3, 5))
    for index, kernel in enumerate(rounded_kernels(layer, moments)):
        moved = (quantized - quantized.mean(axis=0)) @ (kernel - array(layer.kernel))
        for channel in range(5):
            alone = moved * (np.arange(5) == channel)
            if probabilities:
                after = given * np.exp(alone)
                after /= after.sum(axis=1, keepdims=True)
                real[index, channel] = np.mean(np.sum(given * np.log(given / after), axis=1))
            else:
                real[index, channel] = np.sum(np.square(alone)) / np.sum(np.square(given))
    # A precision counts as no worse than those above it.
    real = np.maximum.accumulate(real[::-1], axis=0)[::-1]
    np.testing.assert_allclose(found, real, rtol=0.1)


def test_losses_never_rise_with_bits_and_steps_are_counted():
    config = dataclasses.replace(MIXED, activation_bits=(4, 8), activation_budget=6.0)
    model, steps = quantize_model(softmax_net(), config, images(64)), []
    found = losses_of(model, 40, lambda: steps.append(1))
    assert set(found) == {layer.name for layer in learning_layers(model)}
    assert len(steps) == steps_of(model, 40)
    for layer in learning_layers(model):
        assert (np.diff(found[layer.name], axis=0) <= 0).all()
        assert (found[layer.name] >= 0).all()
    widths = {layer.name: found[layer.name].shape[1] for layer in learning_layers(model)}
    assert all(widths[x.name] == x.quantizer.num_channels for x in weighted_layers(model))
    assert all(widths.get(x.name, 1) == 1 for x in activation_layers(model))


def test_measuring_changes_nothing_but_ranges():
    model = quantize_model(softmax_net(), MIXED, images(64))
    before = {v.path: array(v) for v in model.variables}
    losses_of(model, 16)
    changed = {
        v.path.rsplit("/")[-1] for v in model.variables if (array(v) != before[v.path]).any()
    }
    assert changed <= {"base_range"}
    assert all(layer.probe is None for layer in learning_layers(model))


def test_shared_and_transposed_layers_are_measured_too():
    inputs = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 3, padding="same", activation="relu", name="twice")
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(shared(shared(inputs)))
    net = shake(
        keras.Model(inputs, layers.Dense(3, name="dense")(layers.GlobalAveragePooling2D()(x)))
    )
    found = losses_of(quantize_model(net, MIXED, images(64)), 32)
    assert {name: loss.shape for name, loss in found.items()} == {
        "twice": (3, 3),
        "up": (3, 4),
        "dense": (3, 3),
    }
    assert all((loss[0] > 0).all() for loss in found.values())


@pytest.mark.parametrize("target", ["litert", "litert-int8"])
def test_channels_learn_precisions_of_their_own_within_both_limits(target, tmp_path):
    config = DDQConfig(
        target=target,
        precisions=(2, 3, 4, 8),
        budget=0.75,
        code_bits=4.0,
        channel_precision=True,
        narrow_range=False,
    )
    model, _ = reconstruct_model(softmax_net(), images(64), config, QUICK)
    budget = model.weight_budget
    assert budget.used_bits <= budget.capacity_bits
    shares = [x.quantizer.mean_bits * x.quantizer.num_weights for x in weighted_layers(model)]
    assert 3.5 < sum(shares) / budget.num_values <= 4.0
    assert any(len(np.unique(x.quantizer.bits)) > 1 for x in weighted_layers(model))
    assert all(x.quantizer.is_frozen for x in weighted_layers(model))
    for layer in weighted_layers(model):
        codes, _ = layer.integer_weights()
        top = 2 ** (layer.quantizer.bits - 1)
        assert (codes >= -top).all()
        assert (codes <= top - 1).all()
    result = export_tflite(model, tmp_path / "m.tflite")
    found = verify(model, result, [images(64, seed=4)])
    assert found.weight_codes_identical
    assert found.equal_codes_share == 1


def test_no_view_leaves_the_highest_precisions():
    recipe = ReconstructionConfig(views=1, search_views=0)
    config = dataclasses.replace(MIXED, budget=None)
    model, _ = reconstruct_model(softmax_net(), images(32), config, recipe)
    assert {layer.num_bits for layer in weighted_layers(model)} == {8}
