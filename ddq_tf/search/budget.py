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
from ddq_tf.layers import activation_layers, constant_layers, weighted_layers
from ddq_tf.scheme import MAX_BITS


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

    def of_learning_layers(self) -> PrecisionBudget:
        """Returns what layers whose quantizers are trainable may take; the others keep theirs."""
        learn = [layer.quantizer.trainable for layer in self.layers]
        limit, code_limit = self.capacity_bits, self.code_capacity_bits
        return dataclasses.replace(
            self,
            layers=tuple(itertools.compress(self.layers, learn)),
            costs=tuple(itertools.compress(self.costs, learn)),
            capacity_bits=None if limit is None else limit - self._kept(self.costs),
            code_capacity_bits=(
                None if code_limit is None else code_limit - self._kept(self.code_costs)
            ),
        )

    def _kept(self, costs: tuple[np.ndarray, ...]) -> float:
        """Bits of layers whose precision does not learn."""
        pairs = zip(self.layers, costs, strict=True)
        return sum(self._used(la, cost) for la, cost in pairs if not la.quantizer.trainable)


def weight_budget(model: keras.Model, config: DDQConfig) -> PrecisionBudget:
    """Returns the budget of a DDQ model's kernels: what its constants, at 8 bits, leave of it all.

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
    return dataclasses.replace(budget, capacity_bits=left)


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
