"""What quantization would make of a model: sizes, limits, a draft of the file."""

from __future__ import annotations

import collections
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from ddq_tf import xnnpack
from ddq_tf.config import AUTO, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.export.exporter import export_tflite
from ddq_tf.export.interpreter import delegation
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.origin import origin_of
from ddq_tf.jobs.doctor.cost import step_times, training_cost
from ddq_tf.jobs.doctor.reading import counted
from ddq_tf.layers import operator_kind
from ddq_tf.quiet import silenced
from ddq_tf.report.diagnosis import Draft, PrecisionLimit, Quantizable, SizeAt
from ddq_tf.scheme import MAX_BITS
from ddq_tf.search import DDQModel, weight_budget
from ddq_tf.search.budget import PrecisionBudget
from ddq_tf.targets import TARGETS, OpKind, Target
from ddq_tf.transform.quantize import Examination, rebuilt

_SIZES = (8, 4, 2)


def quantizable(
    model: keras.Model, found: Examination, config: DDQConfig, measure: bool
) -> Quantizable:
    """Returns what quantization would make of a model in which nothing stands in the way.

    Args:
        model: the float model, which stays as it is.
        found: what `examine` found in it.
        config: with the target, without a budget.
        measure: whether to time training steps, too.

    Raises:
        DDQError: if scales cannot meet what operators ask of them.
    """
    flat, graph = found.checked()
    quantized = rebuilt(graph, config, model).model
    budget = weight_budget(quantized, config)
    auto = weight_budget(quantized, dataclasses.replace(config, budget=AUTO)).capacity_bits
    draft = _draft(quantized, budget, config.resolved_target)
    return Quantizable(
        kinds=counted(layer.kind.value for layer in budget.layers),
        macs=macs_in(graph),
        folded=len({id(n.layer) for n in map(graph.norm_of, graph.nodes) if n is not None}),
        rewritten=_rewritten(flat, graph),
        num_weights=budget.num_values,
        sizes=_sizes(budget, config.resolved_target, draft),
        least_bytes=math.ceil(budget.least_bits / 8),
        auto_bytes=int((auto or 0) / 8),
        elsewhere={
            name: sum(_least_stored(layer, other) for layer in budget.layers)
            for name, other in TARGETS.items()
            if name != config.target
        },
        limits=_limits(budget, config.resolved_target),
        draft=draft if isinstance(draft, Draft) else None,
        no_draft="" if isinstance(draft, Draft) else draft,
        cost=training_cost(quantized, macs_in(graph)),
        times=step_times(model, quantized) if measure else None,
    )


def macs_in(graph: FlatGraph) -> int:
    """Returns the multiplications of one example, in convolutions and dense layers."""
    return sum(_macs(node) for node in graph.nodes if node.has_kernel)


def _macs(node: FlatNode) -> int:
    """Multiplications of one call, for one example."""
    layer = node.layer
    shape: Any = node.shapes[0]
    # A transposed convolution uses its kernel once for each position that it reads.
    if operator_kind(layer) is not OpKind.TRANSPOSED:
        shape = layer.compute_output_shape(shape)
    return math.prod(shape[1:-1]) * math.prod(layer.kernel.shape)


def _rewritten(flat: FlatGraph, graph: FlatGraph) -> dict[str, str]:
    """Layers with a kernel that others stand for: from their class to these."""
    kept = {id(node.layer) for node in flat.nodes}
    made: dict[int, list[str]] = collections.defaultdict(list)
    kinds: dict[int, str] = {}
    for node in graph.nodes:
        origin = origin_of(node.layer)
        if id(node.layer) not in kept and node.has_kernel:
            kinds[id(origin)] = type(origin).__name__
            made[id(origin)].append(type(node.layer).__name__)
    found = {kind: " and ".join(made[key]) for key, kind in kinds.items()}
    return {kind: parts for kind, parts in found.items() if kind != parts}


def _stored(layer: Any, bits: int, target: Target) -> int:
    """Bytes of a layer's weights in the file."""
    return math.ceil(target.stored_size_bits(layer.kind, bits, *_counts(layer)) / 8)


def _counts(layer: Any) -> tuple[int, int]:
    """Weights and output channels of a layer."""
    return layer.quantizer.num_weights, layer.quantizer.num_channels


def _least_stored(layer: Any, target: Target) -> int:
    """The fewest bytes of a layer's weights in the file of a target."""
    config = DDQConfig(target=target.name)
    return _stored(layer, config.precisions_for(layer.kind, _row(layer))[0], target)


def _row(layer: Any) -> int:
    """Weights along the axis of the inputs."""
    return layer.quantizer.kernel_shape[-2]


def _sizes(budget: PrecisionBudget, target: Target, draft: Draft | str) -> tuple[SizeAt, ...]:
    return tuple(_size_at(bits, budget.layers, target, draft) for bits in _SIZES)


def _size_at(bits: int, layers: Sequence[Any], target: Target, draft: Draft | str) -> SizeAt:
    chosen = [(layer, _at_least(_possible(layer, target), bits)) for layer in layers]
    counted_bits = (target.counted_size_bits(layer.kind, b, *_counts(layer)) for layer, b in chosen)
    stored = sum(_stored(layer, b, target) for layer, b in chosen)
    return SizeAt(
        bits=bits,
        num_layers=sum(b == bits for _, b in chosen),
        weights_bytes=math.ceil(sum(counted_bits) / 8),
        file_bytes=draft.rest_bytes + stored if isinstance(draft, Draft) else None,
        on_request=f"{target.runtime} {target.min_runtime[bits]} or later"
        if bits in target.on_request and any(b == bits for _, b in chosen)
        else "",
    )


def _possible(layer: Any, target: Target) -> Sequence[int]:
    """The precisions that a layer can have, those on request among them."""
    if not target.on_request:
        return layer.quantizer.precisions
    widths = target.storage_bits[layer.kind]
    return [bits for bits in widths if target.stores(layer.kind, bits, _row(layer))]


def _at_least(precisions: Sequence[int], bits: int) -> int:
    """The lowest precision that is not below these bits."""
    return min(each for each in precisions if each >= bits)


def _limits(budget: PrecisionBudget, target: Target) -> tuple[PrecisionLimit, ...]:
    """Which layers cannot have the lowest precision that the target has for any."""
    lowest = min(bits for kind in OpKind for bits in target.learned_bits(kind))
    groups: dict[tuple[str, int, str], list[Any]] = collections.defaultdict(list)
    for layer, cost in zip(budget.layers, budget.costs, strict=True):
        bits = layer.quantizer.precisions[0]
        if bits > lowest or cost[0] == cost[-1]:
            reason = _reason(layer, target)
            bits = bits if cost[0] < cost[-1] else MAX_BITS
            groups[layer.kind.value, bits, reason].append(layer)
    return tuple(
        PrecisionLimit(
            kind=kind,
            bits=bits,
            reason=reason,
            layers=tuple(layer.name for layer in layers),
            num_weights=sum(layer.quantizer.num_weights for layer in layers),
        )
        for (kind, bits, reason), layers in groups.items()
    )


def _reason(layer: Any, target: Target) -> str:
    """Why a layer cannot have fewer bits."""
    bits = layer.quantizer.precisions[0]
    if bits > target.learned_bits(layer.kind)[0]:
        return f"{_row(layer)} inputs of fewer bits do not end with a byte, as XNNPACK wants it"
    if target.lookup_tables:
        return "tables would take more bytes than they save"
    return f"{target.name} stores a {layer.kind.value} in {bits} bits at least"


def _draft(model: DDQModel, budget: PrecisionBudget, target: Target) -> Draft | str:
    """A file of the uncalibrated model, as its runtime sees it; or why there is none."""
    with tempfile.TemporaryDirectory() as folder, silenced():
        try:
            made = export_tflite(model, Path(folder) / "draft.tflite")
            taken = delegation(made.path.read_bytes()) if target.runtime == "LiteRT" else None
        except DDQError as error:
            return f"none before calibration: {str(error).splitlines()[0]}"
    return Draft(
        rest_bytes=made.size_bytes - made.sizes.weights,
        total_ops=len(made.graph.ops),
        partitions=None if taken is None else taken.partitions,
        undelegated=counted(op.split(" ")[0] for op in taken.undelegated) if taken else {},
        slow_when_narrow=tuple(
            layer.name for layer in budget.layers if taken and _is_slow(layer, target)
        ),
    )


def _is_slow(layer: Any, target: Target) -> bool:
    """Whether XNNPACK leaves a layer to built-in kernels below 8 bits."""
    quantizer = layer.quantizer
    stored = {target.stored_bits(layer.kind, bits, _row(layer)) for bits in quantizer.precisions}
    return not all(
        xnnpack.takes_weights(
            layer.kind,
            bits,
            row=_row(layer),
            per_channel=quantizer.per_channel,
        )
        for bits in stored
    )
