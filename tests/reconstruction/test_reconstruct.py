"""Reconstruction: learning from the float model without labels."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, DDQError, ReconstructionConfig, quantize_model, reconstruct_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.reconstruction import blocks_kept, forget_reconstruction
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.losses import RelativeError, loss_towards
from ddq_tf.reconstruction.optimizer import UnitAdam, units_of
from ddq_tf.reconstruction.views import _part, views_of
from ddq_tf.transform.calibrate import float_network
from tests.toys import array, images, layers, mixed_net, shake

LOW = DDQConfig(target="litert-int8", precisions=(2,), budget=None)
MIXED = DDQConfig(target="litert-int8", precisions=(2, 4, 8), budget="4bits")
QUICK = ReconstructionConfig(steps=40, batch_size=16, search_views=0, distill_steps=0, views=1)


def distance(model, wanted, x) -> float:
    return float(np.mean(np.square(array(model(x)) - wanted)))


@pytest.mark.parametrize(
    "changes",
    [{}, {"levels": "free"}, {"per_channel": False}, {"activation_bits": 4}],
    ids=["uniform", "free", "per_tensor", "a4"],
)
def test_it_comes_nearer_to_the_float_model_on_inputs_it_has_not_seen(changes):
    net, unseen = shake(mixed_net()), images(64, seed=9)
    wanted, config = array(net(unseen)), dataclasses.replace(LOW, **changes)
    plain = quantize_model(net, config, images(128))
    learned, errors = reconstruct_model(net, images(128), config, QUICK)
    assert distance(learned, wanted, unseen) < 0.5 * distance(plain, wanted, unseen)
    assert [error.name for error in errors] == [block.name for block in blocks_of(learned)]


def test_the_closed_form_alone_comes_nearer_too():
    net, unseen = shake(mixed_net()), images(64, seed=9)
    wanted, recipe = array(net(unseen)), dataclasses.replace(QUICK, steps=0)
    plain = quantize_model(net, LOW, images(128))
    learned, errors = reconstruct_model(net, images(128), LOW, recipe)
    assert distance(learned, wanted, unseen) < 0.5 * distance(plain, wanted, unseen)
    assert all(error.after < error.before for error in errors)


def test_the_file_computes_what_was_learned(tmp_path):
    learned, _ = reconstruct_model(shake(mixed_net()), images(64), LOW, QUICK)
    result = export_tflite(learned, tmp_path / "net.tflite")
    found = verify(learned, result, [images(64, seed=4)])
    assert found.weight_codes_identical
    assert found.equal_codes_share == 1


def test_precisions_are_learned_within_the_budget_and_steps_are_reported():
    recipe = ReconstructionConfig(steps=3, search_views=1, distill_steps=2, views=2, batch_size=8)
    seen = []
    learned, errors = reconstruct_model(
        shake(mixed_net()), images(), MIXED, recipe, on_progress=seen.append
    )
    assert learned.weight_budget.used_bits <= learned.weight_budget.capacity_bits
    assert all(layer.quantizer.is_frozen for layer in weighted_layers(learned))
    assert [p.done for p in seen] == list(range(1, seen[0].total + 1))
    assert list(dict.fromkeys(p.stage for p in seen)) == [
        "calibration",
        "precisions",
        *(error.name for error in errors),
        "distillation",
    ]


def test_a_seed_repeats_a_run():
    runs = [reconstruct_model(shake(mixed_net()), images(), LOW, QUICK)[0] for _ in range(2)]
    for one, two in zip(runs[0].get_weights(), runs[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_frozen_layers_learn_too_and_keep_their_flag_and_variance():
    net = shake(mixed_net())
    for layer in net.layers:
        layer.trainable = False
    learned, _ = reconstruct_model(net, images(), LOW, QUICK)
    before, after = net.get_layer("norm"), learned.get_layer("norm")
    assert not after.trainable
    assert not np.array_equal(array(after.gamma), array(before.gamma))
    np.testing.assert_array_equal(array(after.moving_variance), array(before.moving_variance))


def test_dropout_does_not_disturb():
    kernel = np.random.default_rng(3).normal(size=(192, 4))

    def net(rate):
        parts = [layers.Flatten(), layers.Dropout(rate), layers.Dense(4, activation="softmax")]
        model = keras.Sequential([keras.Input((8, 8, 3)), *parts])
        model.layers[-1].kernel.assign(kernel)
        return model

    one, two = (reconstruct_model(net(rate), images(), LOW, QUICK)[0] for rate in (0.0, 0.9))
    for with_none, with_most in zip(weighted_layers(one), weighted_layers(two), strict=True):
        np.testing.assert_array_equal(array(with_none.kernel), array(with_most.kernel))


def test_the_float_network_is_the_float_model():
    net = shake(mixed_net())
    model = quantize_model(net, DDQConfig(precisions=(8,), budget=None), images())
    wanted = array(net(images(6, seed=5)))
    with float_network(model):
        inside = array(model(images(6, seed=5)))
    # Not nearer: `align` has moved scales and biases by about a thousandth.
    np.testing.assert_allclose(inside, wanted, rtol=2e-3, atol=2e-3)
    assert not np.allclose(array(model(images(6, seed=5))), wanted, rtol=2e-3, atol=2e-3)
    assert all(layer.observer is None for layer in activation_layers(model))


def test_adam_steps_are_measured_in_units():
    variables = [keras.Variable(np.zeros(3, np.float32), name=name) for name in "ab"]
    units = {variables[0].path: np.array([1, 10, 100], np.float32)}
    units[variables[1].path] = np.array(0.5, np.float32)
    optimizer = UnitAdam(0.1, units)
    for _ in range(3):
        optimizer.apply([keras.ops.convert_to_tensor([2.0, -3e-4, 5e3])] * 2, variables)
    np.testing.assert_allclose(array(variables[0]), [-0.3, 3.0, -30.0], rtol=1e-4)
    np.testing.assert_allclose(array(variables[1]), [-0.15, 0.15, -0.15], rtol=1e-4)


def test_units_follow_the_scales_of_each_channel():
    net = shake(mixed_net())
    model = quantize_model(net, LOW, images())
    before = units_of(model.layers, 0.1, 0.01, 0.01)
    layer = model.get_layer("conv")
    layer.quantizer.rescale(np.full(8, 3.0))
    after = units_of(model.layers, 0.1, 0.01, 0.01)
    path = layer.kernel.path
    np.testing.assert_allclose(after[path], 3 * before[path], rtol=1e-6)
    np.testing.assert_allclose(before[path], 0.1 * layer.quantizer.range_in_force() / 3, rtol=1e-5)
    assert {v.path for v in model.trainable_variables} <= set(before)


def test_losses():
    wanted = np.array([[0.2, 0.8], [0.5, 0.5]], np.float32)
    given = np.array([[0.3, 0.7], [0.9, 0.1]], np.float32)
    error = np.mean(np.square(given - wanted)) / np.mean(np.square(wanted))
    np.testing.assert_allclose(
        loss_towards(wanted, probabilities=False)(wanted, given), error, 1e-6
    )
    divergence = np.mean(np.sum(wanted * np.log(wanted / given), axis=-1))
    loss = loss_towards(wanted, probabilities=True)
    np.testing.assert_allclose(loss(wanted, given), divergence, rtol=1e-5)
    assert np.isfinite(RelativeError(0.0)(np.zeros((2, 3)), np.zeros((2, 3))))


def test_parts_of_images_are_those_of_tensorflow():
    random = np.random.default_rng(0)
    pictures = random.random((4, 9, 12, 3)).astype(np.float32)
    boxes = np.float32([[0, 0, 1, 1], [0.1, 0.2, 0.9, 0.8], [0.1, 0.8, 0.9, 0.2], [0, 1, 1, 0]])
    wanted = tf.image.crop_and_resize(pictures, boxes, np.arange(4), (9, 12))
    found = [_part(picture, *box) for picture, box in zip(pictures, boxes, strict=True)]
    np.testing.assert_allclose(np.stack(found), wanted, atol=2e-6)


def test_views_are_parts_of_the_image():
    ramp = np.linspace(0, 1, 16, dtype=np.float32)
    picture = np.broadcast_to(ramp[None, :, None], (16, 16, 3))[None].repeat(20, axis=0)
    made = views_of(np.array(picture), 3, seed=1)
    assert made.shape == (60, 16, 16, 3)
    views = made[:]
    assert views.shape == made.shape
    assert views.dtype == np.float32
    np.testing.assert_array_equal(views[:20], picture)
    slopes = np.diff(views[20:, 0, :, 0], axis=1)
    assert (np.abs(slopes - slopes[:, :1]) < 1e-5).all()  # still ramps
    assert 5 < (slopes[:, 0] < 0).sum() < 35  # some mirrored
    width = np.abs(slopes[:, 0]) * 15
    assert width.max() <= 1 + 1e-5
    assert width.min() >= np.sqrt(0.4 * 3 / 4) - 1e-5
    assert not np.array_equal(views_of(np.array(picture), 2, seed=2)[20:40], views[20:40])


def test_what_does_not_fit_is_refused_before_any_work():
    net = shake(mixed_net())
    inputs = [keras.Input((4,)), keras.Input((4,))]
    two = keras.Model(inputs, layers.Dense(2)(layers.Add()(inputs)), name="two")
    with pytest.raises(DDQError, match=r"'two'.*one input and one output.*2 inputs"):
        reconstruct_model(two, images(), LOW, QUICK)
    with pytest.raises(DDQError, match="shape"):
        reconstruct_model(net, np.zeros((4, 5, 5, 3), np.float32), LOW, QUICK)
    flat = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    with pytest.raises(DDQError, match=r"set views=1. Received: views=4"):
        reconstruct_model(flat, np.ones((8, 6), np.float32), LOW, ReconstructionConfig())


@pytest.mark.parametrize(
    "field", ["steps", "views", "batch_size", "search_views", "drop", "kernel_rate", "seed"]
)
def test_recipes_are_checked(field):
    with pytest.raises(DDQError, match=field):
        ReconstructionConfig(**{field: -1})


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize(("steps", "after"), [(0, 3), (3, 9)])
def test_an_interrupted_reconstruction_goes_on_to_the_same_model(steps, after, tmp_path):
    recipe = dataclasses.replace(QUICK, steps=steps, search_views=1, distill_steps=2)

    def stop(progress):
        if progress.stage not in ("calibration", "precisions"):
            seen_blocks.append(progress)
        if len(seen_blocks) == after:
            raise KilledError

    seen_blocks = []
    given = shake(mixed_net()), images(), MIXED, recipe
    whole, errors = reconstruct_model(*given)
    with pytest.raises(KilledError):
        reconstruct_model(*given, on_progress=stop, checkpoint_dir=tmp_path)
    assert blocks_kept(tmp_path) is not None
    later = []
    model, again = reconstruct_model(*given, on_progress=later.append, checkpoint_dir=tmp_path)
    assert again == errors
    for one, two in zip(whole.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert later[-1].done == later[-1].total
    with pytest.raises(DDQError, match=r"begun with other settings: inputs="):
        reconstruct_model(given[0], images(seed=5), *given[2:], checkpoint_dir=tmp_path)
    forget_reconstruction(tmp_path)
    assert blocks_kept(tmp_path) is None
