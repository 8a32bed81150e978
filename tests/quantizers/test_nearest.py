"""The nearest-level step and snapping, against numpy that compares with all levels."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.quantizers.nearest import cell_tables, nearest_codes, nearest_level, snap
from tests.quantizers import twin
from tests.toys import array

TIES = np.arange(-260, 261) / np.float32(254)
ADVERSARIAL = {
    "ties": TIES.astype(np.float32),
    "just below ties": np.nextafter(TIES.astype(np.float32), np.float32(-9)),
    "constant": np.full((3, 3, 2, 4), 0.3, np.float32),
    "zeros": np.zeros((2, 5), np.float32),
    "one element": np.float32([[-0.7]]),
    "huge": np.float32([3e38, -3e38, 1e30, 0.2]),
    "denormal": np.float32([1e-40, -1e-40, 1e-45, 0.0, -0.0]),
    "random": np.random.default_rng(0).normal(0, 0.5, (3, 3, 4, 5)).astype(np.float32),
}


def codes_of(bits, seed=0):
    """Ascending int8 codes; from 4 bits on, some of them twice."""
    codes = np.random.default_rng(seed).integers(-127, 128, 2**bits)
    return np.sort(codes).astype(np.float64)


def run(x, alpha, codes, correction, upstream):
    levels = tf.constant(codes.astype(np.float32) * twin.STEP)
    x, alpha, block = (tf.constant(v, tf.float32) for v in (x, alpha, 1))
    with tf.GradientTape() as tape:
        tape.watch([x, alpha, levels])
        y = nearest_level(x, alpha, levels, cell_tables(levels), block, correction)
    gradients = tape.gradient(y, [x, alpha, levels], output_gradients=tf.constant(upstream))
    return y.numpy(), [array(g) for g in gradients]


@pytest.mark.parametrize("correction", [0.0, 1.0])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("alpha", [1.0, 0.37])
@pytest.mark.parametrize("case", ADVERSARIAL)
def test_forward_and_gradients_equal_numpy(case, alpha, bits, correction):
    x, codes, alpha = ADVERSARIAL[case] * np.float32(alpha), codes_of(bits), np.float32(alpha)
    if case == "huge":
        correction = 0.0  # the distance to the level overflows any sum
    upstream = np.random.default_rng(1).normal(0, 1, x.shape).astype(np.float32)
    gates = np.ones(bits)
    y, (dx, dalpha, dlevels) = run(x, alpha, codes, correction, upstream)
    np.testing.assert_array_equal(y, twin.free_forward(x, alpha, codes))
    learned = codes / 127
    expected = twin.free_backward(x, alpha, learned, gates, correction, upstream)
    np.testing.assert_array_equal(dx, expected[0])
    np.testing.assert_allclose(dalpha, expected[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dlevels, expected[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (1, 1), ()])
def test_ranges_per_channel_and_per_tensor(shape):
    x = ADVERSARIAL["random"]
    alpha = np.random.default_rng(2).uniform(0.2, 1.5, shape).astype(np.float32)
    upstream = np.random.default_rng(1).normal(0, 1, x.shape).astype(np.float32)
    codes, gates = codes_of(3), np.ones(3)
    y, (dx, dalpha, dlevels) = run(x, alpha, codes, 0.5, upstream)
    np.testing.assert_array_equal(y, twin.free_forward(x, alpha, codes))
    expected = twin.free_backward(x, alpha, codes / 127, gates, 0.5, upstream)
    np.testing.assert_array_equal(dx, expected[0])
    assert dalpha.shape == shape
    np.testing.assert_allclose(dalpha, expected[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dlevels, expected[2], rtol=1e-4, atol=1e-5)


@given(
    codes=st.lists(st.integers(-127, 127), min_size=1, max_size=6),
    bits=st.integers(1, 5),
    x=hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-2, 2, width=32)),
    alpha=st.floats(0.0625, 4, width=32),
)
@settings(max_examples=60, deadline=None)
def test_is_the_argmin_for_any_levels(codes, bits, x, alpha):
    codes = np.sort(np.resize(codes, 2**bits)).astype(np.float64)
    alpha = np.float32(alpha)
    y, _ = run(x, alpha, codes, 1.0, np.ones_like(x))
    np.testing.assert_array_equal(y, twin.free_forward(x, alpha, codes))
    # Without any float32 in the way: no level is nearer by more than the rounding of x / alpha.
    units = x.astype(np.float64) / float(alpha)
    chosen = np.abs(units - np.rint(y / (alpha * twin.STEP)) / 127)
    best = np.abs(units[:, None] - codes / 127).min(axis=1)
    assert (chosen - best <= 1e-6 * np.maximum(1, np.abs(units))).all()
    order = np.argsort(x)
    assert (np.diff(y[order]) >= 0).all(), "monotonic"
    again, _ = run(y, alpha, codes, 1.0, np.ones_like(x))
    np.testing.assert_array_equal(again, y, "idempotent")


def test_ties_go_to_the_upper_level():
    y, _ = run(np.float32([0.0]), 1.0, np.array([-5.0, 5.0]), 0.0, np.ones(1, "f"))
    assert y[0] > 0


def test_the_correction_pulls_a_level_to_the_centroid_of_what_it_serves():
    x = np.float32([0.15, 0.25, 0.9])
    codes = np.array([-127.0, 0, 31, 127])
    _, (_, _, pull) = run(x, 1.0, codes, 1.0, np.zeros(3, np.float32))
    moved = codes / 127 - pull
    np.testing.assert_allclose(moved, [-1, 0, 0.2, 0.9], atol=1e-6)


def test_nan_stays_nan_and_ends_nothing():
    x = np.float32([np.nan, 0.5, np.inf, -np.inf])
    y, (dx, _, _) = run(x, 1.0, codes_of(3), 1.0, np.ones(4, np.float32))
    np.testing.assert_array_equal(np.isnan(y), [True, False, False, False])
    assert dx.shape == (4,)


@pytest.mark.parametrize(
    ("level", "upstream", "value", "gradient"),
    [
        (0.5, 1, 64 / 127, 1),
        (0.5, -1, 64 / 127, -1),
        (1.2, 1, 1, 1),
        (1.2, -1, 1, 0),
        (-1.2, 1, -1, 0),
        (-1.2, -1, -1, -1),
    ],
)
def test_snap(level, upstream, value, gradient):
    variable = tf.Variable(np.float32(level))
    with tf.GradientTape() as tape:
        snapped = snap(tf.convert_to_tensor(variable))
        loss = snapped * upstream
    assert snapped.numpy() == pytest.approx(value, abs=1e-6)
    assert tape.gradient(loss, variable).numpy() == gradient


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-2, 2, width=32)))
@settings(max_examples=30, deadline=None)
def test_the_numpy_form_is_the_argmin(units):
    codes = codes_of(4)
    middles = (codes[1:] + codes[:-1]) / np.float32(254)
    away = np.abs(units[:, None] - middles).min(axis=1) > 1e-6
    expected = codes[twin.serving(units, 1.0, codes)[0]]
    np.testing.assert_array_equal(nearest_codes(units, codes)[away], expected[away])
