"""BatchNorm folding: a weighted layer and its BatchNorm as one integer operator.

    y = gamma' * (conv(x, s*k) + b) + beta - gamma' * mean,   gamma' = gamma / sqrt(var + eps)
      = conv(x, (s*|gamma'|) * (sign(gamma')*k)) + (beta + gamma' * (b - mean))

so codes k keep their magnitude, and only scale and bias change.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatGraph, FlatNode, as_float64, flatten
from ddq_tf.grids.affine import affine_chain, best_code, compose, is_affine
from ddq_tf.kinds import Output, find_rule, output_of
from ddq_tf.kinds.scales import batch_norm_affine
from ddq_tf.layers import (
    DDQActivation,
    DDQFixedGrid,
    DDQSoftmax,
    multiplies_codes,
    operator_kind,
    rounds_activations,
)
from ddq_tf.layers.codes import Grids
from ddq_tf.targets import OpKind

# XNNPACK holds INT4 weights 16-fold, so its INT4 sums wrap at 28 bits; half of that for the bias.
BIAS_MAX = 2**26
_DEAD = 1e-30  # steps below it are none: the codes of such a channel fold to 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The uniform grid of an activation tensor: real = scale * code, codes qmin..qmax.

    A grid of fewer than 8 bits lies at an end of INT8, so that saturation bounds it on that side.

    Attributes:
        scale: the step.
        qmin: the smallest code.
        qmax: the largest code.
        cut: whether a ReLU has cut off the codes below 0.
    """

    scale: np.float32
    qmin: int
    qmax: int
    cut: bool = False

    @property
    def is_narrow(self) -> bool:
        """Whether INT8 has more codes than the grid, so that values need a clamp."""
        return self.qmax - self.qmin < 254 and not self.cut

    @property
    def zero_point(self) -> int:
        """The INT8 code that stands for 0."""
        if self.is_narrow:
            return self.zero_points[-1]
        return max(-128, 127 - max(self.qmax, 127)) if self.qmin < 0 else -128

    @property
    def zero_points(self) -> tuple[int, ...]:
        """The zero points that a value passes until both ends are bounded by saturation.

        Signed narrow grids: the upper end, then the lower. Unsigned ones: the lower, then the
        upper; an operator with a fused RELU needs only the latter.
        """
        if not self.is_narrow:
            return (self.zero_point,)
        upper, lower = 127 - self.qmax, -128 - self.qmin
        return (upper, lower) if self.qmin < 0 else (lower, upper)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldedLayer:
    """A weighted layer with its BatchNorm folded in.

    Attributes:
        node: the weighted layer's call.
        batch_norm: the BatchNormalization folded, or None; of affine layers, the last.
        output: the tensor that carries the folded result.
        codes: int8, the kernel's shape, signs flipped where gamma is negative; computed when
            first asked for.
        scale: float32, (channels,), > 0, of the folded weights.
        bias: float64, (channels,), of the folded layer.
    """

    node: FlatNode
    batch_norm: Any
    output: int
    make_codes: Callable[[], np.ndarray]
    scale: np.ndarray
    bias: np.ndarray

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The codes."""
        return self.make_codes()


Source = DDQActivation | DDQFixedGrid | DDQSoftmax
_PASSED = (Output.KEEPS, Output.ROUNDS, Output.SHARED)


def source_of(graph: FlatGraph, tensor: int) -> Source:
    """Returns the layer whose grid a tensor of a DDQ model lies on.

    Layers that move values, round to their input's grid, or join tensors of one grid are passed.
    """
    return _to_source(graph, tensor)[-1].layer


def _to_source(graph: FlatGraph, tensor: int) -> list[FlatNode]:
    """The nodes from a tensor back to the layer whose grid it lies on."""
    node = graph.producer(tensor)
    path: list[FlatNode] = []
    while node is not None:
        path.append(node)
        output = output_of(node)
        if output is Output.GRID:
            return path
        if output not in _PASSED:
            break
        node = graph.producer(node.inputs[0])
    where = "a model input" if node is None else f"layer {node.name!r}"
    raise DDQError(f"{where} has no quantizer behind it, so its values lie on no grid")


def _cuts(node: FlatNode) -> bool:
    rule = find_rule(node.layer)
    return rule is not None and rule.cuts


def grid_of(graph: FlatGraph, tensor: int) -> Grid:
    """Returns the grid that a tensor of a DDQ model lies on; a ReLU cuts off its lower half."""
    *between, source = _to_source(graph, tensor)
    qmin, qmax = source.layer.limits
    grid = Grid(scale=source.layer.step, qmin=qmin, qmax=qmax)
    if any(map(_cuts, between)):
        return dataclasses.replace(grid, qmin=0, cut=grid.qmin < 0)
    return grid


def tell_grids(model: keras.Model) -> None:
    """Tells layers that multiply codes in inference which grids their inputs lie on.

    A layer that stands on different grids, or on none, is told None.

    Args:
        model: a DDQ model.
    """
    graph = flatten(model)
    seen: dict[int, tuple[Any, set[tuple[Source, ...] | None]]] = {}
    for node in graph.nodes:
        if multiplies_codes(node.layer):
            seen.setdefault(id(node.layer), (node.layer, set()))[1].add(_sources(graph, node))
    for layer, found in seen.values():
        sources = found.pop() if len(found) == 1 else None
        layer.grids = None if sources is None else Grids(sources)


def _sources(graph: FlatGraph, node: FlatNode) -> tuple[Source, ...] | None:
    """The layers on whose grids a node's inputs lie; None if there are none."""
    try:
        return tuple(source_of(graph, tensor) for tensor in node.inputs)
    except DDQError:  # built by hand, and not to be exported
        return None


def quantizer_after(graph: FlatGraph, tensor: int) -> FlatNode | None:
    """Returns the DDQActivation that alone reads a tensor, behind a ReLU or not."""
    after = graph.sole_consumer(tensor)
    if after is not None and _cuts(after):
        after = graph.sole_consumer(after.outputs[0])
    return after if after is not None and rounds_activations(after.layer) else None


def fixed_grid_after(graph: FlatGraph, tensor: int) -> FlatNode | None:
    """Returns the DDQFixedGrid that alone reads a tensor."""
    after = graph.sole_consumer(tensor)
    return after if after is not None and isinstance(after.layer, DDQFixedGrid) else None


def fold(graph: FlatGraph, node: FlatNode, code: int | None = None) -> FoldedLayer:
    """Folds a weighted layer's call with the BatchNorm that alone reads it, if one does.

    Affine layers that stand alone count as a 1x1 depthwise convolution.

    Args:
        graph: of a DDQ model.
        node: the call.
        code: of affine layers, instead of `grids.affine.best_code`.
    """
    layer = node.layer
    if is_affine(graph, node):
        return _fold_affine(graph, node, code)
    scale = layer.quantizer.export_scale()
    channels = int(np.prod(scale.shape))
    scale = scale.reshape(channels).astype(np.float64)
    bias = np.zeros(channels) if layer.bias is None else as_float64(layer.bias)
    after = graph.norm_of(node)
    if after is None:
        return FoldedLayer(
            node=node,
            batch_norm=None,
            output=node.outputs[0],
            make_codes=lambda: layer.integer_weights()[0],
            scale=scale.astype(np.float32),
            bias=bias,
        )
    gain, shift = batch_norm_affine(after.layer, channels)
    signs = np.where(gain < 0, -1, 1)
    steps, bias = scale * np.abs(gain), gain * bias + shift
    live = np.where(steps < _DEAD, 0, signs).astype(np.int8).reshape(layer.quantizer.channel_shape)
    return FoldedLayer(
        node=node,
        batch_norm=after.layer,
        output=after.outputs[0],
        make_codes=lambda: layer.integer_weights()[0] * live,
        scale=_scales(graph, node, steps, bias),
        bias=bias,
    )


def _scales(graph: FlatGraph, node: FlatNode, steps: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Steps as float32; of dead channels, which only give their bias, the finest that holds it."""
    dead = steps < _DEAD
    if dead.any():
        finest = 1.001 * np.abs(bias) / (float(grid_of(graph, node.inputs[0]).scale) * BIAS_MAX)
        steps = np.where(dead, np.maximum(finest, _DEAD), steps)
    return steps.astype(np.float32)


def fold_in_float(graph: FlatGraph, node: FlatNode) -> tuple[np.ndarray, np.ndarray, int]:
    """Folds a layer that stays in float with the BatchNorm that alone reads it, if one does.

    Returns:
        kernel: float32, output channels last; bias: float32, (channels,); the tensor that carries
        the folded result.
    """
    kernel, after = node.layer.kernel_outputs_last(), graph.norm_of(node)
    is_depthwise = operator_kind(node.layer) is OpKind.DEPTHWISE
    channels = int(np.prod(kernel.shape[-2:])) if is_depthwise else kernel.shape[-1]
    bias = np.zeros(channels) if node.layer.bias is None else as_float64(node.layer.bias)
    if after is None:
        return kernel, bias.astype(np.float32), node.outputs[0]
    gain, shift = batch_norm_affine(after.layer, channels)
    folded = (kernel.reshape(-1, channels) * gain).reshape(kernel.shape)
    bias = gain * bias + shift
    return folded.astype(np.float32), bias.astype(np.float32), after.outputs[0]


def _fold_affine(graph: FlatGraph, node: FlatNode, code: int | None) -> FoldedLayer:
    """Affine layers as one depthwise convolution; see `grids.affine`."""
    chain, channels = affine_chain(graph, node), node.shapes[0][-1] or 0
    gain, shift = compose(chain, channels)
    code = code or best_code(gain, shift, float(grid_of(graph, node.inputs[0]).scale))
    codes = np.where(np.abs(gain) / code < _DEAD, 0, np.where(gain < 0, -code, code))
    return FoldedLayer(
        node=node,
        batch_norm=chain[-1].layer,
        output=chain[-1].outputs[0],
        make_codes=lambda: codes.astype(np.int8).reshape(1, 1, channels, 1),
        scale=_scales(graph, node, np.abs(gain) / code, shift),
        bias=shift,
    )


def is_finite(layer: keras.layers.Layer) -> bool:
    """Returns whether all that a layer computes with is finite."""
    used = [variable for variable in layer.weights if variable.name != "evidence"]
    return all(np.isfinite(as_float64(variable)).all() for variable in used)
