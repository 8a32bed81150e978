"""A budget of time beside bytes: on made-up phones, through fit, reconstruction and file."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model, reconstruct_model
from ddq_tf.export import Runner, export_tflite, tflite
from ddq_tf.jobs.collect import budgets_text
from ddq_tf.jobs.plan import quantization_rows
from ddq_tf.latency import LatencyRow, LatencyTable, OperatorShape
from ddq_tf.layers import weighted_layers
from ddq_tf.search.times import layer_shapes
from ddq_tf.targets import get_target
from tests.toys import compiled, images, labels, mixed_net

LITERT = get_target("litert")
X, Y = images(32), labels(32)


def phone(model, factors: dict[int, float], **special: dict[int, float]) -> LatencyTable:
    """The table of a made-up phone.

    Args:
        model: a DDQ model whose layers it knows.
        factors: microseconds for a thousand products of INT8, by width.
        special: other factors, by layer.
    """
    rows = {}
    for name, shapes in layer_shapes(model, LITERT).items():
        for shape in shapes:
            products = math.prod(shape.positions) * math.prod(shape.weights)
            for bits, factor in special.get(name, factors).items():
                us = round(products / 1000 * factor, 3)
                rows[shape, bits] = LatencyRow(
                    shape=shape, bits=bits, median_us=us, low_us=us, high_us=us
                )
    return LatencyTable(
        machine="a made-up phone",
        runtime="none",
        num_threads=1,
        created="2026-01-01",
        overhead_us=0.0,
        rows=tuple(rows.values()),
    )


@pytest.fixture(scope="module")
def model():
    return quantize_model(mixed_net(), DDQConfig(precisions=(2, 4, 8), budget=None), X)


@pytest.fixture(scope="module")
def scalar_int4(model):
    """Without dotprod: INT4 is four times as slow, but in the last layer, where it is faster."""
    return phone(model, {8: 1, 4: 4, 2: 6}, logits={8: 1, 4: 0.5, 2: 0.5})


@pytest.fixture(scope="module")
def fast_int4(model):
    return phone(model, {8: 1, 4: 0.5, 2: 0.8})


def bits(model) -> dict[str, int]:
    return {layer.name: layer.num_bits for layer in weighted_layers(model)}


def fitted(**fields):
    model = compiled(quantize_model(mixed_net(), DDQConfig(**fields), X))
    model.fit(X, Y, epochs=2, verbose=0)
    budget = model.weight_budget
    assert budget.used_bits <= (budget.capacity_bits or np.inf)
    assert budget.used_ns <= (budget.capacity_ns or np.inf)
    return model


def test_where_int4_is_slow_the_search_avoids_it(scalar_int4, fast_int4):
    bytes_alone = bits(fitted(budget=0.75))
    assert list(bytes_alone.values()).count(4) >= 2
    within = bits(fitted(latency_table=scalar_int4, latency_budget="1.0x", budget=0.97))
    assert within == {"conv": 8, "expand": 8, "project": 8, "logits": 4}
    # By default the bytes are what the time leaves possible.
    assert bits(fitted(latency_table=scalar_int4, latency_budget=1)) == within
    # Time alone, where INT4 is fast.
    alone = fitted(latency_table=fast_int4, latency_budget="0.95x", budget=None)
    assert 4 in bits(alone).values()


def test_both_limits_are_those_of_what_the_layers_take(model, scalar_int4):
    config = DDQConfig(latency_table=scalar_int4, latency_budget="60us", budget=None)
    quantized = quantize_model(mixed_net(), config, X)
    words = "operators with weights 7.6 us predicted (1.000 x of INT8's 7.6 us, at most 60.0 us)"
    assert budgets_text(quantized) == words
    assert ("latency", f"{words} now") in quantization_rows(quantized, config)
    budget = quantized.weight_budget
    products = {"conv": 16 * 216, "expand": 16 * 128, "project": 16 * 128, "logits": 32}
    assert budget.int8_ns == budget.used_ns == sum(products.values())
    assert budget.capacity_ns == 60_000
    by_layer = dict(zip((x.name for x in budget.layers), budget.times_ns, strict=True))
    assert by_layer["conv"].tolist() == [3456]
    assert by_layer["expand"].tolist() == [4 * 2048, 2048]
    assert by_layer["logits"].tolist() == [16, 32]
    layer = next(x for x in budget.layers if x.name == "expand")
    layer.quantizer.choose(0)
    assert budget.used_ns == sum(products.values()) + 3 * 2048
    layer.quantizer.trainable = False
    learning = budget.of_learning_layers()
    assert learning.capacity_ns == 60_000 - 4 * 2048
    assert len(learning.times_ns) == len(learning.layers) == 3


def test_a_reconstruction_keeps_both_limits_and_its_file_takes_what_was_promised(
    scalar_int4, tmp_path
):
    config = DDQConfig(
        precisions=(2, 4, 8), latency_table=scalar_int4, latency_budget="1.7x", budget=0.96
    )
    learned, _ = reconstruct_model(mixed_net(), X, config)
    budget = learned.weight_budget
    assert budget.used_bits <= budget.capacity_bits
    assert budget.used_ns <= budget.capacity_ns
    learned.save(tmp_path / "ddq.keras")
    loaded = keras.models.load_model(tmp_path / "ddq.keras")
    assert loaded.ddq_config == learned.ddq_config
    file = export_tflite(loaded, tmp_path / "ddq.tflite")
    told = file.prediction
    assert told.us == pytest.approx(budget.used_ns / 1e3, abs=1e-9)
    assert told.int8_us == pytest.approx(budget.int8_ns / 1e3, abs=1e-9)
    # The same codes in INT8 compute the same.
    codes = np.random.default_rng(0).integers(-128, 128, (9, 8, 8, 3)).astype(np.int8)
    ours, theirs = (Runner(tflite.write(g)).run(codes) for g in (file.graph, file.int8_graph))
    assert min(t.dtype.bits for t in file.graph.tensors.values()) < 8
    assert {t.dtype.bits for t in file.int8_graph.tensors.values()} == {8, 32}
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    # A file of another target has other operators.
    other = export_tflite(loaded, tmp_path / "int8.tflite", target="litert-int8")
    assert other.prediction is None


def test_impossible_limits_tell_the_least(scalar_int4):
    def refused(match: str, **fields):
        with pytest.raises(DDQError, match=match):
            quantize_model(mixed_net(), DDQConfig(latency_table=scalar_int4, **fields), X)

    least = r"at least 7\.57 us \(0\.998 of the 7\.58 us with INT8 weights\)"
    refused(rf"impossible.*{least}.*Received: 0\.9 x of INT8.*'7\.57us'$", latency_budget="90%")
    within = r"at least 13\.72 us within the budget of 441 bytes .*least in that time"
    refused(f"{within}", latency_budget=1, budget=441)
    # What the error proposes goes through.
    for fields in ({"latency_budget": "13.72us", "budget": 441}, {"latency_budget": "7.57us"}):
        quantize_model(mixed_net(), DDQConfig(latency_table=scalar_int4, **fields), X)


def test_layers_without_a_row_are_named_all_at_once(scalar_int4):
    kept = [row for row in scalar_int4.rows if row.shape.operator != "CONV_2D"]
    kept = [row for row in kept if (row.shape.positions, row.bits) != ((1,), 4)]
    config = DDQConfig(latency_table=dataclasses.replace(scalar_int4, rows=tuple(kept)))
    words = (
        r"(?s)ddq benchmark MODEL --table.*layer 'conv' \(DDQConv2D\): no row of CONV_2D 4x4, "
        r"weights 8x3x3x3 stride 2x2, 8 bits\n.*layer 'logits'.*no row of FULLY_CONNECTED 1 x 8 to "
        r"4, 4 bits$"
    )
    with pytest.raises(DDQError, match=words):
        quantize_model(mixed_net(), config, X)


def test_held_back_layers_that_leave_no_choice_are_told(scalar_int4):
    config = DDQConfig(latency_table=scalar_int4, latency_budget="1.0x", budget=0.97)
    model = compiled(quantize_model(mixed_net(), config, X))
    for layer in weighted_layers(model):
        layer.quantizer.trainable = layer.name != "logits"
    with pytest.raises(DDQError, match="latency budget is impossible"):
        model.fit(X, Y, verbose=0)


def test_shapes_are_told_apart_in_words():
    shape = OperatorShape(
        operator="CONV_2D",
        positions=(4, 4),
        weights=(8, 3, 3, 2),
        strides=(2, 2),
        dilations=(1, 2),
        groups=2,
    )
    assert str(shape) == "CONV_2D 4x4, weights 8x3x3x2 stride 2x2 dilation 1x2 groups 2"
