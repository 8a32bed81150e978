"""Precisions of layers and channels within two limits, against exhaustive search."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.search import PrecisionBudget, best_choice, weight_budget
from tests.toys import compiled, images, labels, mixed_net

PRECISIONS = (2, 4, 8)
BY_CHANNEL = DDQConfig(
    precisions=PRECISIONS, budget=None, channel_precision=True, narrow_range=False
)


def budget_of(sizes, stored, capacity, code_capacity, counts_codes=False) -> PrecisionBudget:
    layers = tuple(
        SimpleNamespace(quantizer=SimpleNamespace(num_weights=size, precisions=PRECISIONS))
        for size in sizes
    )
    costs = tuple(size * np.array(stored, float) for size in sizes)
    return PrecisionBudget(
        layers=layers,
        costs=costs,
        num_values=sum(sizes),
        capacity_bits=capacity,
        counts_codes=counts_codes,
        code_capacity_bits=code_capacity,
    )


def lost(losses, choice) -> float:
    return sum(loss[c, range(len(c))].sum() for loss, c in zip(losses, choice, strict=True))


def used(budget, choice) -> tuple[float, float]:
    stored = sum(cost[c.max()] for cost, c in zip(budget.costs, choice, strict=True))
    return stored, sum(cost[c].mean() for cost, c in zip(budget.code_costs, choice, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_both_limits_hold_and_little_is_lost_to_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    sizes, channels = (30, 60), (2, 3)
    losses = [np.sort(rng.exponential(size=(3, c)), axis=0)[::-1] for c in channels]
    # 2 bits are stored in 4, as target litert does.
    budget = budget_of(sizes, (4, 4, 8), capacity=4 * 30 + 8 * 60, code_capacity=4.5 * 90)
    choice = best_choice(budget, losses)
    stored, codes = used(budget, choice)
    assert stored <= budget.capacity_bits
    assert codes <= budget.code_capacity_bits
    every = (
        [np.array(c[:2]), np.array(c[2:])]
        for c in itertools.product(range(3), repeat=sum(channels))
    )
    fitting = [
        c
        for c in every
        if all(u <= limit for u, limit in zip(used(budget, c), (600, 405), strict=True))
    ]
    # A price finds what lies on the convex hull: never better than the best of all, nor better
    # than any choice that takes no more code bits.
    assert lost(losses, choice) >= min(lost(losses, c) for c in fitting) - 1e-9
    no_dearer = [c for c in fitting if used(budget, c)[1] <= codes]
    assert lost(losses, choice) <= min(lost(losses, c) for c in no_dearer) + 1e-9


def test_without_a_limit_of_codes_every_channel_takes_its_tensors_width():
    losses = [np.array([[3.0, 3.0], [1.0, 1.0], [0.0, 0.0]])] * 2
    choice = best_choice(budget_of((10, 10), (4, 4, 8), 120, None), losses)
    assert sorted(c.tolist() for c in choice) == [[1, 1], [2, 2]]


def test_where_codes_are_counted_channels_share_the_budget():
    losses = [np.array([[8.0, 0.1], [2.0, 0.05], [0.0, 0.0]])]
    choice = best_choice(budget_of((20,), PRECISIONS, 100, None, counts_codes=True), losses)
    assert choice[0].tolist() == [2, 0]


def test_used_bits_are_those_of_the_widest_channel_or_of_each():
    model = quantize_model(mixed_net(), BY_CHANNEL, images(8))
    (layer,) = (x for x in weight_budget(model, BY_CHANNEL).layers if x.name == "expand")
    before = weight_budget(model, BY_CHANNEL).used_bits
    layer.quantizer.choose(np.array([0, 1] * 8))
    assert layer.num_bits == 4
    assert layer.quantizer.mean_bits == 3
    assert weight_budget(model, BY_CHANNEL).used_bits == before - 4 * 128
    codes = dataclasses.replace(BY_CHANNEL, target="litert-int8")
    assert weight_budget(model, codes).used_bits == 8 * 504 - 5 * 128


def test_impossible_limits_are_told():
    with pytest.raises(DDQError, match=r"code_bits is impossible.*2\.00 bits.*code_bits=1\.5"):
        quantize_model(mixed_net(), dataclasses.replace(BY_CHANNEL, code_bits=1.5), images(8))


def test_fit_refuses_channels_until_their_precision_is_final():
    model = compiled(quantize_model(mixed_net(), BY_CHANNEL, images(8)))
    with pytest.raises(DDQError, match=r"one precision per layer.*expand.*reconstruct_model"):
        model.fit(images(8), labels(8), verbose=0)
    for layer in weight_budget(model, BY_CHANNEL).layers:
        layer.quantizer.choose(np.resize([0, 1], layer.quantizer.channel_shape))
    for layer in [*weighted_layers(model), *activation_layers(model)]:
        layer.quantizer.frozen.assign(True)
    bits = [x.quantizer.bits for x in weight_budget(model, BY_CHANNEL).layers]
    model.fit(images(8), labels(8), verbose=0)
    for layer, was in zip(weight_budget(model, BY_CHANNEL).layers, bits, strict=True):
        np.testing.assert_array_equal(layer.quantizer.bits, was)


def test_fit_keeps_the_limit_of_codes_too():
    config = DDQConfig(precisions=PRECISIONS, budget=0.9, code_bits=4.0)
    model = compiled(quantize_model(mixed_net(), config, images(16)))
    model.fit(images(16), labels(16), epochs=2, verbose=0)
    budget = model.weight_budget
    assert budget.used_bits <= budget.capacity_bits
    codes = sum(x.quantizer.mean_bits * x.quantizer.num_weights for x in budget.layers)
    assert 2 < codes / budget.num_values <= 4
