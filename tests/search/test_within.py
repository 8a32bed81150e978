"""The best choice within several limits, against exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddq_tf.search.within import any_within, choose_within


def problem(seed: int):
    """Losses fall with the width, bytes rise, times go as they like."""
    rng = np.random.default_rng(seed)
    options = rng.integers(1, 4, rng.integers(1, 8))
    losses = [np.sort(rng.exponential(size=n) * 10.0 ** rng.uniform(-3, 1))[::-1] for n in options]
    sizes = [np.array([2.0, 4.0, 8.0])[:n] * rng.integers(10, 100) for n in options]
    times = [rng.integers(1, 1000, n).astype(float) * rng.integers(1, 50) for n in options]
    capacities = [
        rng.uniform(0.5, 1) * sum(x[-1] for x in sizes),
        rng.uniform(0.8, 1.4) * sum(x.mean() for x in times),
    ]
    return losses, [sizes, times], capacities


def total(rows, choice) -> float:
    return sum(row[option] for row, option in zip(rows, choice, strict=True))


def best_of_all(losses, costs, capacities) -> float | None:
    every = itertools.product(*(range(len(row)) for row in losses))
    fitting = [
        choice
        for choice in every
        if all(total(c, choice) <= limit for c, limit in zip(costs, capacities, strict=True))
    ]
    return min((total(losses, choice) for choice in fitting), default=None)


def test_nothing_loses_less_within_both_limits():
    feasible = 0
    for seed in range(80):
        losses, costs, capacities = problem(seed)
        choice, best = choose_within(losses, costs, capacities), best_of_all(*problem(seed))
        assert (choice is None) == (best is None), seed
        if choice is not None:
            feasible += 1
            used = [total(cost, choice) for cost in costs]
            assert all(u <= limit for u, limit in zip(used, capacities, strict=True)), seed
            assert total(losses, choice) == pytest.approx(best, rel=1e-9), seed
    assert 20 < feasible < 80


def test_a_limit_that_is_just_met_is_met():
    times = [np.array([3.0, 1.0, 2.0])] * 5
    losses = [np.array([2.0, 1.0, 0.0])] * 5
    assert choose_within(losses, [times], [10.0]) == [2] * 5
    assert choose_within(losses, [times], [9.0]).count(1) == 1
    assert choose_within(losses, [times], [5.0]) == [1] * 5
    assert choose_within(losses, [times], [4.0]) is None
    assert choose_within(losses, [], []) == [2] * 5


def test_large_problems_keep_both_limits_and_use_them_up():
    rng = np.random.default_rng(0)
    losses = [
        np.sort(rng.exponential(size=3))[::-1] * 10.0 ** rng.uniform(-4, 0) for _ in range(99)
    ]
    sizes = [np.array([2.0, 4.0, 8.0]) * rng.integers(100, 10_000) for _ in range(99)]
    times = [np.rint(np.array([2.2, 1.1, 1.0]) * rng.uniform(900, 9000)) for _ in range(99)]
    limits = [0.5 * sum(x[-1] for x in sizes), 1.2 * sum(x[-1] for x in times)]
    choice = choose_within(losses, [sizes, times], limits)
    for cost, limit in zip((sizes, times), limits, strict=True):
        assert 0.995 * limit < total(cost, choice) <= limit
    # As good as the best prices of Lagrange's dual allow, but for little.
    assert any_within([sizes, times], limits) is not None
    assert total(losses, choice) < 1.02 * bound(losses, [sizes, times], limits)


def bound(losses, costs, limits) -> float:
    """A lower bound of all choices within the limits, by looking at many prices."""
    scale = sum(loss[0] for loss in losses)
    best = -np.inf
    for exponents in itertools.product(np.linspace(-3, 1.5, 40), repeat=2):
        prices = [scale * 10.0**e / limit for e, limit in zip(exponents, limits, strict=True)]
        paid = [
            loss + sum(p * cost[group] for p, cost in zip(prices, costs, strict=True))
            for group, loss in enumerate(losses)
        ]
        spent = sum(p * limit for p, limit in zip(prices, limits, strict=True))
        best = max(best, sum(row.min() for row in paid) - spent)
    return best
