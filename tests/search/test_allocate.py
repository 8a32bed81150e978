import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddq_tf.search import allocate


@st.composite
def problems(draw):
    values, costs = [], []
    for _ in range(draw(st.integers(1, 4))):
        options = draw(st.integers(1, 4))
        steps = draw(st.lists(st.integers(1, 40), min_size=options, max_size=options))
        gains = draw(st.lists(st.integers(-20, 50), min_size=options - 1, max_size=options - 1))
        costs.append(np.cumsum(steps).astype(float))
        values.append(np.concatenate([[0.0], np.cumsum(gains)]).astype(float))
    least, most = (sum(c[end] for c in costs) for end in (0, -1))
    return values, costs, draw(st.integers(int(least), int(most) + 5))


def total(table, choice):
    return sum(row[option] for row, option in zip(table, choice, strict=True))


def without_losses(values):
    """An estimate below zero is noise, not a saving."""
    return [np.concatenate([[0], np.cumsum(np.maximum(np.diff(v), 0))]) for v in values]


@given(problems())
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(problem):
    values, costs, capacity = problem
    choice = allocate(values, costs, capacity)
    assert total(costs, choice) <= capacity
    useful = without_losses(values)
    fitting = [
        c
        for c in itertools.product(*(range(len(v)) for v in values))
        # Costs are rounded up to 1/32768 of the capacity, once per group.
        if total(costs, c) <= capacity * (1 - 4 / 32768)
    ]
    best = max((total(useful, c) for c in fitting), default=0)
    assert total(useful, choice) >= best - 1e-5


@given(problems())
@settings(max_examples=60, deadline=None)
def test_no_step_that_still_fits_is_left(problem):
    values, costs, capacity = problem
    choice = allocate(values, costs, capacity)
    slack = (capacity - total(costs, choice)) - capacity * 4 / 32768
    steps = [c[o + 1] - c[o] for c, o in zip(costs, choice, strict=True) if o + 1 < len(c)]
    assert all(step > slack for step in steps)


def test_among_equals_the_dearer_wins():
    costs = [np.array([10.0, 20.0]), np.array([10.0, 30.0])]
    assert allocate([np.zeros(2)] * 2, costs, 45) == [0, 1]
    assert allocate([np.zeros(2)] * 2, costs, 1e9) == [1, 1]


@pytest.mark.parametrize("capacity", [0, 20, 25, 1e9])
def test_at_one_cost_the_highest_precision_wins(capacity):
    costs = [np.array([10.0, 10.0, 20.0]), np.array([10.0, 20.0, 20.0])]
    expected = [2, 2] if capacity == 1e9 else [1, 0]
    assert allocate([np.zeros(3), np.zeros(3)], costs, capacity) == expected
    assert allocate([np.array([0.0, 0.0, 0.0]), np.array([0.0, 3.0, 3.0])], costs, 30) == [1, 2]


@pytest.mark.parametrize("capacity", [0, 19.9, 20])
def test_the_cheapest_where_nothing_else_fits(capacity):
    assert allocate([np.array([0.0, 9.0])] * 2, [np.array([10.0, 20.0])] * 2, capacity) == [0, 0]


def test_a_hundred_layers_of_a_real_size():
    rng = np.random.default_rng(0)
    costs = [np.array([4.0, 8.0]) * n for n in rng.integers(100, 400_000, 100)]
    values = [np.array([0.0, v]) for v in rng.exponential(1, 100)]
    capacity = 0.6 * sum(c[1] for c in costs)
    choice = allocate(values, costs, capacity)
    assert 0.995 * capacity <= total(costs, choice) <= capacity
    # The greedy answer by value per cost is a lower bound.
    greedy = [0] * 100
    for i in sorted(range(100), key=lambda i: -values[i][1] / costs[i][1]):
        greedy[i] = 1
        if total(costs, greedy) > capacity:
            greedy[i] = 0
    assert total(values, choice) >= total(values, greedy) - 1e-3
