import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import WeightQuantizer
from ddq_tf.quantizers.initial_levels import initial_levels
from tests.toys import array


def laplace(count=2000, seed=0):
    values = np.random.default_rng(seed).laplace(0, 0.15, count)
    return np.clip(values, -1, 1).astype(np.float32)


def lloyd_step(levels, values, weights):
    """The weighted centroids of what each level serves, by comparing with all levels."""
    served = np.argmin(np.abs(values[:, None].astype(np.float64) - levels), axis=1)
    total = np.bincount(served, weights, len(levels))
    sums = np.bincount(served, weights * values, len(levels))
    return np.where(total > 0, sums / np.where(total > 0, total, 1), levels)


@pytest.mark.parametrize("bits", range(2, 9))
def test_uniform(bits):
    levels = initial_levels("uniform", bits)
    assert levels.dtype == np.float32
    np.testing.assert_allclose(levels, -1 + 2 * np.arange(2**bits) / (2**bits - 1), atol=1e-6)


def test_powers_of_two():
    assert initial_levels("power_of_two", 2).tolist() == [-1, 0, 0.5, 1]
    assert initial_levels("power_of_two", 3).tolist() == [-1, -0.5, -0.25, 0, 0.125, 0.25, 0.5, 1]
    finest = initial_levels("power_of_two", 4)
    assert len(np.unique(np.rint(finest * 127))) == 16, "the int8 grid tells them apart"


@pytest.mark.parametrize("bits", [5, 8])
def test_powers_of_two_need_few_bits(bits):
    with pytest.raises(DDQError, match=f"up to 4 bits.*{bits}"):
        initial_levels("power_of_two", bits)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_kmeans_is_a_fixed_point_of_lloyd(bits, weighted):
    values = laplace(400)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.1, 5, 400) if weighted else np.ones(400)
    levels = initial_levels("kmeans", bits, values, weights)
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(lloyd_step(levels, values, weights), levels, atol=2e-3)


def test_weights_draw_centroids():
    values, weights = np.float32([-1, 0, 0.8, 1]), np.array([1.0, 1, 3, 1])
    np.testing.assert_allclose(
        initial_levels("kmeans", 1, values, weights), [-0.5, 0.85], atol=1e-6
    )


def error_of(levels, values, weights):
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]
    return np.sum(weights * np.square(values - nearest))


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_kmeans_beats_the_uniform_grid(bits):
    values, weights = laplace(20_000), np.ones(20_000)
    kmeans = error_of(initial_levels("kmeans", bits, values, weights), values, weights)
    assert kmeans < 0.5 * error_of(initial_levels("uniform", bits), values, weights)


@given(
    values=hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1, 1, width=32)),
    bits=st.integers(1, 8),
    dead=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_kmeans_gives_ascending_levels_within_the_range_for_any_values(values, bits, dead):
    weights = np.zeros(len(values)) if dead else np.ones(len(values))
    levels = initial_levels("kmeans", bits, values, weights)
    assert levels.shape == (2**bits,)
    assert (np.diff(levels) >= 0).all()
    assert np.abs(levels).max() <= 1
    if not dead and len(np.unique(values)) == 1:
        np.testing.assert_allclose(levels, values[0], atol=1e-6)


@pytest.mark.parametrize("init", ["uniform", "power_of_two", "kmeans"])
def test_calibration_starts_levels_there(init):
    kernel = np.random.default_rng(0).laplace(0, 0.1, (300, 4)).astype(np.float32)
    kernel[:, 3] *= 100
    quantizer = WeightQuantizer((2, 4), levels="free", level_init=init)
    quantizer.build(kernel.shape)
    quantizer.calibrate(kernel)
    largest = np.abs(kernel).max(axis=0)
    # A channel counts by its range squared: that is what an error in its units costs.
    weights = np.broadcast_to(np.square(largest), kernel.shape)
    expected = initial_levels(init, 4, kernel / largest, weights)
    np.testing.assert_array_equal(array(quantizer.levels.levels), expected)
    start = {"uniform": -1, "power_of_two": -1}.get(init, expected[0])
    assert array(quantizer.levels.levels)[0] == start
