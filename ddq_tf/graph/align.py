r"""Moving a trained model onto numbers for which integer arithmetic leaves no doubt.

Keras computes with floats, LiteRT with integers; they can only differ where a value lies so close
to the middle of two output codes that the last bits of a float decide. One such code changes many
in the next layer. So the model's free numbers move, by little more than a thousandth at most, to
where no value comes near a middle:

1. **ADD**: y = (s_a a + s_b b) / s_y. With all scales of connected additions integer multiples of
   one unit, and odd multiples n at their outputs, y is a multiple of 1/n, and |y - half| >= 1/2n.
2. **Weighted layers, means and products**: y = M * acc with an integer accumulator. With M = p/q,
   q odd, again |y - half| >= 1/2q.
3. **Changes of grid**: QUANTIZE multiplies by r/256; with s_x / s_y = r/256 and r odd it is exact.
4. **Tables** (`graph.tables`): no value of the 256 comes nearer than 1e-3.
5. **Biases** are int32 in units of input scale times weight scale; they become integers.

The margins 1/2n, 1/2q are about 5e-4 codes; float32 errs by about 1e-5.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ddq_tf.graph.affine import as_float64, batch_norm_affine, continues_chain, is_affine
from ddq_tf.graph.flatten import FlatGraph, FlatNode, flatten
from ddq_tf.graph.fold import (
    BIAS_MAX,
    fold,
    grid_of,
    is_finite,
    quantizer_after,
    source_of,
)
from ddq_tf.graph.tables import FUNCTIONS, input_factor, output_factor
from ddq_tf.graph.windows import stays_inside
from ddq_tf.layers import (
    FIXED_GRIDS,
    DDQActivation,
    DDQBorderGain,
    DDQFixedGrid,
    DDQRescaling,
    DDQWeightedLayer,
    activation_name,
)
from ddq_tf.quantizers import ActivationQuantizer

_LARGEST = 1023
_ABOVE = 1 + 1.4e-3  # no odd fraction nearest to this multiple of a value lies below the value
_MOVERS = (
    keras.layers.MaxPooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.ReLU,
    keras.layers.UpSampling2D,
    keras.layers.Dropout,
)


def align(model: keras.Model) -> None:
    """Moves a DDQ model's scales and biases to tie-free values; see the module's text.

    Weight codes stay as they are: a kernel moves together with its range. Repeating it changes
    nothing more. A model that diverged, with NaN or infinite values, stays as it is.
    """
    graph = flatten(model)
    if not all(is_finite(node.layer) for node in graph.nodes):
        return
    settled: set[int] = set()
    _align_additions(graph, settled)
    for node in graph.nodes:
        _align_ratio(graph, node, settled)
    weighted = {id(node.layer): node for node in graph.nodes if _is_weighted(graph, node)}
    for node in weighted.values():
        _align_multipliers(graph, node)
        _align_bias(graph, node)


def odd_fraction(values: np.ndarray) -> np.ndarray:
    """Returns the nearest fractions p/q with an odd q of at most 1023 (more for small values).

    Args:
        values: float64 > 0, any shape.

    Returns:
        float64, the same shape; within a relative 4 / (3 * 1023) = 1.3e-3, mostly far closer.
        (Worst next to 1/n with even n: p n - 1 or p n + 1 must do for the largest p that fits.)
    """
    values = np.asarray(values, np.float64)
    limit = np.maximum(_LARGEST, 3.01 / values)  # a little more than 3: 3/q itself must stay
    largest_odd = 2 * np.floor((limit - 1) / 2) + 1
    best = np.zeros_like(values)
    best_error = np.full(values.shape, np.inf)
    for step in range(1, _LARGEST + 1):
        # Below 1 the numerators are few, above 1 the denominators are.
        odd = 2 * np.rint((step / values - 1) / 2) + 1
        q = np.where(values > 1, 2 * step - 1, np.clip(odd, 1, largest_odd))
        p = np.where(values > 1, np.rint(q * values), step)
        error = np.where(q <= largest_odd, np.abs(p / q / values - 1), np.inf)
        better = error < best_error * (1 - 1e-9)
        best = np.where(better, p / q, best)
        best_error = np.where(better, error, best_error)
    return best


def _is_weighted(graph: FlatGraph, node: FlatNode) -> bool:
    if isinstance(node.layer, DDQWeightedLayer):
        return True
    return is_affine(graph, node) and not continues_chain(graph, node)


def _align_additions(graph: FlatGraph, settled: set[int]) -> None:
    """Gives each set of connected additions one unit."""
    for group in _connected_additions(graph):
        scales = {id(q): float(q.export_scale()) for q, _ in group}
        outputs = {id(q) for q, is_output in group if is_output}
        settled.update(scales)
        unit = max(scales.values()) / _LARGEST
        for quantizer in {id(q): q for q, _ in group}.values():
            multiple = scales[id(quantizer)] / unit
            # A range at its ceiling has only downwards to go.
            rounded = np.rint if quantizer.ceiling is None else np.floor
            if id(quantizer) in outputs:
                whole = 2 * rounded((multiple - 1) / 2) + 1
            else:
                whole = rounded(multiple)
            quantizer.rescale(max(whole, 1.0) / multiple)


def _connected_additions(
    graph: FlatGraph,
) -> list[list[tuple[ActivationQuantizer, bool]]]:
    """Returns the quantizers around additions, those that share one together, and their role."""
    groups: list[list[tuple[ActivationQuantizer, bool]]] = []
    for node in graph.nodes:
        if not isinstance(node.layer, keras.layers.Add | keras.layers.Subtract):
            continue
        sources = [source_of(graph, tensor) for tensor in node.inputs]
        around = [(s.quantizer, False) for s in sources if isinstance(s, DDQActivation)]
        reader = quantizer_after(graph, node.outputs[0])
        if reader is not None:
            around.append((reader.layer.quantizer, True))
        names = {id(q) for q, _ in around}
        joined = [g for g in groups if names & {id(q) for q, _ in g}]
        groups = [g for g in groups if g not in joined]
        groups.append([*around, *(member for g in joined for member in g)])
    return groups


def _align_ratio(graph: FlatGraph, node: FlatNode, settled: set[int]) -> None:
    """Moves the output scale of an operator without weights to an odd fraction of its inputs'.

    A quantizer moves once; the scales that a fraction was taken of stay from then on.
    """
    if isinstance(node.layer, keras.layers.Activation):
        _align_hard_sigmoid(graph, node, settled)
        _align_table(graph, node, settled)
        return
    factor, denominators = _own_factor(graph, node)
    after = node if isinstance(node.layer, DDQActivation) else None
    after = after or quantizer_after(graph, node.outputs[0])
    if factor is None or after is None:
        return
    sources = [source_of(graph, tensor) for tensor in node.inputs]
    multiplier = factor * float(np.prod([grid_of(graph, t).scale for t in node.inputs]))
    quantizer = after.layer.quantizer
    multiplier /= float(quantizer.export_scale())
    if id(quantizer) not in settled:
        wanted = multiplier if quantizer.ceiling is None else multiplier * _ABOVE
        quantizer.rescale(multiplier / denominators(np.array(wanted)))
    settled.add(id(quantizer))
    settled.update(id(s.quantizer) for s in sources if isinstance(s, DDQActivation))


def _align_hard_sigmoid(graph: FlatGraph, node: FlatNode, settled: set[int]) -> None:
    """Moves the input scale so that 1/2 is an odd number of steps of the sum (64 x / 6)."""
    source = source_of(graph, node.inputs[0])
    if activation_name(node.layer) != "hard_sigmoid" or not isinstance(source, DDQActivation):
        return
    quantizer = source.quantizer
    steps = 192 / float(quantizer.export_scale())
    if id(quantizer) not in settled:
        quantizer.rescale(steps / (2 * np.rint((steps - 1) / 2) + 1))
    settled.add(id(quantizer))


def _align_table(graph: FlatGraph, node: FlatNode, settled: set[int]) -> None:
    """Moves the scale of a table's output, or of its input where that of the output is fixed."""
    name, grid = activation_name(node.layer), grid_of(graph, node.inputs[0])
    if name is None or name not in FUNCTIONS:
        return
    source, after = source_of(graph, node.inputs[0]), quantizer_after(graph, node.outputs[0])
    fixed = name in FIXED_GRIDS
    moved = source if fixed else after and after.layer
    if isinstance(moved, DDQActivation) and id(moved.quantizer) not in settled:
        quantizer = moved.quantizer
        if fixed:
            quantizer.rescale(input_factor(name, grid, FIXED_GRIDS[name][0]))
        else:
            quantizer.rescale(output_factor(name, grid, float(quantizer.export_scale())))
        settled.add(id(quantizer))
    if isinstance(source, DDQActivation):
        settled.add(id(source.quantizer))


def _own_factor(graph: FlatGraph, node: FlatNode) -> tuple[float | None, Any]:
    """What an operator multiplies the product of its inputs with, and the fractions it wants."""
    layer = node.layer
    if isinstance(layer, DDQActivation):
        before = graph.producer(node.inputs[0])
        moves = before is not None and _keeps_grid(graph, node)
        return (1.0 if moves else None), _odd_256ths
    if isinstance(layer, DDQBorderGain):
        return layer.scale, odd_fraction
    if isinstance(layer, keras.layers.Multiply):
        return 1.0, odd_fraction
    if isinstance(layer, keras.layers.GlobalAveragePooling2D):
        sizes = node.shapes[0][1:3]
        return (None if None in sizes else 1 / float(np.prod(np.array(sizes)))), odd_fraction
    if stays_inside(node):
        return 1 / float(np.prod(layer.pool_size)), odd_fraction
    return None, odd_fraction


def _keeps_grid(graph: FlatGraph, node: FlatNode) -> bool:
    """Whether a quantizer reads a tensor that lies on another quantizer's grid already."""
    tensor = node.inputs[0]
    while (before := graph.producer(tensor)) is not None:
        if isinstance(before.layer, DDQActivation | DDQFixedGrid):
            return before.layer is not node.layer
        if type(before.layer) not in _MOVERS:
            return False
        tensor = before.inputs[0]
    return False


def _odd_256ths(ratio: np.ndarray) -> float:
    """The nearest odd multiple of 1/256."""
    return float(max(2 * np.rint((ratio * 256 - 1) / 2) + 1, 1) / 256)


def _align_multipliers(graph: FlatGraph, node: FlatNode) -> None:
    """Moves each output channel's kernel and range: M = s_x s_w / s_y."""
    folded = fold(graph, node)
    reader = quantizer_after(graph, folded.output)
    if reader is None:
        return
    ratio = float(grid_of(graph, node.inputs[0]).scale)
    ratio /= float(reader.layer.quantizer.export_scale())
    multiplier = folded.scale.astype(np.float64) * ratio
    live = multiplier > 1e-5
    factor = np.ones_like(multiplier)
    factor[live] = odd_fraction(multiplier[live]) / multiplier[live]
    shares_range = isinstance(node.layer, DDQWeightedLayer) and not node.layer.quantizer.per_channel
    if shares_range and folded.batch_norm is None:
        factor[:] = factor[0]  # as all multipliers are
    if isinstance(node.layer, DDQWeightedLayer) and not (shares_range and folded.batch_norm):
        _scale_channels(node.layer, factor)
    else:
        _scale_affine(folded.batch_norm, factor)


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


def _align_bias(graph: FlatGraph, node: FlatNode) -> None:
    """Moves a folded bias to whole units of s_x s_w.

    The shift is applied where it is free: to beta, to the moving mean of a BatchNorm without beta,
    or to the layer's own bias.
    """
    folded = fold(graph, node)
    unit = np.float64(grid_of(graph, node.inputs[0]).scale) * folded.scale.astype(np.float64)
    units = folded.bias / unit
    representable = np.abs(units) < BIAS_MAX
    shift = np.where(representable, (np.rint(units) - units) * unit, 0.0)
    norm, layer = folded.batch_norm, node.layer
    if isinstance(norm, DDQRescaling):
        norm.shift.assign(as_float64(norm.shift) + shift)
    elif norm is not None and norm.center:
        norm.beta.assign(as_float64(norm.beta) + shift)
    elif norm is not None:
        gain, _ = batch_norm_affine(norm, shift.size)
        moved = np.divide(shift, gain, out=np.zeros_like(shift), where=gain != 0)
        norm.moving_mean.assign(as_float64(norm.moving_mean) - moved)
    elif layer.bias is not None:
        layer.bias.assign(as_float64(layer.bias) + shift)
