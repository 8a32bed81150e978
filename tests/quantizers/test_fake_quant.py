import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.quantizers import fake_quantize
from ddq_tf.quantizers.fake_quant import as_float32, clip_above
from tests.quantizers import twin

TIES = [k + 0.5 for k in range(-9, 9)]
ADVERSARIAL = np.array(
    [0.0, -0.0, *TIES, 7, -7, 7.0001, -7.0001, 1e30, -1e30, 1e-42, -1e-42, 3.4e38, -3.4e38],
    np.float32,
)


def run(x, scale, qmin, qmax, upstream):
    x, scale = tf.constant(x), tf.constant(scale)
    with tf.GradientTape() as tape:
        tape.watch([x, scale])
        y = fake_quantize(x, scale, as_float32(qmin), as_float32(qmax))
    dx, dscale = tape.gradient(y, [x, scale], output_gradients=tf.constant(upstream))
    return y.numpy(), dx.numpy(), dscale.numpy()


def check(x, scale, qmin, qmax, seed=0):
    upstream = np.random.default_rng(seed).normal(0, 1, x.shape).astype(np.float32)
    y, dx, dscale = run(x, scale, qmin, qmax, upstream)
    np.testing.assert_array_equal(y, twin.forward(x, scale, qmin, qmax)[0])
    expected_dx, expected_dscale = twin.backward(x, scale, qmin, qmax, upstream)
    np.testing.assert_array_equal(dx, expected_dx)
    assert dscale.shape == scale.shape
    # A float32 sum of up to 400 terms of at most 255 * |upstream|.
    np.testing.assert_allclose(dscale, expected_dscale, rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize(("qmin", "qmax"), [(-7, 7), (0, 15), (-128, 127), (-1, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.013])
def test_equals_numpy_on_adversarial_values(qmin, qmax, scale):
    check(ADVERSARIAL * np.float32(scale), np.float32(scale), qmin, qmax)


def test_huge_values_in_units_that_overflow_keep_finite_gradients():
    x = np.array([3e38, -3e38, 0.2], np.float32)
    y, dx, dscale = run(x, np.float32(0.1), -7, 7, np.ones(3, np.float32))
    np.testing.assert_allclose(y, [0.7, -0.7, 0.2], rtol=1e-6)
    assert dx.tolist() == [0, 0, 1]
    assert np.isfinite(dscale)


def test_ties_round_to_even():
    y, *_ = run(np.array(TIES, np.float32), np.float32(1), -7, 7, np.ones(18, np.float32))
    inside = np.abs(y) < 7
    assert inside.any()
    assert (y[inside] % 2 == 0).all()


@given(
    x=hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-9, 9, width=32)
    ),
    scale=st.floats(0.0625, 4, width=32),
    bits=st.integers(2, 8),
)
@settings(max_examples=40, deadline=None)
def test_equals_numpy_on_any_shape(x, scale, bits):
    qmax = 2 ** (bits - 1) - 1
    check(x, np.float32(scale), -qmax, qmax)


@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [((3, 3, 4, 5), (5,)), ((3, 3, 4, 2), (4, 2)), ((6, 5), (1, 5)), ((1,), (1,))],
)
def test_scale_per_channel(shape, scale_shape):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 0.4, scale_shape).astype(np.float32)
    check(rng.normal(0, 1, shape).astype(np.float32), scale, -3, 3)


@pytest.mark.parametrize(
    ("x", "upstream", "value", "gradient"),
    [(5.0, -1.0, 5, -1), (5.0, 1.0, 5, 1), (7.0, 1.0, 6, 1), (7.0, -1.0, 6, 0), (6.0, -1.0, 6, -1)],
)
def test_clip_above_lets_only_the_way_back_through(x, upstream, value, gradient):
    variable = tf.Variable(np.float32(x))
    with tf.GradientTape() as tape:
        y = clip_above(tf.convert_to_tensor(variable), as_float32(6.0))
        loss = y * upstream
    assert y.numpy() == value
    assert tape.gradient(loss, variable).numpy() == gradient


def test_works_inside_a_compiled_function():
    x = keras.random.normal((4, 5), seed=0)
    scale = tf.constant(0.1)
    eager = fake_quantize(x, scale, as_float32(-7), as_float32(7))
    traced = tf.function(fake_quantize)(x, scale, as_float32(-7), as_float32(7))
    np.testing.assert_array_equal(eager, traced)
