"""The best precisions that fit a budget (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_UNITS = 1 << 15
_FILL = 1e-9


def allocate(
    values: Sequence[np.ndarray], costs: Sequence[np.ndarray], capacity: float
) -> list[int]:
    """Chooses one option of each group: the greatest total value within the capacity.

    A multiple-choice knapsack, solved exactly up to the rounding of costs to 1/32768 of the
    capacity (upwards, so the capacity is never exceeded). Among equals the dearer options win: a
    budget is there to be used.

    Args:
        values: per group, shape (options,): what each option is worth.
        costs: per group, shape (options,): what it costs; never falling, >= 0.
        capacity: upper limit of the total cost.

    Returns:
        The chosen option of each group; of options at one cost, the last. If even the cheapest
        options exceed the capacity, those.
    """
    cheapest = float(sum(c[0] for c in costs))
    room = capacity - cheapest
    if room <= 0:
        return [int(np.searchsorted(c, c[0], side="right")) - 1 for c in costs]
    if sum(float(c[-1]) for c in costs) <= capacity:  # rounded up, these might not fit
        return [len(c) - 1 for c in costs]
    extra = [np.ceil((c - c[0]) / room * _UNITS - 1e-9).astype(np.int64) for c in costs]
    filled = [with_fill(v, c) for v, c in zip(values, costs, strict=True)]
    return _knapsack(filled, extra)


def with_fill(values: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns values that never fall as costs rise: an estimate below zero is noise, no saving.

    Args:
        values: shape (options,): what each option is worth.
        costs: the same shape, never falling.
    """
    steps = np.maximum(np.diff(np.asarray(values, np.float64)), 0.0)
    # Above 0 also where the cost stays: a higher precision for nothing is to be taken.
    floor = _FILL * np.maximum(np.diff(np.asarray(costs, np.float64)), 1.0)
    return np.concatenate([[0.0], np.cumsum(steps + floor)])


def _knapsack(values: Sequence[np.ndarray], extra: Sequence[np.ndarray]) -> list[int]:
    """Dynamic programme over the used units; returns the option of each group."""
    best = np.full(_UNITS + 1, -np.inf)
    best[0] = 0.0
    taken = []
    for value, cost in zip(values, extra, strict=True):
        candidates = np.full((len(value), _UNITS + 1), -np.inf)
        for option, (v, c) in enumerate(zip(value, cost, strict=True)):
            if c <= _UNITS:
                candidates[option, c:] = best[: _UNITS + 1 - c] + v
        choice = np.argmax(candidates, axis=0)
        taken.append(choice.astype(np.int8))
        best = np.take_along_axis(candidates, choice[None], axis=0)[0]
    unit = int(np.argmax(best))
    chosen = []
    for choice, cost in zip(reversed(taken), reversed(extra), strict=True):
        option = int(choice[unit])
        chosen.append(option)
        unit -= int(cost[option])
    return chosen[::-1]
