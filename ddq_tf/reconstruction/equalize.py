"""Scales of channels moved between layers, so that the rows of a kernel become alike.

A kernel has one step for each output channel: rows (input channels) of small weights are rounded as
coarsely as those of large ones. Multiplying a channel where it is made, and dividing the rows that
read it, changes nothing in a float network as long as all between is positively homogeneous: sums,
averages, maxima, ReLU (cross-layer equalization: Nagel et al., 2019). A ReLU with a ceiling is too
for channels that stay below it before and after. Small channels also gain resolution in the
activations, whose step is one for all channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.graph import FlatGraph, FlatNode, as_float64, flatten
from ddq_tf.graph.inputs import as_array
from ddq_tf.kinds import rule_of
from ddq_tf.layers import DDQActivation, rounds_activations, rounds_kernel
from ddq_tf.search import DDQModel
from ddq_tf.targets import OpKind
from ddq_tf.transform.calibrate import observed

_MOST = 3.0  # logarithm of the largest factor
_MARGIN = 1.1  # of a channel's largest value to the ceiling
_FEWEST = 5  # channels at the ceiling whose rows set the measure
_ROUNDS = 3
_TINY = 1e-30


@dataclasses.dataclass
class _Gauge:
    """Channels that share one free scale: all tensors between makers and readers.

    Attributes:
        makers: what multiplies the channels: variables whose last axes are the channels.
        readers: layers whose kernels take the inverse in their rows.
        ceilings: DDQActivations that end at a ceiling.
        is_fixed: whether something depends on the scale as it is.
    """

    makers: list[Any] = dataclasses.field(default_factory=list)
    readers: list[Any] = dataclasses.field(default_factory=list)
    ceilings: list[DDQActivation] = dataclasses.field(default_factory=list)
    is_fixed: bool = False


def equalize(model: DDQModel, batches: Sequence[Any]) -> None:
    """Makes the rows of a DDQ model's kernels alike; its float network stays the same.

    Each channel is multiplied by the mean magnitude of the rows that read it, in units of their
    columns; after a ceiling only so far that its largest value stays below, and not at all if it
    reaches the ceiling. Ranges must be calibrated anew.

    Args:
        model: a DDQ model.
        batches: inputs of the model, which show how large channels become.
    """
    gauges = [gauge for gauge in _gauges(model) if not gauge.is_fixed and gauge.makers]
    wishes = [(gauge, _wish(gauge)) for gauge in gauges]
    largest = _largest(model, batches, [layer for gauge in gauges for layer in gauge.ceilings])
    for gauge, wish in wishes:
        if wish is not None:
            _rescale(gauge, _factors(wish, [(c.ceiling, largest[c.name]) for c in gauge.ceilings]))


def row_magnitudes(kernel: np.ndarray) -> np.ndarray:
    """Returns the logarithms of rows' root mean squares, in units of their columns' own.

    Args:
        kernel: float64 (..., rows, columns).

    Returns:
        float64 (rows,).
    """
    values = kernel.reshape(-1, *kernel.shape[-2:])
    logs = np.zeros(values.shape[1])
    for _ in range(_ROUNDS):
        scaled = values / np.exp(logs)[:, None]
        columns = np.sqrt(np.mean(np.square(scaled), axis=(0, 1))) + _TINY
        rows = np.sqrt(np.mean(np.square(scaled / columns), axis=(0, 2)))
        logs += np.log(np.maximum(rows, np.exp(-2 * _MOST)))
    return logs


def _wish(gauge: _Gauge) -> np.ndarray | None:
    """The logarithms of the factors that would make all rows alike; None if no layer asks."""
    asking = [layer for layer in gauge.readers if layer.kind is not OpKind.DEPTHWISE]
    if not asking:
        return None
    rows = [row_magnitudes(as_float64(layer.kernel)) for layer in asking]
    return np.average(rows, axis=0, weights=[layer.quantizer.num_weights for layer in asking])


def _factors(wish: np.ndarray, limits: Sequence[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The factors: about 1 in the median, 1 for channels at a ceiling, below it for the others."""
    bound = np.zeros(len(wish), bool)
    most = np.full(len(wish), np.exp(_MOST))
    for ceiling, largest in limits:
        bound |= _MARGIN * largest >= ceiling
        most = np.minimum(most, ceiling / np.maximum(_MARGIN * largest, ceiling / np.exp(_MOST)))
    middle = np.median(wish[bound] if bound.sum() >= _FEWEST else wish)
    factors = np.exp(np.clip(wish - middle, -_MOST, _MOST))
    return np.where(bound, 1.0, np.minimum(factors, most))


def _rescale(gauge: _Gauge, factors: np.ndarray) -> None:
    for variable in gauge.makers:
        variable.assign(as_float64(variable) * factors)
    for layer in gauge.readers:
        layer.kernel.assign(as_float64(layer.kernel) / factors[:, None])


def _largest(
    model: DDQModel, batches: Sequence[Any], layers: Sequence[DDQActivation]
) -> dict[str, np.ndarray]:
    """By activation, the largest value of each channel in the float network."""
    found: dict[str, np.ndarray] = {}
    if not layers:
        return found

    def look(values: Any, _: Any) -> Any:
        return ops.max(values, axis=tuple(range(len(values.shape) - 1)))

    for seen in observed(model, batches, layers, look):
        for name, calls in seen.items():
            peaks = np.max([as_array(call) for call in calls], axis=0)
            found[name] = np.maximum(found[name], peaks) if name in found else peaks
    return found


def _gauges(model: DDQModel) -> list[_Gauge]:
    """The gauges of a model."""
    graph = flatten(model)
    joined = _Joined()
    for tensor in (*graph.inputs, *graph.outputs):
        joined.fix(tensor)
    norms = _norms(graph)
    for node in graph.nodes:
        if graph.calls(node.layer) > 1:
            joined.fix(*node.inputs, *node.outputs)
        elif rounds_kernel(node.layer):
            _weighted(joined, node, norms)
        elif rounds_activations(node.layer):
            gauge = joined.join(*node.inputs, *node.outputs)
            if node.layer.ceiling is not None:
                gauge.ceilings.append(node.layer)
        elif rule_of(node.layer).is_homogeneous:
            joined.join(*node.inputs, *node.outputs)
        elif id(node.layer) not in {id(norm.layer) for norm in norms.values()}:
            joined.fix(*node.inputs, *node.outputs)
    return joined.gauges()


def _norms(graph: FlatGraph) -> dict[int, FlatNode]:
    """By output tensor of a layer with weights, the BatchNormalization that folds into it."""
    found = {
        node.outputs[0]: graph.norm_of(node) for node in graph.nodes if rounds_kernel(node.layer)
    }
    return {
        tensor: norm
        for tensor, norm in found.items()
        if norm is not None and graph.calls(norm.layer) == 1
    }


def _weighted(joined: _Joined, node: FlatNode, norms: dict[int, FlatNode]) -> None:
    """A layer with weights reads one gauge and makes another, or the BatchNorm behind it does."""
    layer = node.layer
    if layer.kind is OpKind.TRANSPOSED or getattr(layer, "groups", 1) > 1:
        joined.fix(*node.inputs)
    else:
        joined.of(node.inputs[0]).readers.append(layer)
    norm = norms.get(node.outputs[0])
    if norm is None:
        bias = [] if layer.bias is None else [layer.bias]
        is_depthwise = layer.kind is OpKind.DEPTHWISE
        makes = [] if is_depthwise else [layer.kernel, *bias]
        joined.of(node.outputs[0]).makers.extend(makes)
        joined.of(node.outputs[0]).is_fixed |= is_depthwise
    elif norm.layer.scale and norm.layer.center:
        joined.of(norm.outputs[0]).makers.extend([norm.layer.gamma, norm.layer.beta])
    else:
        joined.fix(*norm.outputs)


class _Joined:
    """Which tensors share a gauge."""

    def __init__(self) -> None:
        self._of: dict[int, _Gauge] = {}

    def of(self, tensor: int) -> _Gauge:
        """The gauge of a tensor."""
        return self._of.setdefault(tensor, _Gauge())

    def join(self, *tensors: int) -> _Gauge:
        """Makes tensors share one gauge."""
        first = self.of(tensors[0])
        for tensor in tensors[1:]:
            other = self.of(tensor)
            if other is first:
                continue
            first.makers += other.makers
            first.readers += other.readers
            first.ceilings += other.ceilings
            first.is_fixed |= other.is_fixed
            self._of = {t: first if g is other else g for t, g in self._of.items()}
        return first

    def fix(self, *tensors: int) -> None:
        """Says that something depends on the scales of tensors."""
        for tensor in tensors:
            self.of(tensor).is_fixed = True

    def gauges(self) -> list[_Gauge]:
        """All of them, once each."""
        return list({id(gauge): gauge for gauge in self._of.values()}.values())
