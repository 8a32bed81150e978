"""Layers that multiply and shift each channel: BatchNormalization, DDQRescaling.

One that stands alone (with its neighbours of the kind, composed) becomes a 1x1 depthwise
convolution. All its codes are one number w; the gains are in the scales, so nothing is lost:
y = gain * x + shift = (gain / w) * (w * x + shift * w / gain).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import find_rule, rule_of


def multiplies(node: FlatNode) -> bool:
    """Returns whether a node multiplies and shifts each channel."""
    rule = find_rule(node.layer)
    return rule is not None and rule.affine is not None


def is_affine(graph: FlatGraph, node: FlatNode) -> bool:
    """Returns whether a node is such a layer and no weighted layer takes it in."""
    if not multiplies(node):
        return False
    before = graph.producer(node.inputs[0])
    return before is None or graph.norm_of(before) is not node


def affine_chain(graph: FlatGraph, node: FlatNode) -> list[FlatNode]:
    """Returns the nodes from `node` on that compose into one multiplication and shift."""
    chain = [node]
    while True:
        after = graph.sole_consumer(chain[-1].outputs[0])
        if after is None or not multiplies(after):
            return chain
        chain.append(after)


def continues_chain(graph: FlatGraph, node: FlatNode) -> bool:
    """Returns whether an affine node is composed with the one before it."""
    before = graph.producer(node.inputs[0])
    return (
        before is not None
        and is_affine(graph, before)
        and (graph.sole_consumer(node.inputs[0]) is node)
    )


def gain_and_shift(layer: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 (gain, shift), each (channels,): y = gain * x + shift in inference.

    Raises:
        DDQError: if the layer is of another kind.
    """
    affine = rule_of(layer).affine
    if affine is None:
        raise DDQError(f"layer {layer.name!r}: does not multiply and shift each channel")
    return affine(layer, channels)


def compose(chain: list[FlatNode], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (gain, shift) of a whole chain."""
    gain, shift = np.ones(channels), np.zeros(channels)
    for node in chain:
        by, plus = gain_and_shift(node.layer, channels)
        gain, shift = gain * by, shift * by + plus
    return gain, shift


def best_code(gain: np.ndarray, shift: np.ndarray, input_scale: float) -> int:
    """Returns the code w whose bias steps gain * s_x / w come closest to the shifts.

    Among 64..127; 1 where nothing is shifted, as the largest steps of sums leave least doubt. Of
    codes that differ by no more than float32 rounds, the largest: alignment must not change it.
    """
    if not shift.any():
        return 1
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.where(gain == 0, 0.0, shift / (np.abs(gain) * input_scale))
    errors = {w: np.abs(w * steps - np.rint(w * steps)).max() / w for w in range(127, 63, -1)}
    rounded = 2.0**-23 * np.abs(steps).max()
    return max(w for w, error in errors.items() if error <= min(errors.values()) + rounded)
