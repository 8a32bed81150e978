r"""Moving a trained model onto numbers for which integer arithmetic leaves no doubt.

Keras computes with floats, LiteRT with integers; they can only differ where a value lies so close
to the middle of two output codes that the last bits of a float decide. One such code changes many
in the next layer. So the model's free numbers move, by little more than a thousandth at most, to
where no value comes near a middle:

1. **ADD**: y = (s_a a + s_b b) / s_y. With all scales of connected additions integer multiples of
   one unit, and odd multiples n at their outputs, y is a multiple of 1/n, and |y - half| >= 1/2n.
2. **Weighted layers, means and products**: y = M * acc with an integer accumulator. With M = p/q,
   q odd, again |y - half| >= 1/2q. A weighted layer's M of 255 or more becomes 255, which saturates
   just as well: XNNPACK takes none of 256.
3. **Tables** (`grids.tables`): no value of the 256 comes nearer than 1e-3.
4. **Biases** are int32 in units of input scale times weight scale; they become integers. Where one
   would not fit, the weights' range is raised until it does.

5. **Weights** keep away from the middle of two levels: compiled code may divide by a step, or
   multiply by its reciprocal, and a last bit would choose the code.

`grids.relations` tells which scales move for which operator, `grids.limits` how far apart they may
be.

The margins 1/2n, 1/2q are about 5e-4 codes; float32 errs by about 1e-5.
"""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64, flatten
from ddq_tf.grids.affine import continues_chain, is_affine
from ddq_tf.grids.fold import BIAS_MAX, FoldedLayer, fold, grid_of, is_finite, quantizer_after
from ddq_tf.grids.fractions import odd_fraction
from ddq_tf.grids.limits import widen
from ddq_tf.grids.relations import GREATEST, meet
from ddq_tf.kinds.scales import batch_norm_affine
from ddq_tf.layers import DDQRescaling, rounds_kernel

_SMALL = 1e-4
_CLEAR = 2e-3
_LAST_BITS = np.float32(2.0**-18)
_TOWARDS_LEVEL = np.float32(2.0**-10)
_MOST_ROUNDS = 10
_PASSES = 3


def align(model: keras.Model) -> None:
    """Moves a DDQ model's scales and biases to tie-free values; see the module's text.

    Weight codes stay as they are: a kernel moves together with its range. A model that diverged,
    with NaN or infinite values, stays as it is. `aligned_digest` on the model tells later which
    weights were aligned.
    """
    graph = flatten(model)
    layers = {id(node.layer): node.layer for node in graph.nodes}.values()
    if not all(map(is_finite, layers)):
        return
    for _ in range(_PASSES):  # what the first has moved, the next ones bring to rest
        widen(graph)
        meet(graph)
    for nodes in _weighted(graph):
        for node in nodes:
            _make_room_for_bias(graph, node)
        codes, before = _codes(graph, nodes), None
        for _ in range(_MOST_ROUNDS):
            for node, code in zip(nodes, codes, strict=True):
                _align_multipliers(graph, node, code, shared=len(nodes) > 1)
                _align_bias(graph, node, code)
            codes, before = _codes(graph, nodes), codes
            if codes == before:
                break
        for node in nodes:
            _keep_from_middles(graph, node)
        if rounds_kernel(nodes[0].layer):
            _settle_weights(nodes[0].layer)
    aligned: Any = model
    aligned.aligned_digest = _digest(model)


def _codes(graph: FlatGraph, nodes: list[FlatNode]) -> list[int | None]:
    """Of affine layers the code that their bias asks for, which may change with what moves."""
    if rounds_kernel(nodes[0].layer):
        return [None] * len(nodes)
    return [int(np.abs(fold(graph, node).codes).max()) or 1 for node in nodes]


def align_if_needed(model: keras.Model) -> bool:
    """Aligns a model that something else than `fit` has trained since it was aligned.

    Returns:
        Whether it was needed.
    """
    if getattr(model, "aligned_digest", None) == _digest(model):
        return False
    align(model)
    return True


def _digest(model: keras.Model) -> str:
    """A fingerprint of all weights."""
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return digest.hexdigest()


def _weighted(graph: FlatGraph) -> list[list[FlatNode]]:
    """For each layer with gains or weights its calls: one for each BatchNorm behind it.

    Gains come first: a BatchNorm may stand alone and behind weights, which then follow it.
    """
    layers: dict[int, list[FlatNode]] = {}
    for node in graph.nodes:
        if _is_weighted(graph, node):
            layers.setdefault(id(node.layer), []).append(node)
    for key, nodes in layers.items():
        if len(nodes) > 1:
            norms = [(fold(graph, node).batch_norm, node) for node in nodes]
            different = {0 if norm is None else id(norm): node for norm, node in norms}
            # One without a BatchNorm has only the kernel to move: it comes first.
            layers[key] = [different[norm] for norm in sorted(different)]
    return sorted(layers.values(), key=lambda calls: rounds_kernel(calls[0].layer))


def _is_weighted(graph: FlatGraph, node: FlatNode) -> bool:
    if rounds_kernel(node.layer):
        return True
    return is_affine(graph, node) and not continues_chain(graph, node)


def _make_room_for_bias(graph: FlatGraph, node: FlatNode) -> None:
    """Raises weights' ranges, not the weights, until biases fit: codes of dead channels vanish."""
    if not rounds_kernel(node.layer):
        return
    folded = fold(graph, node)
    needed = np.abs(folded.bias) / (float(grid_of(graph, node.inputs[0]).scale) * BIAS_MAX) * 1.001
    factor = np.maximum(needed / folded.scale.astype(np.float64), 1.0)
    quantizer = node.layer.quantizer
    if (factor > 1).any():
        quantizer.rescale(factor if quantizer.per_channel else factor.max())


def _align_multipliers(graph: FlatGraph, node: FlatNode, code: int | None, *, shared: bool) -> None:
    """Moves each output channel's kernel and range: M = s_x s_w / s_y.

    Where several BatchNorms share a kernel, or its channels a range, the BatchNorm moves.
    """
    folded = fold(graph, node, code)
    reader = quantizer_after(graph, folded.output)
    if reader is None:
        return
    input_scale = float(grid_of(graph, node.inputs[0]).scale)
    ratio = input_scale / float(reader.layer.quantizer.export_scale())
    multiplier = folded.scale.astype(np.float64) * ratio
    live = multiplier > 1e-5
    factor = np.ones_like(multiplier)
    factor[live] = odd_fraction(np.minimum(multiplier[live], GREATEST)) / multiplier[live]
    is_kernel = rounds_kernel(node.layer)
    shares_range = is_kernel and not node.layer.quantizer.per_channel
    if shares_range and folded.batch_norm is None:
        factor[:] = factor[0]  # as all multipliers are
    if is_kernel and not ((shares_range or shared) and folded.batch_norm is not None):
        _scale_channels(node.layer, factor)
    else:
        _scale_affine(folded.batch_norm, factor)
    _keep_steps_of_bias(graph, folded, code, multiplier > GREATEST, input_scale)


def _keep_steps_of_bias(
    graph: FlatGraph,
    before: FoldedLayer,
    code: int | None,
    capped: np.ndarray,
    input_scale: float,
) -> None:
    """A step of the sum of which became smaller leaves its bias as many steps."""
    if not capped.any():
        return
    after = fold(graph, before.node, code)
    steps = np.rint(before.bias / (input_scale * before.scale.astype(np.float64)))
    wanted = np.clip(steps, 1 - BIAS_MAX, BIAS_MAX - 1) * input_scale * after.scale
    _shift_bias(graph, after, np.where(capped, wanted - after.bias, 0.0))


def _scale_affine(layer: Any, factor: np.ndarray) -> None:
    """Multiplies the gain of a BatchNorm or rescaling that stands alone."""
    if isinstance(layer, DDQRescaling):
        layer.gain.assign(as_float64(layer.gain) * factor)
    elif layer.scale:
        layer.gamma.assign(as_float64(layer.gamma) * factor)
    else:
        variance = as_float64(layer.moving_variance)
        moved = (variance + layer.epsilon) / factor**2 - layer.epsilon
        layer.moving_variance.assign(np.where(moved > 0, moved, variance))


def _scale_channels(layer: Any, factor: np.ndarray) -> None:
    """Multiplies each output channel's kernel and its ranges."""
    quantizer = layer.quantizer
    layer.kernel.assign(as_float64(layer.kernel) * factor.reshape(quantizer.channel_shape))
    quantizer.rescale(factor if quantizer.per_channel else factor[0])


def _align_bias(graph: FlatGraph, node: FlatNode, code: int | None) -> None:
    """Moves a folded bias to whole units of s_x s_w.

    One beyond what int32 sums hold stays: the export clips it.
    """
    folded = fold(graph, node, code)
    unit = np.float64(grid_of(graph, node.inputs[0]).scale) * folded.scale.astype(np.float64)
    units = folded.bias / unit
    representable = np.abs(units) < BIAS_MAX
    _shift_bias(graph, folded, np.where(representable, (np.rint(units) - units) * unit, 0.0))


def _keep_from_middles(graph: FlatGraph, node: FlatNode) -> None:
    """Shifts biases of which sums leave less than a step, so that none crosses a middle.

    Steps of sums so small (M < 1e-4) have no fraction p/q with margins that float32 resolves. But
    where all of a channel's sums lie within less than a code, one half of a code moves them.
    """
    folded = fold(graph, node)
    reader = quantizer_after(graph, folded.output)
    if reader is None:
        return
    grid = grid_of(graph, node.inputs[0])
    unit = float(grid.scale) * folded.scale.astype(np.float64)
    multiplier = unit / float(reader.layer.quantizer.export_scale())
    small = multiplier < _SMALL
    if not small.any():
        return
    codes = folded.codes.reshape(-1, small.size)[:, small].astype(np.int64)
    ends = np.stack([codes * grid.qmin, codes * grid.qmax])
    low, high = ends.min(axis=0).sum(axis=0), ends.max(axis=0).sum(axis=0)
    unit, multiplier, bias = unit[small], multiplier[small], folded.bias[small]
    middle = (bias / unit + (low + high) / 2) * multiplier
    reach = (high - low) / 2 * multiplier + _CLEAR
    # From the nearest whole number, sums may go as far as 1/2 less their reach.
    room = np.maximum(0.5 - reach, 0)
    wanted = np.rint(middle) + np.clip(middle - np.rint(middle), -room, room)
    steps = np.rint((wanted - middle) / multiplier)
    # A bias beyond int32 may move too: the export gives it coarser steps, still far below a code.
    shift = np.zeros(small.size)
    shift[small] = np.where(reach < 0.5, steps * unit, 0.0)
    _shift_bias(graph, folded, shift)


def _settle_weights(layer: Any) -> None:
    """Moves weights that a last bit would round otherwise a little towards the level they have."""
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel))
    # In one piece, along an axis that is not the channels'.
    ends = np.concatenate([kernel * (1 - _LAST_BITS), kernel * (1 + _LAST_BITS)])
    below, above = np.split(_on_levels(layer, ends), 2)
    # Levels do not depend on the kernel: where both are the same, so is what lies between.
    near = below != above
    if near.any():
        moved = kernel + _TOWARDS_LEVEL * (_on_levels(layer, kernel) - kernel)
        layer.kernel.assign(np.where(near, moved, kernel))


def _on_levels(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """What a kernel is rounded to."""
    rounded = layer.quantizer(keras.ops.convert_to_tensor(kernel))
    return np.asarray(keras.ops.convert_to_numpy(rounded))


def _shift_bias(graph: FlatGraph, folded: FoldedLayer, shift: np.ndarray) -> None:
    """Adds to a folded bias where that is free.

    That is beta, the moving mean of a BatchNorm without beta, or the layer's own bias: also of one
    whose BatchNorm stands elsewhere too.
    """
    norm, layer = folded.batch_norm, folded.node.layer
    is_own = norm is None or graph.calls(norm) <= graph.calls(layer)
    if not is_own and layer.bias is not None:
        gain, _ = batch_norm_affine(norm, shift.size)
        moved = np.divide(shift, gain, out=np.zeros_like(shift), where=gain != 0)
        layer.bias.assign(as_float64(layer.bias) + moved)
    elif isinstance(norm, DDQRescaling):
        norm.shift.assign(as_float64(norm.shift) + shift)
    elif norm is not None and norm.center:
        norm.beta.assign(as_float64(norm.beta) + shift)
    elif norm is not None:
        gain, _ = batch_norm_affine(norm, shift.size)
        moved = np.divide(shift, gain, out=np.zeros_like(shift), where=gain != 0)
        norm.moving_mean.assign(as_float64(norm.moving_mean) - moved)
    elif layer.bias is not None:
        layer.bias.assign(as_float64(layer.bias) + shift)
