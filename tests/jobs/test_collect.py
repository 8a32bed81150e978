"""The records of a report against the model that they describe."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ddq_tf import DDQConfig, Rule, quantize_model
from ddq_tf.jobs import collect
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.targets import get_target
from tests.toys import images, mixed_net


def test_layer_reports_describe_every_weighted_layer(quantized: Any) -> None:
    layers = weighted_layers(quantized.model)
    reports = collect.layer_reports(quantized.model)
    assert [r.name for r in reports] == [layer.name for layer in layers]
    target = get_target("litert-compact")
    for report, layer in zip(reports, layers, strict=True):
        codes, scale = layer.integer_weights()
        assert report.num_bits == layer.num_bits
        assert report.kernel_shape == codes.shape
        assert report.stored_bits == target.stored_bits(
            layer.kind, layer.num_bits, codes.size // layer.quantizer.num_channels
        )
        assert report.size_bytes == math.ceil(codes.size * report.stored_bits / 8)
        assert (report.scale_min, report.scale_max) == (float(scale.min()), float(scale.max()))
    used_bits = quantized.model.weight_budget.used_bits
    assert sum(r.num_weights * r.stored_bits for r in reports) == used_bits


def test_the_histogram_counts_the_codes(quantized: Any) -> None:
    layers = weighted_layers(quantized.model)
    for layer, report in zip(layers, collect.layer_reports(quantized.model), strict=True):
        codes, _ = layer.integer_weights()
        qmax = 2 ** (layer.num_bits - 1) - 1
        expected = np.bincount(codes.ravel().astype(int) + qmax, minlength=2 * qmax + 1)
        assert report.histogram is not None
        # Kernel values at the middle of two levels may round either way.
        difference = np.abs(np.array(report.histogram.level_counts) - expected).sum()
        assert difference <= 0.01 * codes.size
        assert sum(report.histogram.counts) == codes.size


@pytest.mark.parametrize("family", ["uniform", "free"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_levels_are_those_that_codes_can_take(family: str, per_channel: bool) -> None:
    config = DDQConfig(
        target="litert-int8",
        precisions=(2, 3),
        budget=None,
        levels=family,
        level_init="kmeans",
        per_channel=per_channel,
    )
    model = quantize_model(mixed_net(), config, images(8))
    for layer, report in zip(weighted_layers(model), collect.layer_reports(model), strict=True):
        assert report.family == family
        assert report.histogram is not None
        codes, _ = layer.integer_weights()
        top = 127 if family == "free" else 2 ** (layer.num_bits - 1) - 1
        levels = np.rint(np.array(report.histogram.levels) * top)
        np.testing.assert_allclose(report.histogram.levels, levels / top, atol=1e-7)
        found = [int(np.sum(codes == level)) for level in levels]
        assert sum(found) == codes.size
        assert report.histogram.level_counts == tuple(found)


def test_the_error_is_relative(quantized: Any) -> None:
    reports = collect.layer_reports(quantized.model)
    for report, layer in zip(reports, weighted_layers(quantized.model), strict=True):
        codes, scale = layer.integer_weights()
        kernel = np.asarray(layer.kernel, np.float64)
        lost = np.sum(np.square(kernel - codes * scale.astype(np.float64)))
        assert math.isclose(report.quantization_error, lost / np.sum(np.square(kernel)))
        assert 0 < report.quantization_error < (4e-4 if report.num_bits == 8 else 0.25)


def test_another_target_stores_other_widths(quantized: Any) -> None:
    reports = collect.layer_reports(quantized.model, get_target("litert-int8"))
    assert {report.stored_bits for report in reports} == {8}


def test_activation_reports_have_the_grid_of_the_file(quantized: Any) -> None:
    reports = collect.activation_reports(quantized.model)
    assert len(reports) == len(activation_layers(quantized.model))
    for report in reports:
        low = report.scale * (-128 - report.zero_point)
        assert report.range_min == low
        assert report.range_max == report.scale * (127 - report.zero_point)


def test_budget_words(quantized: Any) -> None:
    assert collect.budget_text(quantized.model.ddq_config) == "70 % of int8"
    assert collect.budget_average_bits(quantized.model) == 0.7 * 8


def test_rules_and_what_they_took_are_told():
    config = DDQConfig(rules=[Rule("logits", bits=8, layers=("logits",))])
    assert collect.rule_texts(config) == ("rule 'logits' (precisions=(8,)): logits",)
