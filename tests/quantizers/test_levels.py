"""Merging of levels by gates, and the two level families."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.errors import DDQError
from ddq_tf.quantizers.gates import merge_levels
from ddq_tf.quantizers.levels import FreeLevels, UniformLevels
from ddq_tf.scheme import WeightScheme
from tests.quantizers import twin
from tests.toys import array

ALL_GATES = [g for b in (1, 2, 3, 4) for g in itertools.product([0, 1], repeat=b)]


def ascending(count, seed=0):
    return np.sort(np.random.default_rng(seed).uniform(-1, 1, count)).astype(np.float32)


@pytest.mark.parametrize("gates", ALL_GATES, ids=lambda g: "".join(map(str, g)))
def test_merging_equals_the_explicit_kronecker_product(gates):
    levels = ascending(2 ** len(gates))
    upstream = np.random.default_rng(1).normal(0, 1, levels.shape)
    variable = tf.Variable(levels)
    with tf.GradientTape() as tape:
        merged = merge_levels(tf.convert_to_tensor(variable), np.array(gates))
        loss = tf.reduce_sum(merged * upstream.astype(np.float32))
    matrix = twin.merging(gates)
    np.testing.assert_allclose(merged, matrix.T @ levels.astype(np.float64), atol=2e-7)
    np.testing.assert_allclose(tape.gradient(loss, variable), matrix @ upstream, atol=1e-6)
    # The prefix rule: only the gates before the first closed one count.
    num_open = next((i for i, gate in enumerate(gates) if not gate), len(gates))
    blocks = levels.reshape(2**num_open, -1).mean(axis=1)
    np.testing.assert_allclose(merged, np.repeat(blocks, len(levels) // len(blocks)), atol=2e-7)


def test_the_order_in_which_gates_close_does_not_matter_only_which_are_closed():
    levels, seen = ascending(16), {}
    for order in itertools.permutations(range(4)):
        gates = np.ones(4, np.float32)
        for gate in order:
            gates[gate] = 0
            merged = array(merge_levels(tf.constant(levels), gates))
            first = seen.setdefault(tuple(gates), merged)
            np.testing.assert_array_equal(merged, first)
            assert (np.diff(merged) >= -1e-7).all(), "neighbours merge, so the order stays"
            assert len(np.unique(np.round(merged, 5))) <= 2 ** int(np.cumprod(gates).sum())


def free(precisions=(2, 4, 8), **kwargs):
    levels = FreeLevels(precisions, **{"init": "uniform", "correction": 1.0, **kwargs})
    levels.build()
    return levels


def one_hot(index, count=3):
    return tf.one_hot(index, count)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_free_levels_in_force_equal_numpy(index):
    family = free()
    learned = np.random.default_rng(0).permutation(ascending(256) * 1.3)
    family.levels.assign(learned)
    levels, _ = family.parameters()
    in_force = array(levels)[index]
    codes, _ = twin.levels_in_force(learned, twin.open_gates((2, 4, 8)[index], 8))
    np.testing.assert_array_equal(in_force, codes.astype(np.float32) * twin.STEP)
    assert np.abs(in_force).max() <= 127 * twin.STEP
    assert len(np.unique(in_force)) <= 2 ** (2, 4, 8)[index]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("make", [free, lambda: UniformLevels((2, 4, 8))], ids=["free", "uniform"])
def test_calibration_sees_the_levels_of_the_forward_pass(make, index):
    family = make()
    # Not a multiple of 1/508: no value in the middle of two levels.
    units = np.linspace(-1.2, 1.2, 4001, dtype=np.float32) + np.float32(1e-4)
    rounded = family.rounding.round(
        tf.constant(units), tf.constant(1.0), one_hot(index), *family.parameters()
    )
    np.testing.assert_allclose(family.nearest(units, index), array(rounded), atol=1e-7)


def test_a_level_beyond_the_grid_is_not_pulled_further():
    """Values that the range clips would pull their level outwards for ever."""
    family = free((2,), correction=1.0)
    family.levels.assign([-1.2, -0.3, 0.3, 1.2])
    x = tf.constant([2.0, 2.0, -2.0, 0.31])

    def gradient(slope):
        with tf.GradientTape() as tape:
            rounded = family.rounding.round(x, tf.constant(1.0), tf.ones(1), *family.parameters())
            loss = slope * tf.reduce_sum(rounded)
        return tape.gradient(loss, family.levels.value).numpy()

    np.testing.assert_allclose(gradient(0.0), [0, 0, 38 / 127 - 0.31, 0], rtol=1e-3)
    outwards, *_, back = gradient(5.0)
    assert outwards == 0
    np.testing.assert_allclose(back, 5 + (1 - 2), rtol=1e-5)


def test_refuses_an_unknown_start():
    with pytest.raises(DDQError, match=r"level_init.*'random'"):
        WeightScheme(levels="free", level_init="random")
