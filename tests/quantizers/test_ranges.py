import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.quantizers import learned_range


def ranges(base, log_range, speed=1.0):
    return learned_range(tf.constant(base, tf.float32), tf.constant(log_range, tf.float32), speed)


@pytest.mark.parametrize("log_range", [0.0, -0.3, 0.3, 5.0, -80.0, 1e6])
def test_is_positive_and_within_the_bound(log_range):
    alpha = ranges([0.5, 1e-9], [log_range] * 2).numpy()
    expected = np.array([0.5, 1e-9]) * np.exp(2 * np.tanh(np.float64(log_range) / 2))
    np.testing.assert_allclose(alpha, expected, rtol=1e-5)
    assert np.all(alpha / [0.5, 1e-9] <= np.exp(2) * 1.0001)


def test_calibration_is_exact():
    base = np.float32([0.1, 3.7, 1e-6])
    np.testing.assert_array_equal(ranges(base, np.zeros(3)).numpy(), base)


@pytest.mark.parametrize("speed", [1.0, 0.25])
def test_a_gradient_step_moves_alpha_like_a_parameter(speed):
    base = np.float32([0.5, 2.0])
    log_range = tf.Variable(tf.zeros(2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(learned_range(tf.constant(base), log_range, speed) * [3.0, -1.0])
    step = -1e-3 * tape.gradient(loss, log_range).numpy()
    np.testing.assert_allclose(base * step, -1e-3 * speed * np.array([3.0, -1.0]), rtol=1e-5)


def test_dead_channels_move_slowly():
    log_range = tf.Variable(tf.zeros(1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(learned_range(tf.constant([1e-9]), log_range))
    assert abs(tape.gradient(loss, log_range).numpy()[0]) <= 1e-9 / 1e-4 * 1.0001
