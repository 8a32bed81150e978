import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ddq_tf.quantizers import (
    optimal_activation_range,
    optimal_weight_range,
    percentile_activation_range,
)
from ddq_tf.quantizers.calibration import max_weight_range
from ddq_tf.quantizers.levels import FreeLevels, UniformLevels
from tests.quantizers import twin

_FLOATS = st.floats(-100, 100, width=32)


def uniform_range(weights, bits):
    levels = UniformLevels((bits,))
    return optimal_weight_range(weights, lambda units: levels.nearest(units, 0))


def squared_error(values, limit, qmin, qmax):
    scale = (np.asarray(limit) / qmax).astype(np.float32)
    rounded = np.clip(np.rint(values / scale), qmin, qmax) * scale
    return np.square((values - rounded).astype(np.float64)).mean(axis=0)


@given(
    weights=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.integers(1, 4)), elements=_FLOATS
    ),
    bits=st.integers(2, 8),
)
@settings(max_examples=40, deadline=None)
def test_weight_range_is_no_worse_than_the_maximum(weights, bits):
    qmax = 2 ** (bits - 1) - 1
    best, largest = uniform_range(weights, bits), max_weight_range(weights)
    assert (best > 0).all()
    assert (best <= largest).all()
    # The search sums float32: equal errors may differ in the last digits.
    limit = squared_error(weights, largest, -qmax, qmax) * (1 + 1e-4) + 1e-9
    assert (squared_error(weights, best, -qmax, qmax) <= limit).all()


@given(
    values=hnp.arrays(np.float32, st.integers(1, 60), elements=_FLOATS),
    bits=st.integers(2, 8),
    signed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_activation_range_is_no_worse_than_the_maximum(values, bits, signed):
    values = values if signed else np.abs(values)
    qmax = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    qmin = -qmax if signed else 0
    best = optimal_activation_range(values, qmin, qmax)
    largest = max(float(np.abs(values).max()), 1e-6)
    assert 0 < best <= largest * (1 + 1e-6)
    limit = squared_error(values, largest, qmin, qmax) * (1 + 1e-4) + 1e-9
    assert squared_error(values, best, qmin, qmax) <= limit


def test_an_outlier_is_clipped_at_low_precision_only():
    weights = np.random.default_rng(0).normal(0, 0.1, (500, 1)).astype(np.float32)
    weights[0] = 0.8
    ratios = [float(uniform_range(weights, bits)[0]) / 0.8 for bits in (2, 3, 8)]
    assert ratios[0] <= ratios[1] < 0.7
    assert ratios[2] > 0.9


@pytest.mark.parametrize("weights", [np.zeros((9, 3)), np.full((1, 1), 1e-40), np.eye(3) * 1e15])
def test_dead_and_extreme_channels_get_a_usable_range(weights):
    weights = weights.astype(np.float32)
    for bits in (2, 8):
        limit = uniform_range(weights, bits)
        assert np.isfinite(limit).all()
        scale = (limit / (2 ** (bits - 1) - 1)).astype(np.float32)
        assert (scale > np.finfo(np.float32).tiny).all()
        assert np.isfinite(twin.forward(weights, scale, -127, 127)[0]).all()


def test_a_dead_channel_gets_a_range_below_its_neighbours():
    weights = np.array([[1.0, 0.0], [-2.0, 0.0]], np.float32)
    np.testing.assert_allclose(max_weight_range(weights), [2, 2e-6])


def test_the_range_of_free_levels_suits_these_levels():
    """Levels at half the range: the range is stretched as far as it may be, not doubled."""
    family = FreeLevels((2,), "uniform", 1.0)
    family.build()
    family.levels.assign([-0.25, 0, 0.125, 0.5])
    weights = np.float32([[-0.5], [0], [0.25], [1.0]]) * 0.3
    found = optimal_weight_range(weights, lambda units: family.nearest(units, 0))
    assert found[0] == np.float32(0.3)
    family.levels.assign([-1, 0, 0.5, 2 / 3 * 127 / 127])
    best, errors = optimal_weight_range(weights, lambda u: family.nearest(u, 0)), []
    for ratio in np.linspace(0.3, 1, 57):
        alpha = np.float32(0.3 * ratio)
        rounded = family.nearest(weights / alpha, 0) * alpha
        errors.append(np.mean(np.square(rounded - weights)))
    assert errors[round((float(best[0]) / 0.3 - 0.3) / 0.7 * 56)] == pytest.approx(min(errors))


def test_percentile_leaves_out_one_in_ten_thousand():
    values = np.ones(100_000, np.float32)
    values[:5] = -70.0  # 0.005 %
    assert percentile_activation_range(values) == 1
    values[:20] = -70.0  # 0.02 %
    assert percentile_activation_range(values) == 70
    assert percentile_activation_range(np.zeros(5)) == pytest.approx(1e-6)
    assert percentile_activation_range(np.float32([-3.0])) == 3
