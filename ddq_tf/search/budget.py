"""Budgets: what a model's weights and activations cost at each precision."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import keras
import numpy as np

from ddq_tf.config import AUTO, AUTO_FRACTION, Budget, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.latency import LatencyBudget
from ddq_tf.layers import activation_layers, constant_layers, weighted_layers
from ddq_tf.scheme import MAX_BITS
from ddq_tf.search.times import layer_times
from ddq_tf.search.within import any_within, choose_within


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionBudget:
    """Bits, and time, that each layer can take, and the limits for their sums.

    Attributes:
        layers: the DDQ layers, in network order.
        costs: per layer, shape (precisions,): bits of its whole kernel, or of the activations of
            one example; never falling.
        num_values: how many weights, or activations of one example, all layers have together.
        capacity_bits: the limit, or None for no limit.
        counts_codes: whether a channel costs what its own precision does; else all channels of a
            layer cost what the highest of them does.
        code_capacity_bits: a limit for the bits of the codes alone, or None.
        times_ns: per layer, shape (precisions,): whole nanoseconds of its operators, by the
            configuration's table; empty without one.
        int8_ns: of all layers with INT8 weights.
        capacity_ns: a limit for their sum, or None.
    """

    layers: tuple[Any, ...]
    costs: tuple[np.ndarray, ...]
    num_values: int
    capacity_bits: float | None
    counts_codes: bool = False
    code_capacity_bits: float | None = None
    times_ns: tuple[np.ndarray, ...] = ()
    int8_ns: float = 0.0
    capacity_ns: float | None = None

    @property
    def used_ns(self) -> float:
        """Nanoseconds taken at the precisions in force."""
        pairs = zip(self.layers, self.times_ns, strict=True) if self.times_ns else ()
        return sum(self._taken(layer, times) for layer, times in pairs)

    def _taken(self, layer: Any, times: np.ndarray) -> float:
        return float(times[np.max(layer.quantizer.indices)])

    @property
    def used_bits(self) -> int:
        """Bits taken at the precisions in force."""
        pairs = zip(self.layers, self.costs, strict=True)
        return round(sum(self._used(layer, cost) for layer, cost in pairs))

    def _used(self, layer: Any, cost: np.ndarray) -> float:
        take = np.mean if self.counts_codes else np.max
        return float(take(cost[layer.quantizer.indices]))

    @property
    def code_costs(self) -> tuple[np.ndarray, ...]:
        """Per layer, shape (precisions,): bits of the codes alone, of weights."""
        return tuple(
            layer.quantizer.num_weights * np.array(layer.quantizer.precisions, np.float64)
            for layer in self.layers
        )

    @property
    def average_bits(self) -> float:
        """Mean bits per value."""
        return self.used_bits / self.num_values

    @property
    def full_bits(self) -> float:
        """Bits taken if every layer has its highest precision."""
        return float(sum(cost[-1] for cost in self.costs))

    @property
    def least_bits(self) -> float:
        """Bits taken if every layer has its lowest precision, or the one that it keeps."""
        pairs = zip(self.layers, self.costs, strict=True)
        return sum(
            float(cost[0]) if layer.quantizer.trainable else self._used(layer, cost)
            for layer, cost in pairs
        )

    @property
    def least_code_bits(self) -> float:
        """The same of the codes alone."""
        return dataclasses.replace(self, costs=self.code_costs).least_bits

    def resources(self, descent: float = 1.0) -> tuple[list[tuple[np.ndarray, ...]], list[float]]:
        """Returns the costs by layer of all that is limited, of which time is the last.

        Args:
            descent: how far the limits have sunk from what the highest precisions take, 0..1; none
                sinks below its end, so that what keeps them in the end keeps them all along.

        Returns:
            The costs of each limit, and the limits.
        """
        found: list[tuple[np.ndarray, ...]] = []
        limits = []
        for costs, limit in ((self.costs, self.capacity_bits), (self.times_ns, self.capacity_ns)):
            if limit is not None:
                full = float(sum(cost[-1] for cost in costs))
                found.append(costs)
                limits.append(max(limit, full + descent * (limit - full)))
        return found, limits

    def of_learning_layers(self) -> PrecisionBudget:
        """Returns what layers whose quantizers are trainable may take; the others keep theirs."""
        learn = [layer.quantizer.trainable for layer in self.layers]
        limit, code_limit = self.capacity_bits, self.code_capacity_bits
        kept_ns = sum(
            self._taken(layer, times)
            for layer, times in zip(self.layers, self.times_ns, strict=False)
            if not layer.quantizer.trainable
        )
        return dataclasses.replace(
            self,
            layers=tuple(itertools.compress(self.layers, learn)),
            costs=tuple(itertools.compress(self.costs, learn)),
            capacity_bits=None if limit is None else limit - self._kept(self.costs),
            code_capacity_bits=(
                None if code_limit is None else code_limit - self._kept(self.code_costs)
            ),
            times_ns=tuple(itertools.compress(self.times_ns, learn)),
            capacity_ns=None if self.capacity_ns is None else self.capacity_ns - kept_ns,
        )

    def _kept(self, costs: tuple[np.ndarray, ...]) -> float:
        """Bits of layers whose precision does not learn."""
        pairs = zip(self.layers, costs, strict=True)
        return sum(self._used(la, cost) for la, cost in pairs if not la.quantizer.trainable)


def weight_budget(model: keras.Model, config: DDQConfig) -> PrecisionBudget:
    """Returns the budget of a DDQ model's kernels: what its constants, at 8 bits, leave of it all.

    Raises:
        DDQError: if the budget lies below what the lowest precisions take, or that of time below
            what any precisions within the budget take, or the table of times lacks layers.
    """
    target = config.resolved_target
    layers = tuple(weighted_layers(model))
    costs = tuple(
        np.array(
            [
                target.counted_size_bits(
                    layer.kind, bits, layer.quantizer.num_weights, layer.quantizer.num_channels
                )
                for bits in layer.quantizer.precisions
            ],
            np.float64,
        )
        for layer in layers
    )
    num_weights = sum(layer.quantizer.num_weights for layer in layers)
    budget = PrecisionBudget(
        layers=layers,
        costs=costs,
        num_values=num_weights,
        capacity_bits=None,
        counts_codes=target.counts_codes,
        code_capacity_bits=None if config.code_bits is None else config.code_bits * num_weights,
    )
    held = sum(np.prod(layer.shape, dtype=int) for layer in constant_layers(model))
    num_weights, fixed = num_weights + int(held), float(MAX_BITS * held)
    least = budget.least_bits + fixed
    capacity = _capacity_bits(config, num_weights, least)
    if capacity is not None and least > capacity:
        raise DDQError(
            f"the budget is impossible: target {config.target!r} stores the {num_weights} weights "
            f"of model {model.name!r} in at least {int(least / 8)} bytes "
            f"({least / num_weights:.2f} bits per weight, {least / num_weights / 8:.3f} of int8). "
            f"Received: a budget of {int(capacity / 8)} bytes. Write "
            f"budget='{math.ceil(least / 8)}bytes' or budget='auto' for the least that is "
            f"possible, or choose {_lower_than(config)}."
        )
    least_codes = budget.least_code_bits / budget.num_values
    if config.code_bits is not None and least_codes > config.code_bits:
        raise DDQError(
            f"code_bits is impossible: the lowest precisions of model {model.name!r} have "
            f"{least_codes:.2f} bits on average. Received: code_bits={config.code_bits!r}. Raise "
            "it, or choose precisions that go lower."
        )
    left = None if capacity is None else capacity - fixed
    budget = dataclasses.replace(budget, capacity_bits=left)
    return _with_times(budget, model, config, fixed)


def _with_times(
    budget: PrecisionBudget, model: keras.Model, config: DDQConfig, fixed: float
) -> PrecisionBudget:
    """Returns a budget of kernels with the times of its layers and their limit.

    With the budget "auto" the bytes may be more: the least that the limit of time allows.

    Args:
        budget: without times.
        model: a DDQ model.
        config: of it.
        fixed: bits that count in the budget, but are no choice.

    Raises:
        DDQError: see `weight_budget`.
    """
    times = layer_times(model, config)
    if times is None:
        return budget
    budget = dataclasses.replace(budget, times_ns=times.by_precision, int8_ns=times.int8)
    if not isinstance(config.latency_budget, LatencyBudget):
        return budget
    limit = config.latency_budget.us_of(times.int8 / 1e3) * 1e3
    budget = dataclasses.replace(budget, capacity_ns=limit)
    learning = budget.of_learning_layers()
    if any_within(*learning.resources()) is not None:
        return budget
    in_time = choose_within(learning.costs, [learning.times_ns], [learning.capacity_ns or 0.0])
    needed = None
    if in_time is not None:
        needed = sum(float(c[i]) for c, i in zip(learning.costs, in_time, strict=True))
        needed += (budget.capacity_bits or 0.0) - (learning.capacity_bits or 0.0)
    if needed is not None and config.budget == AUTO:
        return dataclasses.replace(budget, capacity_bits=needed)
    raise _too_fast(budget, model, config, fixed, needed)


def _too_fast(
    budget: PrecisionBudget,
    model: keras.Model,
    config: DDQConfig,
    fixed: float,
    needed: float | None,
) -> DDQError:
    """Returns the error of a limit of time that no precisions keep.

    Args:
        budget: with its limits.
        model: a DDQ model.
        config: of it.
        fixed: see `_with_times`.
        needed: the least bits in that time; None if none are enough.
    """
    learning = budget.of_learning_layers()
    limits: Any = ([], [])
    within = cure = ""
    if budget.capacity_bits is not None and config.budget != AUTO:
        limits = ([learning.costs], [learning.capacity_bits])
        within = f" within the budget of {int((budget.capacity_bits + fixed) / 8)} bytes"
    if needed is not None:
        cure = f", or budget='{math.ceil((needed + fixed) / 8)}bytes', the least in that time"
    fastest = choose_within(learning.times_ns, *limits) or []
    kept = (budget.capacity_ns or 0.0) - (learning.capacity_ns or 0.0)
    least = kept + sum(float(t[i]) for t, i in zip(learning.times_ns, fastest, strict=True))
    least_us = math.ceil(least / 10) / 100
    table: Any = config.latency_table
    return DDQError(
        f"the latency budget is impossible: by latency_table ({table.origin}) the "
        f"{len(budget.layers)} layers with weights of model {model.name!r} take at least "
        f"{least_us:.2f} us{within} ({least / (budget.int8_ns or 1):.3f} of the "
        f"{budget.int8_ns / 1e3:.2f} us with INT8 weights). Received: {config.latency_budget}, "
        f"{(budget.capacity_ns or 0.0) / 1e3:.2f} us. Write "
        f"latency_budget='{least_us:.2f}us'{cure}"
    )


def _lower_than(config: DDQConfig) -> str:
    """What takes fewer bytes than a configuration."""
    target = config.resolved_target
    if config.precisions is not None or not target.on_request:
        return "a target or precisions that go lower"
    widths = sorted({bits for held in target.storage_bits.values() for bits in held})
    needed = target.min_runtime[widths[0]]
    return (
        f"a target that goes lower; precisions={tuple(widths)} go lower with {target.runtime} "
        f"{needed} or later"
    )


def _capacity_bits(config: DDQConfig, num_weights: int, least: float) -> float | None:
    if config.budget == AUTO:
        return max(Budget(fraction=AUTO_FRACTION).bits_of(num_weights), least)
    return config.budget.bits_of(num_weights) if isinstance(config.budget, Budget) else None


def activation_budget(model: keras.Model, config: DDQConfig) -> PrecisionBudget | None:
    """Returns the budget of the activations that learn their precision; None if none does."""
    layers = tuple(
        layer for layer in activation_layers(model) if len(layer.quantizer.precisions) > 1
    )
    if not layers:
        return None
    sizes = [layer.quantizer.num_values for layer in layers]
    costs = tuple(
        size * np.array(layer.quantizer.precisions, np.float64)
        for layer, size in zip(layers, sizes, strict=True)
    )
    average = config.activation_budget
    return PrecisionBudget(
        layers=layers,
        costs=costs,
        num_values=sum(sizes),
        capacity_bits=None if average is None else average * sum(sizes),
    )
