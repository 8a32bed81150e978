"""Budgets: what a model's weights and activations cost at each precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from ddq_tf.config import Budget, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.layers import activation_layers, weighted_layers


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionBudget:
    """Bits that each layer can take, and the limit for their sum.

    Attributes:
        layers: the DDQ layers, in network order.
        costs: per layer, shape (precisions,): bits of its whole kernel, or of the activations of
            one example; never falling.
        num_values: how many weights, or activations of one example, all layers have together.
        capacity_bits: the limit, or None for no limit.
        counts_codes: whether a channel costs what its own precision does; else all channels of a
            layer cost what the highest of them does.
        code_capacity_bits: a limit for the bits of the codes alone, or None.
    """

    layers: tuple[Any, ...]
    costs: tuple[np.ndarray, ...]
    num_values: int
    capacity_bits: float | None
    counts_codes: bool = False
    code_capacity_bits: float | None = None

    @property
    def used_bits(self) -> int:
        """Bits taken at the precisions in force."""
        take = np.mean if self.counts_codes else np.max
        pairs = zip(self.layers, self.costs, strict=True)
        return round(sum(take(cost[layer.quantizer.indices]) for layer, cost in pairs))

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
        """Bits taken if every layer has its lowest precision."""
        return float(sum(cost[0] for cost in self.costs))


def weight_budget(model: keras.Model, config: DDQConfig) -> PrecisionBudget:
    """Returns the budget of a DDQ model's weights.

    Raises:
        DDQError: if the budget lies below what the lowest precisions take.
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
    capacity = config.budget.bits_of(num_weights) if isinstance(config.budget, Budget) else None
    budget = PrecisionBudget(
        layers=layers,
        costs=costs,
        num_values=num_weights,
        capacity_bits=capacity,
        counts_codes=target.counts_codes,
        code_capacity_bits=None if config.code_bits is None else config.code_bits * num_weights,
    )
    if capacity is not None and budget.least_bits > capacity:
        least = budget.least_bits
        raise DDQError(
            f"the budget is impossible: target {config.target!r} stores the {num_weights} weights "
            f"of model {model.name!r} in at least {int(least / 8)} bytes "
            f"({least / num_weights:.2f} bits per weight, {least / num_weights / 8:.3f} of int8). "
            f"Received: a budget of {int(capacity / 8)} bytes. Raise the budget, or choose a "
            "target or precisions that go lower."
        )
    least_codes = sum(float(cost[0]) for cost in budget.code_costs) / num_weights
    if config.code_bits is not None and least_codes > config.code_bits:
        raise DDQError(
            f"code_bits is impossible: the lowest precisions of model {model.name!r} have "
            f"{least_codes:.2f} bits on average. Received: code_bits={config.code_bits!r}. Raise "
            "it, or choose precisions that go lower."
        )
    return budget


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
