"""The best precisions within a budget of bytes, codes and time, of layers or their channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.search.allocate import allocate, with_fill
from ddq_tf.search.budget import PrecisionBudget
from ddq_tf.search.within import choose_within

_HALVINGS = 40
_DECADES = (-16.0, 4.0)  # of the price of a layer's bits, in units of all losses


def best_choice(
    budget: PrecisionBudget, losses: Sequence[np.ndarray], descent: float = 1.0
) -> list[np.ndarray]:
    """Chooses the precisions that lose least within a budget.

    Args:
        budget: with its limits.
        losses: per layer, (precisions, channels) with one precision per channel, else
            (precisions, 1): what each precision loses.
        descent: how far the limits have sunk from what the highest precisions take, 0..1.

    Returns:
        Per layer, int32 (channels,) or (1,): the numbers of the precisions.
    """
    capacity = _sunk(budget.full_bits, budget.capacity_bits, descent)
    code_capacity = np.inf
    if budget.code_capacity_bits is not None:
        full_codes = float(sum(cost[-1] for cost in budget.code_costs))
        code_capacity = _sunk(full_codes, budget.code_capacity_bits, descent)
    if budget.counts_codes and any(loss.shape[1] > 1 for loss in losses):
        capacity, code_capacity = np.inf, min(capacity, code_capacity)
    if np.isinf(code_capacity):
        values = [loss[0].sum() - loss.sum(axis=1) for loss in losses]
        if budget.capacity_ns is None:
            options = allocate(values, budget.costs, capacity)
        else:
            options = _in_time(budget, values, descent)
        return [
            np.full(loss.shape[1], option, np.int32)
            for loss, option in zip(losses, options, strict=True)
        ]
    return _priced(losses, budget.costs, budget.code_costs, capacity, code_capacity)


def _in_time(budget: PrecisionBudget, values: Sequence[np.ndarray], descent: float) -> list[int]:
    """The best choice within limits of bytes, if there is one, and of time."""
    filled = [with_fill(value, cost) for value, cost in zip(values, budget.costs, strict=True)]
    losses = [value[-1] - value for value in filled]
    for sunk in (descent, 1.0):
        chosen = choose_within(losses, *budget.resources(sunk))
        if chosen is not None:
            return chosen
    raise DDQError(
        "no precisions keep the limits of bytes and of time any more. Received: "
        f"{budget.capacity_bits} bits and {(budget.capacity_ns or 0) / 1e3:g} us for the layers "
        "that learn. Quantizers that were held back since `quantize_model` must learn again"
    )


def _sunk(full: float, limit: float | None, descent: float) -> float:
    return np.inf if limit is None else full + descent * (limit - full)


def _priced(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    capacity: float,
    code_capacity: float,
) -> list[np.ndarray]:
    """Two limits: code bits have a price, the lowest at which their limit holds.

    At a price each layer knows what each width of its tensor is worth, its channels being free to
    stay below that width; `allocate` then chooses the widths.
    """
    unit = sum(float(loss.max()) for loss in losses) / max(sum(float(c[-1]) for c in codes), 1.0)

    def choose(price: float) -> list[np.ndarray]:
        return _at_price(losses, costs, codes, capacity, price * unit)

    chosen = choose(0.0)
    low, high = _DECADES
    if _code_bits(chosen, codes) <= code_capacity:
        return chosen
    best = choose(10.0**high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        chosen = choose(10.0**middle)
        if _code_bits(chosen, codes) <= code_capacity:
            high, best = middle, chosen
        else:
            low = middle
    return best


def _at_price(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    codes: Sequence[np.ndarray],
    capacity: float,
    price: float,
) -> list[np.ndarray]:
    """The best widths, and of each channel the best precision within its tensor's width."""
    paid = [
        loss + price * code[:, None] / loss.shape[1]
        for loss, code in zip(losses, codes, strict=True)
    ]
    worth = [-np.minimum.accumulate(rows, axis=0).sum(axis=1) for rows in paid]
    # Of precisions at one cost the last: it leaves the channels most to choose from.
    last = [np.flatnonzero(np.diff(cost, append=np.inf)) for cost in costs]
    options = allocate(
        [value[index] for value, index in zip(worth, last, strict=True)],
        [cost[index] for cost, index in zip(costs, last, strict=True)],
        capacity,
    )
    widths = [index[option] for index, option in zip(last, options, strict=True)]
    return [
        np.argmin(rows[: width + 1], axis=0).astype(np.int32)
        for rows, width in zip(paid, widths, strict=True)
    ]


def _code_bits(chosen: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> float:
    return float(sum(code[index].mean() for index, code in zip(chosen, codes, strict=True)))
