"""Counts inner activations in units of their own step, so that biases need no scales of their own.

A bias has the scales s_x * s_w. Where s_x is 1 they are the weights' scales, which the file then
holds once: up to 72 kB less in MobileNetV2 1.0/224. Inner activations may have any scale, as
kernels only use ratios. The cases:

1. An activation between weighted ops: its scale becomes 1, and the weights before and behind it
   get scales that keep the multipliers f32(f32(s_x * s_w) / s_y).
2. Activations tied by ADD, SUB, MEAN, QUANTIZE or ops that only move values: all are multiplied by
   one factor that makes the scale 1 where it shares most bytes, if the numbers that these kernels
   compute with stay the same.

Every code stays as it is in XNNPACK. Nearly all multipliers stay equal bit by bit; where no float
gives the old one, a neighbour is taken that gives the same code for every sum the op can reach. If
there is none, the activation keeps its scale.

Kept as well are the scales of the graph's inputs and outputs, which users read; of tensors at all
other ops (SOFTMAX needs the true scale) and behind a fused RELU6 or RELU_N1_TO_1, whose bounds are
real numbers; and around weights that XNNPACK leaves to built-in kernels. These compute multipliers
of 31 bits from products that are not rounded to float32; no other scales give the same ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import DType, Graph, Op, Tensor
from ddq_tf.export.operators import attributes, operator_of, takes_weights
from ddq_tf.export.operators.arithmetic import F32, limits, product_multiplier, quantization
from ddq_tf.export.operators.weighted import reached_sums
from ddq_tf.targets import Target

_REACH = range(-4, 5)  # which floats around the exact scale are tried
# From here on, two neighbouring multipliers move the borders between codes by less than one sum,
# and float32 holds the sums at these borders exactly.
_COARSE = 2.0**-13

Scales = dict[str, np.float32]


def run(graph: Graph, target: Target) -> Graph:
    """Returns the graph with the cases rewritten, for every target."""
    del target
    while True:
        rewritten = _Rewriting(graph).run()
        if _shared_bytes(rewritten) <= _shared_bytes(graph):
            return graph
        graph = rewritten


class _Rewriting:
    """One try to rewrite all of a graph."""

    def __init__(self, graph: Graph):
        self.graph = graph
        readers: dict[str, int] = {}
        for op in graph.ops:
            for name in op.inputs:
                readers[name] = readers.get(name, 0) + 1
        free = [op for op in graph.ops if _is_free(op, graph, readers)]
        self.weighted = [op for op in free if _is_weighted(op)]
        self.ties = [op for op in free if not _is_weighted(op)]
        self.fixed = {*graph.inputs.values(), *graph.outputs.values()}
        for op in graph.ops:
            if op not in free:
                self.fixed.update(op.inputs, op.outputs)
            elif attributes(op).get("fused_activation_function") in ("RELU6", "RELU_N1_TO_1"):
                self.fixed.update(op.outputs)
        self.scales: Scales = {
            name: F32(quantization(graph.tensors[name]).scale[0])
            for op in free
            for name in _activations(op, graph)
        }

    def run(self) -> Graph:
        """Returns the graph with as many scales of 1 as keep its codes."""
        proposals = [scales for scales in map(self._proposal, self._groups()) if scales]
        while True:
            scales = dict(self.scales)
            for proposal in proposals:
                scales.update(proposal)
            weights: dict[str, np.ndarray] = {}
            failed = self._solve(scales, weights)
            if failed is None:
                return self._rebuilt(scales, weights)
            # An op that reads scale 1 always has a solution if its output keeps its scale.
            behind = [scales for scales in proposals if failed.outputs[0] in scales]
            before = [scales for scales in proposals if failed.inputs[0] in scales]
            proposals.remove((behind or before)[0])

    def _groups(self) -> list[list[str]]:
        """Returns the sets of activations that must be multiplied by one factor, if by any."""
        groups = [{name} for name in self.scales]
        for op in self.ties:
            tied = set(_activations(op, self.graph))
            joined = [group for group in groups if group & tied]
            groups = [group for group in groups if not group & tied]
            groups.append(tied.union(*joined))
        return [sorted(group) for group in groups if not group & self.fixed]

    def _proposal(self, group: Sequence[str]) -> Scales | None:
        """Returns new scales for a group, or None if it gains nothing or has no solution."""
        gains = {
            name: sum(_bias_bytes(op, self.graph) for op in self.weighted if op.inputs[0] == name)
            for name in group
        }
        for anchor in sorted(group, key=lambda name: -gains[name]):
            scales = self._spread(anchor, group) if gains[anchor] else None
            if scales is not None:
                return scales
        return None

    def _spread(self, anchor: str, group: Sequence[str]) -> Scales | None:
        """Returns the scales of a group if `anchor` has 1, or None if its ops would change."""
        around = [(op, set(_activations(op, self.graph))) for op in self.ties]
        order = [anchor]
        while len(order) < len(group):
            reached = {name for _, names in around if names & set(order) for name in names}
            order += sorted(reached - set(order))
        found: Scales = {anchor: F32(1)}

        def settle(position: int) -> bool:
            """Tries floats for one member and, where its ops keep their numbers, the next."""
            if position == len(order):
                return True
            name, settled = order[position], set(order[: position + 1])
            checks = [op for op, names in around if name in names and names <= settled]
            for scale in _nearest(np.float64(self.scales[name]) / self.scales[anchor]):
                found[name] = scale
                same = all(_constants(op, found) == _constants(op, self.scales) for op in checks)
                if same and settle(position + 1):
                    return True
            return False

        return found if settle(1) else None

    def _solve(self, scales: Scales, weights: dict[str, np.ndarray]) -> Op | None:
        """Fills in the scales of weights that change; returns an op for which there are none."""
        for op in self.weighted:
            ends = op.inputs[0], op.outputs[0]
            if all(scales[name] == self.scales[name] for name in ends):
                continue
            solved = _solve_weights(op, self.graph, self.scales, scales)
            if solved is None:
                return op
            weights[op.inputs[1]] = solved
        return None

    def _rebuilt(self, scales: Scales, weights: Mapping[str, np.ndarray]) -> Graph:
        """Returns the graph with new scales of activations, weights and biases."""
        changed = {
            name: np.array([scale], F32)
            for name, scale in scales.items()
            if scale != self.scales[name]
        }
        changed.update(weights)
        for op in self.weighted:
            if op.inputs[1] in weights:
                for bias in filter(None, op.inputs[2:]):
                    changed[bias] = scales[op.inputs[0]] * weights[op.inputs[1]]
        tensors = dict(self.graph.tensors)
        for name, scale in changed.items():
            grid = dataclasses.replace(quantization(tensors[name]), scale=scale)
            tensors[name] = dataclasses.replace(tensors[name], quantization=grid)
        return dataclasses.replace(self.graph, tensors=tensors)


def _is_free(op: Op, graph: Graph, readers: Mapping[str, int]) -> bool:
    """Whether an op allows other scales of the activations that it reads and writes."""
    tensors = [graph.tensors[name] for name in (*op.inputs, *op.outputs) if name]
    if _is_weighted(op):
        image, weights, *bias, output = tensors
        return (
            _is_activation(image)
            and _is_activation(output)
            and takes_weights(op, graph.tensors)
            and all(
                t.is_constant and t.quantization and readers[t.name] == 1 for t in (weights, *bias)
            )
        )
    data = [tensor for tensor in tensors if tensor.dtype is not DType.INT32]
    if not all(map(_is_activation, data)):
        return False
    operator = operator_of(op.kind)
    if operator.constants is not None:
        return True
    return operator.keeps_grid and len({float(quantization(t).scale[0]) for t in data}) == 1


def _is_weighted(op: Op) -> bool:
    """Whether an op reads an image, weights and a bias in this order; TRANSPOSE_CONV does not."""
    operator = operator_of(op.kind)
    return operator.weights is not None and operator.image == 0


def _is_activation(tensor: Tensor) -> bool:
    """Whether a tensor is an INT8 activation with one scale."""
    return (
        tensor.dtype is DType.INT8
        and not tensor.is_constant
        and tensor.quantization is not None
        and tensor.quantization.scale.size == 1
    )


def _activations(op: Op, graph: Graph) -> list[str]:
    """Returns the activations that an op reads and writes."""
    return [
        name for name in (*op.inputs, *op.outputs) if name and _is_activation(graph.tensors[name])
    ]


def _constants(op: Op, scales: Scales) -> object:
    """Returns the numbers that the kernel of a tying op computes with."""
    reads = [scales[name] for name in op.inputs if name in scales]
    output = scales[op.outputs[0]]
    constants = operator_of(op.kind).constants
    if constants is None:
        return [float(scale / output) for scale in reads]
    return constants(reads, output)


def _nearest(value: np.float64) -> list[np.float32]:
    """Returns the floats around a positive value, nearest first."""
    floats = _floats_around(np.array([value]))[:, 0]
    return sorted(floats, key=lambda scale: abs(float(scale) - value))


def _floats_around(values: np.ndarray) -> np.ndarray:
    """Returns the floats around positive values: float32, (candidates, values.size)."""
    bits = values.astype(F32).view(np.int32)
    return np.stack([(bits + offset).view(F32) for offset in _REACH])


def _solve_weights(op: Op, graph: Graph, before: Scales, after: Scales) -> np.ndarray | None:
    """Returns scales of an op's weights that keep its codes, or None if there are none.

    Args:
        op: a weighted op.
        graph: holds it.
        before: the scales of activations in the graph.
        after: those that are wanted.
    """
    image, output = op.inputs[0], op.outputs[0]
    old = quantization(graph.tensors[op.inputs[1]]).scale
    wanted = product_multiplier(before[image], old, before[output])
    candidates = _floats_around(wanted * (np.float64(after[output]) / np.float64(after[image])))
    reached = product_multiplier(after[image], candidates, after[output])
    exact = reached == wanted
    chosen = exact.argmax(axis=0)
    inexact = np.flatnonzero(~exact.any(axis=0))
    sums = _reach(op, graph) if inexact.size else None
    for channel in inexact:
        if sums is None:
            return None
        reach = int(sums[0][channel]), int(sums[1][channel])
        equal = _gives_same_codes(op, graph, reach, wanted[channel], reached[:, channel])
        if not equal.any():
            return None
        chosen[channel] = equal.argmax()
    return candidates[chosen, np.arange(chosen.size)]


def _gives_same_codes(
    op: Op, graph: Graph, reach: tuple[int, int], wanted: np.float32, others: np.ndarray
) -> np.ndarray:
    """Returns which multipliers give the same codes as another one, whatever the op reads.

    Codes grow with the sum, and the one behind code q begins near the sum (q + 1/2 - z_y) / M: if
    two multipliers agree on the sums around all these places, they agree everywhere.

    Args:
        op: a weighted op.
        graph: holds it.
        reach: the least and the greatest sum of the output channel.
        wanted: the multiplier to replace.
        others: candidates, (count,).
    """
    limit = xnnpack.sum_limit(graph.tensors[op.inputs[1]].dtype.bits)
    if reach[0] < -limit or reach[1] >= limit or wanted < _COARSE:
        return np.zeros(others.size, bool)
    output = graph.tensors[op.outputs[0]]
    low, high = limits(output, attributes(op)["fused_activation_function"])
    borders = (np.arange(low, high) + 0.5 - quantization(output).zero_point) / np.float64(wanted)
    sums = np.rint(borders)[:, None] + np.arange(-2, 3)
    sums = sums[(sums >= reach[0]) & (sums <= reach[1])].astype(F32)
    return (np.rint(sums * wanted) == np.rint(sums * others[:, None])).all(axis=1)


def _reach(op: Op, graph: Graph) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the least and the greatest sum of each channel; None if they share one scale."""
    weights = graph.tensors[op.inputs[1]]
    grid = quantization(weights)
    per_channel = grid.scale.size == weights.shape[grid.axis]
    return reached_sums(op, graph.tensors) if per_channel else None


def _bias_bytes(op: Op, graph: Graph) -> int:
    """Bytes of the scales of an op's bias."""
    grids = [graph.tensors[name].quantization for name in op.inputs[2:] if name]
    return sum(grid.scale.nbytes for grid in grids if grid is not None)


def _shared_bytes(graph: Graph) -> int:
    """Bytes of biases' scales that are their weights' scales."""
    total = 0
    for op in graph.ops:
        if _is_weighted(op) and len(op.inputs) > 2 and op.inputs[2]:
            weights, bias = (graph.tensors[name].quantization for name in op.inputs[1:3])
            if weights and bias and np.array_equal(weights.scale, bias.scale):
                total += bias.scale.nbytes
    return total
