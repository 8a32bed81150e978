"""The kernels that the search chooses from."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.candidates import candidate_layers, holding_candidates
from ddq_tf.reconstruction.moments import input_moments
from tests.toys import array, images, mixed_net, shake

MIXED = DDQConfig(target="litert-int8", precisions=(2, 3, 8), budget=0.5)
FIXED = DDQConfig(target="litert-int8", precisions=(4,), budget=None)


@pytest.fixture
def model():
    return quantize_model(shake(mixed_net()), MIXED, images(64))


def test_they_lie_on_their_levels_and_err_less_than_the_nearest(model):
    blocks, stream = blocks_of(model), tf.constant(images(64))
    first = blocks[0]
    errors = []
    with holding_candidates(blocks, stream):
        kernels = {layer.name: array(layer.quantizer.candidates) for layer in first.kernels}
    for layer in first.kernels:
        found = input_moments(first, layer, stream).about_zero().xx[0]
        kernel = array(layer.kernel)
        for index in range(2):  # at 8 bits they are equal but for a few
            layer.quantizer.choose(index)
            nearest, candidate = array(layer.quantizer(kernel)), kernels[layer.name][index]
            np.testing.assert_allclose(array(layer.quantizer(candidate)), candidate, atol=1e-6)
            lost = [
                np.einsum("ij,ik,kj->", d, found, d)
                for d in (np.reshape(k - kernel, (len(found), -1)) for k in (candidate, nearest))
            ]
            errors.append(lost[0] / lost[1])
        layer.quantizer.choose(2)
    assert errors
    assert max(errors) < 1.02
    assert np.mean(errors) < 0.9


def test_layers_use_them_at_the_precision_of_the_step_and_gates_learn_from_them(model):
    layer = weighted_layers(model)[1]
    quantizer, kernel = layer.quantizer, tf.constant(array(layer.kernel))
    upstream = images(1, kernel.shape)[0]
    with holding_candidates(blocks_of(model), tf.constant(images(64))):
        rows = array(quantizer.candidates)
        quantizer.visit(1)
        with tf.GradientTape() as tape:
            used = quantizer(kernel, training=True)
            loss = tf.reduce_sum(used * upstream)
        evidence = array(tape.gradient(loss, quantizer.evidence.value))
        np.testing.assert_array_equal(array(used), rows[1])
        np.testing.assert_array_equal(array(quantizer(kernel)), rows[2])
    wanted = [np.sum(upstream * (rows[1] - rows[0])), np.sum(upstream * (rows[2] - rows[1]))]
    # Gate 1 is seen from its upper end, gate 2 from its lower one.
    np.testing.assert_allclose(
        [evidence[0, 1, 0], evidence[1, 0, 0]], np.negative(wanted), rtol=1e-4
    )


def test_they_are_gone_afterwards_whatever_happens(model):
    blocks, counted = blocks_of(model), []
    before = array(model(images(8)))
    with (
        pytest.raises(KeyboardInterrupt),
        holding_candidates(blocks, tf.constant(images(16)), lambda: counted.append(1)),
    ):
        raise KeyboardInterrupt
    assert len(counted) == len(candidate_layers(blocks)) == len(weighted_layers(model))
    np.testing.assert_array_equal(array(model(images(8))), before)


def test_layers_with_one_precision_have_none():
    assert not candidate_layers(blocks_of(quantize_model(mixed_net(), FIXED, images(8))))
