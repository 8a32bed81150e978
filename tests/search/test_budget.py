import keras
import numpy as np
import pytest

from ddq_tf import Budget, DDQConfig, DDQError, quantize_model
from ddq_tf.search import activation_budget, weight_budget
from ddq_tf.targets import lookup_bytes
from tests.toys import images, mixed_net

SIZES = {"conv": 3 * 3 * 3 * 8, "expand": 8 * 16, "project": 16 * 8, "logits": 8 * 4}


@pytest.fixture(scope="module")
def model():
    return quantize_model(mixed_net(), DDQConfig(budget=None), images(8))


def test_counts_what_the_target_stores(model):
    budget = weight_budget(model, DDQConfig(budget=0.9))
    costs = dict(zip((layer.name for layer in budget.layers), budget.costs, strict=True))
    assert list(costs) == list(SIZES)
    assert costs["conv"].tolist() == [SIZES["conv"] * 8]  # litert stores it at 8 bits only
    for name in ("expand", "project", "logits"):
        assert costs[name].tolist() == [SIZES[name] * 4, SIZES[name] * 8]
    assert budget.num_values == sum(SIZES.values())
    assert budget.full_bits == budget.used_bits == 8 * budget.num_values
    assert budget.average_bits == 8
    assert budget.least_bits == 8 * SIZES["conv"] + 4 * (budget.num_values - SIZES["conv"])


@pytest.mark.parametrize(
    ("budget", "bits"),
    [
        (0.9, 0.9 * 8 * 504),
        (Budget(average_bits=7), 7 * 504),
        (Budget(size_bytes=450), 450 * 8),
        (None, None),
    ],
)
def test_capacity(model, budget, bits):
    capacity = weight_budget(model, DDQConfig(budget=budget)).capacity_bits
    assert capacity == (None if bits is None else pytest.approx(bits))


def test_the_choice_changes_what_is_used(model):
    budget = weight_budget(model, DDQConfig(budget=None))
    budget.layers[1].quantizer.choose(0)
    try:
        assert budget.used_bits == 8 * 504 - 4 * SIZES["expand"]
    finally:
        budget.layers[1].quantizer.choose(1)


def test_an_impossible_budget_names_the_least(model):
    least = (8 * SIZES["conv"] + 4 * (504 - SIZES["conv"])) // 8
    with pytest.raises(DDQError, match=rf"impossible.*'mixed'.*at least {least} bytes"):
        weight_budget(model, DDQConfig(budget=0.5))
    with pytest.raises(DDQError, match="impossible"):
        quantize_model(mixed_net(), DDQConfig(budget=0.5), images(8))


def test_code_bits_count_where_the_target_rewards_them():
    config = DDQConfig(target="litert-int8", precisions=(3, 8), budget=None)
    model = quantize_model(mixed_net(), config, images(8))
    for cost, size in zip(model.weight_budget.costs, SIZES.values(), strict=True):
        np.testing.assert_array_equal(cost, [3 * size, 8 * size])


def test_tables_count_where_the_target_stores_them():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="small")(inputs)
    outputs = keras.layers.Dense(32, name="large")(keras.layers.Flatten()(x))
    net = keras.Model(inputs, outputs)
    model = quantize_model(net, DDQConfig(target="tflm", budget=None), images(8))
    budget = model.weight_budget
    small, large = budget.costs
    weights = 6 * 6 * 4 * 32
    assert small.tolist() == [8 * 3 * 3 * 3 * 4] * 4  # tables would take more than they save
    plain = np.array([2, 3, 4, 8]) * weights
    tables = np.array([4, 8, 16, 0]) * 32 * 8
    decoding = 8 * lookup_bytes(1, 0, 1, 0)
    np.testing.assert_array_equal(large, plain + tables + np.array([decoding] * 3 + [0]))
    for layer in budget.layers:
        layer.quantizer.choose(1)
    assert budget.used_bits == small[1] + large[1]


@pytest.mark.parametrize("target", ["litert-int8", "tflm"])
def test_free_levels_cost_what_their_precision_does(target):
    costs = []
    for levels in ("uniform", "free"):
        config = DDQConfig(target=target, precisions=(2, 4, 8), levels=levels, budget=None)
        costs.append(quantize_model(mixed_net(), config, images(8)).weight_budget.costs)
    for uniform, free in zip(*costs, strict=True):
        np.testing.assert_array_equal(uniform, free)


def test_activations_count_by_their_values_in_one_example():
    config = DDQConfig(budget=None, activation_bits=(2, 4, 8), activation_budget=5.0)
    model = quantize_model(mixed_net(), config, images(8))
    budget = activation_budget(model, config)
    layers = {layer.name: layer for layer in budget.layers}
    assert "image_quant" not in layers, "inputs stay at 8 bits"
    assert all(layer.quantizer.precisions == (2, 4, 8) for layer in budget.layers)
    sizes = {"relu": 4 * 4 * 8, "expand_quant": 4 * 4 * 16}
    for layer, cost in zip(budget.layers, budget.costs, strict=True):
        size = sizes.get(layer.name, layer.quantizer.num_values)
        assert cost.tolist() == [2 * size, 4 * size, 8 * size]
    assert sizes.keys() <= layers.keys()
    assert budget.num_values == sum(cost[0] for cost in budget.costs) / 2
    assert budget.capacity_bits == 5 * budget.num_values
    assert budget.average_bits == 8
    layers["relu"].quantizer.choose(0)
    assert budget.used_bits == 8 * budget.num_values - 6 * 128


def test_activations_of_one_precision_have_no_budget():
    for bits in (8, 4):
        config = DDQConfig(budget=None, activation_bits=bits)
        assert activation_budget(quantize_model(mixed_net(), config, images(8)), config) is None
    config = DDQConfig(budget=None, activation_bits=(4, 8))
    model = quantize_model(mixed_net(), config, images(8))
    assert activation_budget(model, config).capacity_bits is None
