"""Ranges that are known before calibration, and where they belong in a DDQ model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.graph import FlatGraph
from ddq_tf.graph.origin import origin_of
from ddq_tf.layers import (
    DDQActivation,
    DDQWeightedLayer,
    activation_layers,
    rounds_activations,
    weighted_layers,
)
from ddq_tf.quantizers import WeightQuantizer
from ddq_tf.rules import Rule
from ddq_tf.scheme import MAX_BITS
from ddq_tf.targets import get_target
from ddq_tf.transform.calibrate import input_range

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelRange:
    """The range of a kernel at one precision.

    Attributes:
        alpha: the largest magnitude, > 0: one number, or one for each output channel.
        num_bits: the precision that it is of.
    """

    alpha: Sequence[float]
    num_bits: int = MAX_BITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
    """What is known of a float model's ranges, by the names of its layers.

    Attributes:
        outputs: (min, max) of what a layer writes, behind its own activation; of what an input
            takes, by its name.
        sums: (min, max) of what a layer's own activation reads, as the logits before a softmax.
        kernels: of layers with weights.
        bits: the precision that a layer's kernel keeps; those of others learn, as always.
        clustered: layers whose kernel has at most 16 different values.
        notes: what is worth knowing of where they come from, a sentence each.
    """

    outputs: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    kernels: Mapping[str, KernelRange] = dataclasses.field(default_factory=dict)
    bits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    clustered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def say_nothing(self) -> bool:
        """Whether there are none."""
        return not (self.outputs or self.sums or self.kernels)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """`bits` for `DDQConfig(rules=...)`."""
        return tuple(Rule(name, bits=bits) for name, bits in self.bits.items())

    def rules_for(self, target: str) -> tuple[Rule, ...]:
        """Returns `rules`, and free levels for clustered kernels where a target stores these.

        Free levels of 4 bits start from the centroids, one range for the kernel; files of
        `litert-int8` and `tflm` hold them as codes of 8 bits, rounded to 1/127 of the range.
        """
        stores = get_target(target).code_bits is not None
        free = {"bits": 4, "levels": "free", "level_init": "kmeans", "per_channel": False}
        return (*(Rule(name, **free) for name in self.clustered if stores), *self.rules)


def as_ranges(given: Any) -> Ranges:
    """Returns what `quantize_model` was given as `Ranges`; None as none.

    Raises:
        DDQError: naming all that are no (min, max) with finite min <= max.
    """
    if given is None:
        return Ranges()
    if isinstance(given, Mapping):
        given = Ranges(outputs=given)
    if not isinstance(given, Ranges):
        raise DDQError(
            "ranges must be a mapping from names of layers to (min, max), or what from_tfmot "
            f"returns. Received: {type(given).__name__}"
        )
    pairs = {**given.sums, **given.outputs}
    lines = [
        f"layer {name!r}: needs (min, max), finite, min <= max. Received: {pair!r}"
        for name, pair in pairs.items()
        if not _is_range(pair)
    ]
    lines += [
        f"kernel of layer {name!r}: needs finite magnitudes > 0. Received: {kernel!r}"
        for name, kernel in given.kernels.items()
        if not _is_positive(kernel)
    ]
    raise_all("ranges are wrong:", lines)
    return given


def _is_range(pair: Any) -> bool:
    try:
        low, high = (float(end) for end in pair)
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite([low, high]).all()) and low <= high


def _is_positive(kernel: Any) -> bool:
    alpha = np.asarray(kernel.alpha, np.float64) if isinstance(kernel, KernelRange) else np.empty(0)
    return bool(alpha.size and np.isfinite(alpha).all() and (alpha > 0).all())


class KnownRanges:
    """Given ranges and the layers of a DDQ model that they are of.

    Args:
        given: by names of the float model.
        flat: the float model's graph.
        graph: the canonical one.
        grids: for each tensor of them the layer whose grid it lies on.

    Raises:
        DDQError: naming all names that the float model does not have.
    """

    def __init__(
        self, given: Ranges, flat: FlatGraph, graph: FlatGraph, grids: Mapping[int, Any]
    ) -> None:
        self.given = given
        self._written: dict[str, list[str]] = {}  # by activation layer: what lies on its grid
        self._found: dict[str, list[Range]] = {}
        names: dict[str, set[str]] = {"outputs": set(), "sums": set(), "kernels": set()}
        written = {
            **dict(zip(flat.inputs, flat.input_names, strict=True)),
            **{node.outputs[0]: node.name for node in flat.nodes},
        }
        for tensor, name in written.items():
            names["outputs"].add(name)
            self._note(grids.get(tensor), name, given.outputs)
        for node in graph.nodes:
            origin = origin_of(node.layer).name
            if node.has_kernel:
                names["kernels"].add(origin)
            if node.outputs[0] not in written and node.has_kernel:
                names["sums"].add(origin)
                self._note(grids.get(node.outputs[0]), origin, given.sums)
        _refuse_unknown(given, names)
        self._kernels = {
            node.name: origin_of(node.layer).name for node in graph.nodes if node.has_kernel
        }

    def _note(self, grid: Any, name: str, ranges: Mapping[str, Range]) -> None:
        if not rounds_activations(grid):
            return
        self._written.setdefault(grid.name, []).append(name)
        if name in ranges:
            self._found.setdefault(grid.name, []).append(ranges[name])

    def check_whole(self, model: keras.Model) -> None:
        """Raises one error for all activations whose range is not known."""
        lines = [
            f"of {' or '.join(map(repr, self._written.get(layer.name, [layer.name])))}"
            for layer in activation_layers(model)
            if layer.name not in self._found
        ]
        raise_all(
            "without calibration data the ranges of all activations must be given. Pass data as "
            "calibration, or also the ranges:",
            lines,
        )

    def set_all(self, model: keras.Model) -> None:
        """Sets all ranges that are known; what shares a grid has one that spans all of them."""
        for layer in activation_layers(model):
            found = self._found.get(layer.name)
            if found:
                lows, highs = zip(*found, strict=True)
                _set_activation(layer, min(*lows, 0.0), max(*highs, 0.0))
        for layer in weighted_layers(model):
            kernel = self.given.kernels.get(self._kernels.get(layer.name, layer.name))
            if kernel is not None:
                _set_kernel(layer, kernel)


def _refuse_unknown(given: Ranges, names: Mapping[str, set[str]]) -> None:
    lines = [
        f"{kind}: {name!r}"
        for kind, known in names.items()
        for name in getattr(given, kind)
        if name not in known
    ]
    raise_all("ranges name layers that the model does not have, or that have none of them:", lines)


def _set_activation(layer: DDQActivation, low: float, high: float) -> None:
    quantizer = layer.quantizer
    layer.see(negatives=low < 0)
    if quantizer.learned:
        largest = max(high, -low) if quantizer.signed else high
    else:
        largest = input_range(np.array([low, high]), quantizer.qmax)
    if largest > 0:
        quantizer.set_range(min(largest, quantizer.ceiling or np.inf))


def _set_kernel(layer: DDQWeightedLayer, kernel: KernelRange) -> None:
    """Sets the range at the precision that it is of, where the layer has it."""
    quantizer: WeightQuantizer = layer.quantizer
    if kernel.num_bits not in quantizer.precisions:
        return
    alpha, shape = np.asarray(kernel.alpha, np.float32), quantizer.base_range.shape[1:]
    if alpha.size == np.prod(shape):
        alpha = alpha.reshape(shape)
    elif np.prod(shape) == 1:
        alpha = alpha.max()
    elif alpha.size not in (1, shape[-1]):
        raise DDQError(
            f"layer {layer.name!r}: needs 1 range of its kernel or {np.prod(shape)}. "
            f"Received: {alpha.size}"
        )
    quantizer.set_range_at(quantizer.precisions.index(kernel.num_bits), alpha)
