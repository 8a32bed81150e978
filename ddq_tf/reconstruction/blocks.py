"""Blocks of a DDQ model: the parts between tensors through which everything passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, flatten
from ddq_tf.kinds import rule_of
from ddq_tf.layers import (
    DDQActivation,
    rounds_activations,
    rounds_kernel,
)
from ddq_tf.reconstruction.streams import Codes, Halves, Packing, Stored, Whole

_LAYERS_PER_BLOCK = 3
_VALUES_AT_ONCE = 1 << 21  # of a tensor
_MOST_EXAMPLES = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a model with one input and one output tensor.

    Attributes:
        name: of its last layer.
        layers: all of them, in network order.
        model: the part by itself; it shares the layers.
        start: its input tensor in the whole model.
        output: its output tensor there.
        kernels: its layers with weights that stand only once in the whole model.
        norms: by name of a layer with weights, the BatchNormalization that alone reads its output.
        end: the quantized activation that it ends in; None of the last block.
        gives_probabilities: whether it ends in a softmax.
        batch: how many examples are computed at once, for the sake of memory and its caches.
    """

    name: str
    layers: tuple[Any, ...]
    model: Any
    start: Any
    output: Any
    kernels: tuple[Any, ...]
    norms: dict[str, Any]
    end: DDQActivation | None
    gives_probabilities: bool
    batch: int

    def stored(self, *, of_float: bool) -> Stored:
        """Returns room for what the block gives in the quantized or in the float network."""
        packing: Packing = Whole()
        if self.end is not None:
            step, (qmin, qmax) = self.end.step, self.end.limits
            packing = Halves(float(step) * qmax) if of_float else Codes(step, qmin)
        return Stored(self.output.shape[1:], packing)


def blocks_of(model: keras.Model) -> list[Block]:
    """Cuts a DDQ model into the blocks that are reconstructed one after the other.

    A cut needs a quantized activation through which everything passes. Blocks grow from one cut to
    the next until they hold three layers with weights, or end as residual networks end theirs: in
    a tensor without a ReLU, or after a merge. So MobileNet's bottlenecks, ResNet's blocks and
    threesomes of plain convolutions each become one.

    Args:
        model: as `quantize_model` returns it, with one input and one output.
    """
    graph = flatten(model)
    parts: list[list[FlatNode]] = [[]]
    for node, is_cut in zip(graph.nodes, _cuts(graph), strict=True):
        parts[-1].append(node)
        if is_cut and _is_whole(parts[-1]) and node is not graph.nodes[-1]:
            parts.append([])
    if len(parts) > 1 and not _weighted(parts[-1]):
        tail = parts.pop()
        parts[-1].extend(tail)
    blocks = []
    start = model.inputs[0]
    for part in parts:
        is_last = part is parts[-1]
        end = model.outputs[0] if is_last else part[-1].layer.output
        blocks.append(
            Block(
                name=part[-1].name,
                layers=tuple({id(node.layer): node.layer for node in part}.values()),
                model=keras.Model(start, end, name=f"block_of_{part[-1].name}"),
                start=start,
                output=end,
                kernels=tuple(layer for layer in _weighted(part) if graph.calls(layer) == 1),
                norms=_norms(graph, part),
                end=None if is_last else part[-1].layer,
                gives_probabilities=is_last and rule_of(part[-1].layer).gives_probabilities,
                batch=batch_for(num_values(node.layer.output) for node in part),
            )
        )
        start = end
    return blocks


def batch_for(sizes: Iterable[int], most: int = _MOST_EXAMPLES) -> int:
    """Returns how many examples to compute at once.

    Args:
        sizes: of the tensors that one example takes, of which the largest counts.
        most: that it is at most.
    """
    return int(np.clip(_VALUES_AT_ONCE // max(sizes), 1, most))


def num_values(tensor: Any) -> int:
    """Returns how many values a Keras tensor has for each example."""
    return int(np.prod([size or 1 for size in tensor.shape[1:]]))


def _cuts(graph: FlatGraph) -> list[bool]:
    """Whether all that follows a node depends on its output alone, a quantized activation."""
    last_use = {tensor: i for i, node in enumerate(graph.nodes) for tensor in node.inputs}
    last_use |= {tensor: len(graph.nodes) for tensor in graph.outputs}
    live = set(graph.inputs)
    cuts = []
    for i, node in enumerate(graph.nodes):
        live = {tensor for tensor in live | set(node.outputs) if last_use.get(tensor, -1) > i}
        single = rounds_activations(node.layer) and graph.calls(node.layer) == 1
        cuts.append(single and live == set(node.outputs))
    return cuts


def _norms(graph: FlatGraph, part: list[FlatNode]) -> dict[str, Any]:
    norms = {node.layer.name: graph.norm_of(node) for node in part}
    return {
        name: norm.layer
        for name, norm in norms.items()
        if norm is not None and graph.calls(norm.layer) == 1
    }


def _is_whole(part: list[FlatNode]) -> bool:
    weighted = _weighted(part)
    if not weighted:
        return False
    merges = any(len(node.inputs) > 1 for node in part)
    return merges or len(weighted) >= _LAYERS_PER_BLOCK or part[-1].layer.kind == "linear"


def _weighted(part: list[FlatNode]) -> list[Any]:
    return [node.layer for node in part if rounds_kernel(node.layer)]
