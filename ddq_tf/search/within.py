"""The choice that loses least within several limits at once (numpy only).

A limit's price is what it costs in losses to use up a unit of it. At the best prices (of
Lagrange's dual) the sum over groups of each one's least (loss + prices · costs) bounds what any
choice within the limits can lose. So partial choices that cannot beat the best one known are left
out, and the rest are few: dynamic programming with bounds (Weingartner and Ness, 1967).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_MOST_KEPT = 4096  # partial choices; with no more of them the choice is exact
_DECADES = (-16.0, 4.0)  # of a price, in units of all losses for all of the limit
_HALVINGS = 26
_PASSES = 3


def choose_within(
    losses: Sequence[np.ndarray],
    costs: Sequence[Sequence[np.ndarray]],
    capacities: Sequence[float],
) -> list[int] | None:
    """Chooses one option of each group: the least sum of losses within all capacities.

    Exact where no more than 4096 partial choices could be the best at a time; else nearly so. What
    it returns is within the capacities, always.

    Args:
        losses: per group, shape (options,): what each option loses.
        costs: per limit, per group, shape (options,): what it costs; >= 0, in any order.
        capacities: per limit, what all groups may cost together.

    Returns:
        The chosen option of each group; None if none is within all capacities. With one limit that
        is certain, with more as far as the choice is exact.

    Example:
        >>> choose_within([np.array([3.0, 0.0])], [[np.array([1.0, 2.0])]], [1.5])
        [0]
    """
    problem = _Problem.of(losses, costs, capacities)
    if not capacities:
        return np.argmin(problem.loss, axis=1).tolist()
    start = any_within(costs, capacities)
    if start is None:
        return None
    best = problem.improved(np.array(start))
    prices = problem.prices(problem.loss, len(capacities))
    for _ in range(_PASSES):
        found, is_exact = problem.better_than(best, prices)
        if found is None:
            break
        best = problem.improved(found)
        if is_exact:
            break
    return best.tolist()


def any_within(
    costs: Sequence[Sequence[np.ndarray]], capacities: Sequence[float]
) -> list[int] | None:
    """Returns a choice within all capacities; None if none is found. See `choose_within`.

    Of each limit in turn what costs least within the others; the first within all counts.
    """
    for number, own in enumerate(costs):
        others = [i for i in range(len(costs)) if i != number]
        choice = choose_within(own, [costs[i] for i in others], [capacities[i] for i in others])
        if choice is not None and _Problem.of(own, costs, capacities).holds(choice):
            return choice
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class _Problem:
    """Groups of options, filled up to equal numbers by options of infinite loss.

    Attributes:
        loss: (groups, options).
        cost: (limits, groups, options).
        capacity: (limits,).
    """

    loss: np.ndarray
    cost: np.ndarray
    capacity: np.ndarray

    @classmethod
    def of(
        cls,
        losses: Sequence[np.ndarray],
        costs: Sequence[Sequence[np.ndarray]],
        capacities: Sequence[float],
    ) -> _Problem:
        options = max((len(row) for row in losses), default=1)

        def filled(rows: Sequence[np.ndarray], value: float) -> np.ndarray:
            padded = np.full((len(losses), options), value)
            for place, row in zip(padded, rows, strict=True):
                place[: len(row)] = row
            return padded

        return cls(
            filled(losses, np.inf),
            np.array([filled(rows, 0.0) for rows in costs]).reshape(-1, len(losses), options),
            np.asarray(capacities, np.float64),
        )

    def used(self, choice: Sequence[int] | np.ndarray) -> np.ndarray:
        """What a choice costs of each limit, added up in one order, whoever asks."""
        return self.cost[:, np.arange(len(self.loss)), choice].sum(axis=1)

    def holds(self, choice: Sequence[int] | np.ndarray) -> bool:
        """Whether a choice is within all capacities."""
        return bool((self.used(choice) <= self.capacity).all())

    def lost(self, choice: np.ndarray) -> float:
        """What a choice loses."""
        return float(self.loss[np.arange(len(self.loss)), choice].sum())

    def improved(self, choice: np.ndarray) -> np.ndarray:
        """A choice after all steps of single groups that save loss and are within the limits."""
        choice, groups = choice.copy(), np.arange(len(self.loss))
        while True:
            saved = self.loss[groups, choice][:, None] - self.loss
            more = self.cost - self.cost[:, groups, choice][:, :, None]
            left = self.capacity - self.used(choice)
            saved[~(more <= left[:, None, None]).all(axis=0)] = 0.0
            group, option = np.unravel_index(np.argmax(saved), saved.shape)
            changed = choice.copy()
            changed[group] = option
            if saved[group, option] <= 0 or not self.holds(changed):
                return choice
            choice = changed

    def prices(self, value: np.ndarray, limits: int) -> np.ndarray:
        """The lowest prices of the first limits at which options of least value keep them.

        Args:
            value: (groups, options): losses, and what limits behind these cost.
            limits: how many.
        """
        if not limits:
            return np.zeros(0)
        cost, capacity = self.cost[limits - 1], self.capacity[limits - 1]
        finite = np.where(np.isfinite(value), value, 0.0)
        unit = max(float(np.ptp(finite, axis=1).sum()), 1e-300) / max(float(capacity), 1e-300)

        def at(price: float) -> tuple[np.ndarray, bool]:
            paid = value + price * cost
            others = self.prices(paid, limits - 1)
            paid = paid + np.tensordot(others, self.cost[: limits - 1], axes=1)
            used = cost[np.arange(len(paid)), np.argmin(paid, axis=1)].sum()
            return np.append(others, price), bool(used <= capacity)

        found, is_kept = at(0.0)
        if is_kept:
            return found
        low, high = _DECADES
        found = at(10.0**high * unit)[0]
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            prices, is_kept = at(10.0**middle * unit)
            if is_kept:
                high, found = middle, prices
            else:
                low = middle
        return found

    def better_than(self, known: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray | None, bool]:
        """Looks for a choice that loses less than a known one.

        Returns:
            The best that was found, or None; and whether no better one can exist.
        """
        paid = self.loss + np.tensordot(prices, self.cost, axes=1)
        # Groups whose options differ most come first: partial choices then differ early.
        finite = np.where(np.isfinite(paid), paid, np.nan)
        order = np.argsort(-(np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)), kind="stable")
        loss, cost, paid = self.loss[order], self.cost[:, order], paid[order]
        real = np.where(np.isfinite(loss), cost, np.inf)
        paid_after, cost_after = _sums_after(paid.min(axis=1)), _sums_after(real.min(axis=2))
        most = self.lost(known) * (1 - 1e-12) + float(prices @ self.capacity)
        room = self.capacity * (1 + 1e-12)  # sums in another order; `holds` decides at the end
        lost, used, bound = np.zeros(1), np.zeros((len(cost), 1)), np.zeros(1)
        steps, is_exact = [], True
        for group in range(len(loss)):
            lost = (lost[:, None] + loss[group]).ravel()
            bound = (bound[:, None] + paid[group]).ravel()
            used = (used[:, :, None] + cost[:, group][:, None]).reshape(len(cost), -1)
            fits = (used + cost_after[:, group + 1][:, None] <= room[:, None]).all(axis=0)
            kept = np.flatnonzero(fits & (bound + paid_after[group + 1] < most))
            if len(kept) > _MOST_KEPT:
                is_exact = False
                kept = kept[np.argsort(bound[kept], kind="stable")[:_MOST_KEPT]]
            steps.append(divmod(kept, loss.shape[1]))
            lost, used, bound = lost[kept], used[:, kept], bound[kept]
        for last in np.argsort(lost, kind="stable"):
            choice = np.empty(len(loss), np.int64)
            for group in range(len(loss) - 1, -1, -1):
                parents, options = steps[group]
                choice[order[group]] = options[last]
                last = parents[last]
            if self.holds(choice) and self.lost(choice) < self.lost(known):
                return choice, is_exact
        return None, is_exact


def _sums_after(least: np.ndarray) -> np.ndarray:
    """Sums over the groups from each one on, along the last axis; 0 behind the last."""
    sums = np.cumsum(least[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([sums, np.zeros((*sums.shape[:-1], 1))], axis=-1)
