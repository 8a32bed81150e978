"""Keeping a model's numbers within what XNNPACK takes (`ddq_tf.xnnpack`).

Convolutions look after themselves: at 255, one step of the sum saturates just as well
(`grids.align`). For the others ranges must fit: `widen` moves what may move, `narrow` gives outputs
under a ceiling fewer codes, and `problems` tells what is left.
"""

from __future__ import annotations

import keras
import numpy as np

from ddq_tf import xnnpack
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.windows import stays_inside
from ddq_tf.grids.fold import BIAS_MAX, fold, grid_of, quantizer_after, source_of
from ddq_tf.grids.relations import rounds_powers
from ddq_tf.kinds import rule_of
from ddq_tf.layers import DDQBorderGain, rounds_kernel
from ddq_tf.quantizers import ActivationQuantizer
from ddq_tf.targets import Target

# Below 256, so that moving scales to fractions and odd multiples stays below it.
_MOST = {"sum": 200.0, "product": 250.0}
_TAKEN = {"sum": xnnpack.SUMS, "product": xnnpack.PRODUCTS}
_LEAST_NARROWED = {"sum": 2.0**-6, "product": 2.0**-14}
# TFLite Micro's SOFTMAX takes steps above 2^-26 and aborts on others; no probability moves by them.
_LEAST_LOGIT = 2.0**-25
# Where powers are rounded: with finer steps, moving them keeps no table of powers from ties.
_LEAST_OF_ROUNDED = 2.0**-12
_CURE = "Scale what comes in with a Rescaling layer, or normalize it"


def widen(graph: FlatGraph) -> None:
    """Moves ranges so that no multiplier of a sum or product is too large or too small.

    The output's range is raised, up to its ceiling; if that does not do, inputs' are lowered. One
    far above all that can come out is lowered. What a softmax reads is raised too.
    """
    for node in graph.nodes:
        if rounds_powers(node):
            _raise_logits(graph, node, _LEAST_OF_ROUNDED)
        elif rule_of(node.layer).gives_probabilities:
            _raise_logits(graph, node, _LEAST_LOGIT)
        kind, quantizer = _kind(node), _output(graph, node)
        if kind is None or quantizer is None:
            continue
        multiplier = _largest(graph, node, quantizer)
        if multiplier > _MOST[kind]:
            quantizer.rescale(multiplier / _MOST[kind])
            _lower_inputs(graph, node, quantizer, kind)
        elif multiplier < _TAKEN[kind].least and _is_alone(graph, node):
            quantizer.rescale(multiplier / _LEAST_NARROWED[kind])
        elif multiplier < _TAKEN[kind].least and kind == "product":
            _raise_inputs(graph, node, _LEAST_NARROWED[kind] / multiplier)


def _raise_inputs(graph: FlatGraph, node: FlatNode, factor: float) -> None:
    """Raises one input of a product, where the output's grid is not its own."""
    sources = [source_of(graph, tensor) for tensor in node.inputs]
    movable = [source.movable for source in sources if source.movable is not None]
    if movable:
        movable[0].rescale(factor)


def _raise_logits(graph: FlatGraph, node: FlatNode, least: float) -> None:
    source = source_of(graph, node.inputs[0])
    short = least / float(grid_of(graph, node.inputs[0]).scale)
    if short > 1 and source.movable is not None:
        source.movable.rescale(short)


def _lower_inputs(
    graph: FlatGraph, node: FlatNode, quantizer: ActivationQuantizer, kind: str
) -> None:
    for tensor in node.inputs:
        source = source_of(graph, tensor)
        own = _largest(graph, node, quantizer, (tensor,)) if kind == "sum" else None
        excess = (own or _largest(graph, node, quantizer)) / _MOST[kind]
        if excess > 1.0001 and source.movable is not None:
            source.movable.rescale(1 / excess)


def narrow(graph: FlatGraph) -> list[str]:
    """Gives outputs under a ceiling fewer codes where multipliers would be too large.

    Where one step of an input is 200 or more of the output's, most of the output's codes never
    occur.

    Returns:
        A line for each operator where even two bits are too many.
    """
    found = []
    for node in graph.nodes:
        kind, quantizer = _kind(node), _output(graph, node)
        if kind is None or quantizer is None or quantizer.ceiling is None:
            continue
        finest = quantizer.ceiling / quantizer.qmax
        steps = _largest(graph, node, quantizer) * float(quantizer.export_scale()) / finest
        excess = steps / _MOST[kind]
        if excess <= 1:
            continue
        most = int(np.log2(quantizer.qmax / excess + 1))
        bits = [min(b, most - i) for i, b in enumerate(reversed(quantizer.precisions))]
        if min(bits) < 2:
            found.append(
                f"layer {node.name!r} ({type(node.layer).__name__}): one step of its inputs must "
                f"stay below {_MOST[kind] / 3:.0f} x the ceiling {quantizer.ceiling:g} behind it. "
                f"Received: {steps / quantizer.qmax:.3g} x. {_CURE}"
            )
            continue
        quantizer.precisions = tuple(reversed(bits))
    return found


def problems(graph: FlatGraph, target: Target) -> list[str]:
    """Returns a line for each layer of a DDQ model whose numbers XNNPACK would not take.

    Args:
        graph: of the model, aligned.
        target: which tells how weights are stored.
    """
    found = []
    for node in graph.nodes:
        line = _multiplier_problem(graph, node)
        if line is None and rounds_kernel(node.layer):
            line = _sum_problem(graph, node, target)
        if line is not None:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {line}. {_CURE}")
    return found


def _multiplier_problem(graph: FlatGraph, node: FlatNode) -> str | None:
    kind, quantizer = _kind(node), _output(graph, node)
    if kind is None or quantizer is None:
        return None
    groups = [(tensor,) for tensor in node.inputs] if kind == "sum" else [node.inputs]
    multipliers = [_largest(graph, node, quantizer, tensors) for tensors in groups]
    if all(map(_TAKEN[kind].holds, multipliers)):
        return None
    what = "each input's step" if kind == "sum" else "the product of its inputs' steps"
    received = " and ".join(f"{multiplier:.3g}" for multiplier in multipliers)
    return f"{what} must be {_TAKEN[kind].least:.2g} to 256 of its output's. Received: {received}"


def _sum_problem(graph: FlatGraph, node: FlatNode, target: Target) -> str | None:
    """What is wrong with the longest sum, from the codes at each precision."""
    grid, quantizer = grid_of(graph, node.inputs[0]), node.layer.quantizer
    largest = max(grid.qmax, -grid.qmin)
    in_force, worst = quantizer.indices.copy(), None
    try:
        for index, bits in enumerate(quantizer.precisions):
            limit = xnnpack.sum_limit(target.stored_bits(node.layer.kind, bits, _terms(node)))
            if _terms(node) * (2 ** (bits - 1)) * largest + limit / 16 < limit:
                continue
            quantizer.choose(index)
            folded = fold(graph, node)
            codes = np.abs(folded.codes.astype(np.int64))
            sums = codes.reshape(-1, folded.scale.size).sum(axis=0) * largest
            unit = float(grid.scale) * folded.scale.astype(np.float64)
            total = float((sums + np.minimum(np.abs(folded.bias / unit), BIAS_MAX)).max())
            if total >= limit:
                worst = (bits, total, limit)
    finally:
        quantizer.choose(in_force)
    if worst is None:
        return None
    bits, total, limit = worst
    return (
        f"sums of {_terms(node)} products of {bits}-bit weights must stay below {limit:.3g}. "
        f"Received: up to {total:.3g}. Sum fewer at once, for example after pooling, or allow "
        "fewer bits"
    )


def _terms(node: FlatNode) -> int:
    """The number of products in a sum."""
    return node.layer.quantizer.weights_per_channel


def _kind(node: FlatNode) -> str | None:
    if rule_of(node.layer).adds:
        return "sum"
    multiplies = isinstance(node.layer, keras.layers.Multiply | DDQBorderGain)
    return "product" if multiplies or stays_inside(node) else None


def _output(graph: FlatGraph, node: FlatNode) -> ActivationQuantizer | None:
    after = quantizer_after(graph, node.outputs[0])
    return None if after is None else after.layer.quantizer


def _is_alone(graph: FlatGraph, node: FlatNode) -> bool:
    """Whether an operator's output has a grid that no other writes."""
    after = quantizer_after(graph, node.outputs[0])
    return after is not None and sum(n.layer is after.layer for n in graph.nodes) == 1


def _largest(
    graph: FlatGraph,
    node: FlatNode,
    quantizer: ActivationQuantizer,
    tensors: tuple[int, ...] | None = None,
) -> float:
    """An operator's multiplier; of a sum, its inputs' greatest."""
    scales = [float(grid_of(graph, tensor).scale) for tensor in tensors or node.inputs]
    if rule_of(node.layer).adds:
        return max(scales) / float(quantizer.export_scale())
    factor = rule_of(node.layer).factor(node) or 1.0
    return factor * float(np.prod(scales)) / float(quantizer.export_scale())
