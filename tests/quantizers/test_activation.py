import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import ActivationQuantizer
from tests.quantizers import twin
from tests.toys import array


def quantizer_of(limit=2.0, **kwargs):
    quantizer = ActivationQuantizer(**kwargs)
    quantizer.build((None, 8, 8, 4))
    quantizer.set_range(limit)
    return quantizer


def values(seed=0):
    return np.random.default_rng(seed).normal(0, 2, (5, 8, 8, 4)).astype(np.float32)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_inference_equals_numpy(bits, signed):
    quantizer = quantizer_of(num_bits=bits, signed=signed)
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert (quantizer.qmin, quantizer.qmax) == (qmin, qmax)
    scale = quantizer.export_scale()
    assert scale == np.float32(2) * np.float32(1 / qmax)
    output = array(quantizer(values()))
    np.testing.assert_array_equal(output, twin.forward(values(), scale, qmin, qmax)[0])


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("limit", [0.3, 2.0, 5.7])
def test_training_at_8_bits_agrees_with_inference_up_to_ties(limit, signed):
    quantizer = quantizer_of(limit, signed=signed)
    trained, inferred = array(quantizer(values(), training=True)), array(quantizer(values()))
    steps = (trained - inferred) / quantizer.export_scale()
    # The fused kernel rounds halves up and computes the grid's ends in float32.
    assert np.mean(np.abs(steps) < 0.01) > 0.999
    assert np.abs(steps).max() < 1.01


def gradients(quantizer, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(quantizer(x, training=True) * upstream)
    return [array(g) for g in tape.gradient(loss, [x, quantizer.log_range.value])]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_equal_numpy(bits, signed):
    quantizer = quantizer_of(num_bits=bits, signed=signed)
    upstream = np.random.default_rng(1).normal(0.3, 1, values().shape).astype(np.float32)
    dx, dlog = gradients(quantizer, values(), upstream)
    scale = quantizer.export_scale()
    expected, dscale = twin.backward(values(), scale, quantizer.qmin, quantizer.qmax, upstream)
    assert np.mean(dx == expected) > 0.999
    factor = 1 / 2.0**2  # the range is 2
    # At 8 bits the fused kernel leaves out the rounding term, under 1 % of the clipping term.
    np.testing.assert_allclose(dlog, dscale * scale * factor, rtol=0.02 if bits == 8 else 1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_ceiling_limits_the_range_and_lets_it_come_back(bits):
    quantizer = quantizer_of(5.0, num_bits=bits, signed=False, ceiling=6.0)
    quantizer.log_range.assign(0.5)
    top = array(quantizer(np.full((1, 8, 8, 4), 50, np.float32)))
    np.testing.assert_allclose(top, 6, rtol=1e-6)
    x = np.full((1, 8, 8, 4), 50, np.float32)
    _, wants_less = gradients(quantizer, x, np.ones_like(x))
    _, wants_more = gradients(quantizer, x, -np.ones_like(x))
    assert wants_less > 0
    assert wants_more == 0


def test_a_fixed_range_is_not_trained():
    assert not quantizer_of(learned=False).trainable_variables
    assert len(quantizer_of(learned=True).trainable_variables) == 1


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_refuses_precision(bits):
    with pytest.raises(DDQError, match="num_bits"):
        ActivationQuantizer(bits)


def test_config_round_trip():
    quantizer = ActivationQuantizer(4, signed=False, learned=False, ceiling=6.0, name="q")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert copy.get_config() == quantizer.get_config()
