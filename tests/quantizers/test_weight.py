import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import WeightQuantizer
from tests.quantizers import twin
from tests.toys import array

ALL = tuple(range(2, 9))


def kernel_of(shape=(3, 3, 4, 6), seed=0):
    kernel = np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)
    kernel[..., 0] = 0  # a dead channel
    kernel[..., 1] *= 1e-6  # one that is all but dead
    kernel[0, ..., 2] *= 30  # outliers
    return kernel


def quantizer_of(kernel, precisions=ALL, *, bits=None, **kwargs):
    quantizer = WeightQuantizer(precisions, **kwargs)
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel)
    if bits is not None:
        quantizer.choice.assign(precisions.index(bits))
    return quantizer


def trained(quantizer):
    """Moves every range, as training does."""
    rng = np.random.default_rng(1)
    quantizer.log_range.assign(rng.normal(0, 0.1, quantizer.log_range.shape))
    return quantizer


@pytest.mark.parametrize("channel_axes", [1, 2])
@pytest.mark.parametrize("bits", ALL)
def test_export_is_the_forward_pass(bits, channel_axes):
    kernel = kernel_of()
    quantizer = trained(quantizer_of(kernel, bits=bits, channel_axes=channel_axes))
    codes, scale = quantizer.export(kernel)
    forward = array(quantizer(kernel))
    np.testing.assert_array_equal(codes * scale, forward)
    np.testing.assert_array_equal(forward, array(quantizer(kernel, training=True)))
    formula, qmax = twin.weight_scale(quantizer, bits - 2)
    np.testing.assert_allclose(scale, formula, rtol=1e-6)
    np.testing.assert_array_equal(forward, twin.forward(kernel, scale, -qmax, qmax)[0])
    assert codes.dtype == np.int8
    assert scale.shape == kernel.shape[-channel_axes:]
    assert np.abs(codes).max() <= 2 ** (bits - 1) - 1
    assert len(np.unique(codes)) <= 2**bits
    assert quantizer.num_bits == bits


@pytest.mark.parametrize("bits", ALL)
def test_quantizing_twice_is_quantizing_once(bits):
    kernel = kernel_of()
    quantizer = trained(quantizer_of(kernel, bits=bits))
    once = array(quantizer(kernel))
    np.testing.assert_array_equal(array(quantizer(once)), once)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1), (7, 1), (1, 5)])
def test_smallest_kernels(shape):
    kernel = np.full(shape, -0.7, np.float32)
    quantizer = WeightQuantizer((4, 8))
    quantizer.build(shape)
    quantizer.calibrate(kernel)
    codes, scale = quantizer.export(kernel)
    np.testing.assert_allclose(codes * scale, kernel, rtol=0.01)


def test_calibration_by_maximum_never_clips():
    kernel = kernel_of()
    quantizer = WeightQuantizer((3, 8))
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel, method="max")
    largest = np.abs(kernel).reshape(-1, 6).max(axis=0)
    np.testing.assert_array_equal(array(quantizer.base_range)[:, 2:], [largest[2:]] * 2)
    assert (array(quantizer.base_range)[:, :2] >= largest[:2]).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_equal_numpy(bits):
    kernel = kernel_of()[..., 1:]
    quantizer = quantizer_of(kernel, bits=bits)
    upstream = np.random.default_rng(2).normal(0, 1, kernel.shape).astype(np.float32)
    variable = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(variable, training=True) * upstream)
    log_range = quantizer.log_range.value
    dkernel, dlog = tape.gradient(loss, [variable, log_range])
    scale, qmax = twin.weight_scale(quantizer, bits - 2)
    expected, dscale = twin.backward(kernel, scale, -qmax, qmax, upstream)
    np.testing.assert_array_equal(dkernel, expected)
    base = np.maximum(np.square(array(quantizer.base_range)[bits - 2]), 1e-4)
    factor = min(1, (7 / qmax) ** 2) / base
    np.testing.assert_allclose(dlog[bits - 2], dscale * scale * factor, rtol=1e-3, atol=1e-4)
    others = np.delete(array(dlog), bits - 2, axis=0)
    assert not others.any(), "only the range of the precision in force learns"


def visits(quantizer, kernel, steps=40):
    """Which precision each training step used, told from the output."""
    known = [twin.quantized_weight(quantizer, kernel, i) for i in range(len(quantizer.precisions))]
    seen = []
    for _ in range(steps):
        output = array(quantizer(kernel, training=True))
        seen.append(next(i for i, k in enumerate(known) if np.array_equal(k, output)))
    return seen


def explorer(seed, kernel):
    quantizer = quantizer_of(kernel, (2, 4, 6, 8), bits=4, seed=seed)
    quantizer.explore.assign(0.5)
    return quantizer


def test_exploration_visits_neighbours_and_is_determined_by_the_seed():
    kernel = kernel_of((3, 3, 2, 4))
    first = visits(explorer(3, kernel), kernel)
    assert set(first) == {0, 1, 2}
    assert 8 <= first.count(1) <= 32
    assert first == visits(explorer(3, kernel), kernel)
    assert first != visits(explorer(4, kernel), kernel)


def test_inference_never_explores():
    kernel = kernel_of((3, 3, 2, 4))
    quantizer = explorer(0, kernel)
    quantizer.explore.assign(1.0)
    outputs = [array(quantizer(kernel, training=False)) for _ in range(8)]
    for output in outputs:
        np.testing.assert_array_equal(output, twin.quantized_weight(quantizer, kernel, 1))


def test_a_single_precision_has_no_gate():
    kernel = kernel_of()
    quantizer = quantizer_of(kernel, (8,), bits=8)
    assert not any(v.name == "evidence" for v in quantizer.variables)
    assert quantizer.loss_saved().size == 0
    np.testing.assert_array_equal(
        array(quantizer(kernel, training=True)), twin.quantized_weight(quantizer, kernel, 0)
    )


def test_bypass_returns_the_kernel():
    kernel = kernel_of()
    quantizer = quantizer_of(kernel)
    quantizer.bypass = True
    np.testing.assert_array_equal(array(quantizer(kernel)), kernel)


def test_starts_at_the_highest_precision_and_not_frozen():
    quantizer = quantizer_of(kernel_of(), (2, 4, 8))
    assert quantizer.num_bits == 8
    assert not quantizer.is_frozen
    assert quantizer.num_weights == 3 * 3 * 4 * 6


@pytest.mark.parametrize("precisions", [(), (8, 4), (4, 4), (1, 8), (4, 9)])
def test_refuses_precisions(precisions):
    with pytest.raises(DDQError, match="precisions"):
        WeightQuantizer(precisions)


def test_config_round_trip():
    quantizer = WeightQuantizer((3, 5), channel_axes=2, seed=9, name="q")
    twin_quantizer = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(quantizer)
    )
    assert twin_quantizer.get_config() == quantizer.get_config()
