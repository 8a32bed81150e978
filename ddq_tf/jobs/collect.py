"""Fills the records of a report from a DDQ model."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from ddq_tf.config import AUTO, AUTO_FRACTION, Budget, DDQConfig
from ddq_tf.export.verification import Verification
from ddq_tf.layers import DDQActivation, activation_layers, weighted_layers
from ddq_tf.report import ActivationReport, Agreement, LayerReport, WeightHistogram
from ddq_tf.search import DDQModel, PrecisionBudget
from ddq_tf.targets import Target


def layer_reports(model: DDQModel, target: Target | None = None) -> tuple[LayerReport, ...]:
    """Returns what each weighted layer learned, in network order.

    Args:
        model: a DDQ model.
        target: whose stored widths count; None for the model's own.
    """
    chosen = target or model.ddq_config.resolved_target
    return tuple(_layer_report(layer, chosen) for layer in weighted_layers(model))


def _layer_report(layer: Any, target: Target) -> LayerReport:
    codes, scale = layer.integer_weights()
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float64)
    sizes = (layer.num_bits, layer.quantizer.num_weights, layer.quantizer.num_channels)
    stored_bits = target.index_bits(*sizes) or target.stored_bits(
        layer.kind, layer.num_bits, layer.quantizer.weights_per_channel
    )
    steps = np.asarray(scale, np.float64)
    power = float(np.sum(np.square(kernel)))
    lost = float(np.sum(np.square(kernel - codes * steps)))
    return LayerReport(
        name=layer.name,
        kind=layer.kind.value,
        kernel_shape=kernel.shape,
        num_weights=kernel.size,
        precisions=layer.quantizer.precisions,
        num_bits=layer.quantizer.mean_bits,
        stored_bits=stored_bits,
        size_bytes=math.ceil(target.stored_size_bits(layer.kind, *sizes) / 8),
        quantization_error=lost / power if power else 0.0,
        family=layer.quantizer.scheme.levels,
        scale_min=steps.min(),
        scale_max=steps.max(),
        float_zeros=layer.float_zeros,
        zeros=np.mean(codes == 0),
        histogram=WeightHistogram.measure(
            kernel / layer.quantizer.range_in_force(), layer.quantizer.levels_in_force()
        ),
    )


def activation_reports(model: DDQModel) -> tuple[ActivationReport, ...]:
    """Returns the grid of each quantized activation, in network order."""
    return tuple(_activation_report(layer) for layer in activation_layers(model))


def _activation_report(layer: DDQActivation) -> ActivationReport:
    quantizer = layer.quantizer
    scale = float(quantizer.export_scale())
    return ActivationReport(
        name=layer.name,
        kind=layer.kind,
        num_bits=quantizer.num_bits,
        scale=scale,
        # Codes in the file are int8; an unsigned grid starts at the lowest.
        zero_point=0 if quantizer.signed else -128,
        range_min=scale * quantizer.qmin,
        range_max=scale * quantizer.qmax,
    )


def agreement(verification: Verification) -> Agreement:
    """Returns a verification as the report's record."""
    fields = {f.name: getattr(verification, f.name) for f in dataclasses.fields(Verification)}
    delegation = fields.pop("delegation")
    return Agreement(
        **fields,
        delegated_ops=delegation.delegated_ops,
        total_ops=delegation.total_ops,
        partitions=delegation.partitions,
        undelegated=delegation.undelegated,
    )


def budget_text(config: DDQConfig) -> str:
    """Returns a budget in words, "" for none."""
    budget = config.budget
    if budget == AUTO:
        return f"{AUTO_FRACTION * 100:g} % of int8, or the least possible"
    if not isinstance(budget, Budget):
        return ""
    if budget.fraction is not None:
        return f"{budget.fraction * 100:g} % of int8"
    if budget.size_bytes is not None:
        return f"{budget.size_bytes:,} bytes"
    return f"{budget.average_bits:g} bits per weight"


def time_text(budget: PrecisionBudget) -> str:
    """Returns what the operators with weights take in time, "" without a table of times."""
    if not budget.times_ns:
        return ""
    us, int8 = budget.used_ns / 1e3, budget.int8_ns / 1e3
    most = "" if budget.capacity_ns is None else f", at most {budget.capacity_ns / 1e3:.1f} us"
    words = f"{us:.1f} us predicted ({us / int8:.3f} x of INT8's {int8:.1f} us{most})"
    return f"operators with weights {words}" if int8 else ""


def budgets_text(model: DDQModel) -> str:
    """Returns a model's budget of bytes and what there is of one of time, in words."""
    texts = (budget_text(model.ddq_config), time_text(model.weight_budget))
    return "; ".join(filter(None, texts))


def rule_texts(config: DDQConfig) -> tuple[str, ...]:
    """Returns what each rule says and which layers it took."""
    return tuple(
        f"{rule.words} ({', '.join(f'{name}={value!r}' for name, value in rule.said.items())}): "
        f"{', '.join(rule.taken)}"
        for rule in config.rules
    )


def budget_average_bits(model: DDQModel) -> float | None:
    """Returns a model's budget as mean bits per weight, None for none."""
    budget = model.weight_budget
    if budget.capacity_bits is None:
        return None
    return budget.capacity_bits / budget.num_values
