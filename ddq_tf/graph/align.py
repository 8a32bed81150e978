r"""Moving a trained model onto numbers for which integer arithmetic leaves no doubt.

Keras computes with floats, LiteRT with integers; they can only differ where a value lies so close
to the middle of two output codes that the last bits of a float decide. One such code changes many
in the next layer. So the model's free numbers move, by less than a thousandth of themselves, to
where no value comes near a middle:

1. **ADD**: y = (s_a a + s_b b) / s_y. With all scales of connected additions integer multiples of
   one unit, and odd multiples n at their outputs, y is a multiple of 1/n, and |y - half| >= 1/2n.
2. **Weighted layers and means**: y = M * acc with an integer accumulator. With M = p/q, q odd,
   again |y - half| >= 1/2q.
3. **Biases** are int32 in units of input scale times weight scale; they become integers.

The margins 1/2n, 1/2q are about 5e-4 codes; float32 errs by about 1e-5.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ddq_tf.graph.flatten import FlatGraph, FlatNode, flatten
from ddq_tf.graph.fold import (
    BIAS_MAX,
    as_float64,
    batch_norm_affine,
    fold,
    grid_of,
    is_finite,
    source_of,
)
from ddq_tf.layers import DDQActivation, DDQWeightedLayer
from ddq_tf.quantizers import ActivationQuantizer

_LARGEST = 1023


def align(model: keras.Model) -> None:
    """Moves a DDQ model's scales and biases to tie-free values; see the module's text.

    Weight codes stay as they are: a kernel moves together with its range. Repeating it changes
    nothing more. A model that diverged, with NaN or infinite values, stays as it is.
    """
    graph = flatten(model)
    if not all(is_finite(node.layer) for node in graph.nodes):
        return
    _align_additions(graph)
    for node in graph.nodes:
        if _is_mean(graph, node):
            _align_mean(graph, node)
    weighted = {
        id(node.layer): node for node in graph.nodes if isinstance(node.layer, DDQWeightedLayer)
    }
    for node in weighted.values():
        _align_multipliers(graph, node)
        _align_bias(graph, node)


def odd_fraction(values: np.ndarray) -> np.ndarray:
    """Returns the nearest fractions p/q with an odd q of at most 1023 (more for small values).

    Args:
        values: float64 > 0, any shape.

    Returns:
        float64, the same shape; within a relative 1e-3, mostly far closer.
    """
    values = np.asarray(values, np.float64)
    limit = np.maximum(_LARGEST, 3.01 / values)  # a little more than 3: 3/q itself must stay
    best = np.zeros_like(values)
    best_error = np.full(values.shape, np.inf)
    numerators = int(np.ceil(np.max(limit * values, initial=1.0)))
    for p in range(1, numerators + 1):
        q = 2 * np.rint((p / values - 1) / 2) + 1
        q = np.maximum(q, 1)
        error = np.where(q <= limit, np.abs(p / q / values - 1), np.inf)
        better = error < best_error * (1 - 1e-9)
        best = np.where(better, p / q, best)
        best_error = np.where(better, error, best_error)
    return np.where(np.isfinite(best_error), best, values)


def _align_additions(graph: FlatGraph) -> None:
    """Gives each set of connected additions one unit."""
    for group in _connected_additions(graph):
        scales = {id(q): float(q.export_scale()) for q, _ in group}
        outputs = {id(q) for q, is_output in group if is_output}
        unit = max(scales.values()) / _LARGEST
        for quantizer in {id(q): q for q, _ in group}.values():
            multiple = scales[id(quantizer)] / unit
            if id(quantizer) in outputs:
                whole = 2 * np.rint((multiple - 1) / 2) + 1
            else:
                whole = np.rint(multiple) if quantizer.ceiling is None else np.floor(multiple)
            quantizer.rescale(max(whole, 1.0) / multiple)


def _connected_additions(
    graph: FlatGraph,
) -> list[list[tuple[ActivationQuantizer, bool]]]:
    """Returns the quantizers around additions, those that share one together, and their role."""
    groups: list[list[tuple[ActivationQuantizer, bool]]] = []
    for node in graph.nodes:
        if not isinstance(node.layer, keras.layers.Add):
            continue
        sources = [source_of(graph, tensor) for tensor in node.inputs]
        around = [(s.quantizer, False) for s in sources if isinstance(s, DDQActivation)]
        reader = graph.sole_consumer(node.outputs[0])
        if reader is not None and isinstance(reader.layer, DDQActivation):
            around.append((reader.layer.quantizer, True))
        names = {id(q) for q, _ in around}
        joined = [g for g in groups if names & {id(q) for q, _ in g}]
        groups = [g for g in groups if g not in joined]
        groups.append([*around, *(member for g in joined for member in g)])
    return groups


def _is_mean(graph: FlatGraph, node: FlatNode) -> bool:
    """Whether a layer averages its whole input to a grid of its own."""
    if isinstance(node.layer, keras.layers.GlobalAveragePooling2D):
        return True
    pooling = isinstance(node.layer, keras.layers.AveragePooling2D)
    return pooling and tuple(node.shapes[0][1:3]) == tuple(node.layer.pool_size)


def _align_mean(graph: FlatGraph, node: FlatNode) -> None:
    """Moves the output scale of a mean over N values: M = s_x / (N s_y)."""
    reader = graph.sole_consumer(node.outputs[0])
    sizes = node.shapes[0][1:3]
    if reader is None or not isinstance(reader.layer, DDQActivation) or None in sizes:
        return
    count = float(np.prod([size or 1 for size in sizes]))
    quantizer = reader.layer.quantizer
    multiplier = float(grid_of(graph, node.inputs[0]).scale) / count
    multiplier /= float(quantizer.export_scale())
    quantizer.rescale(multiplier / float(odd_fraction(np.array(multiplier))))


def _align_multipliers(graph: FlatGraph, node: FlatNode) -> None:
    """Moves each output channel's kernel and range: M = s_x s_w / s_y."""
    folded = fold(graph, node)
    reader = graph.sole_consumer(folded.output)
    if reader is None or not isinstance(reader.layer, DDQActivation):
        return
    ratio = float(grid_of(graph, node.inputs[0]).scale)
    ratio /= float(reader.layer.quantizer.export_scale())
    multiplier = folded.scale.astype(np.float64) * ratio
    live = multiplier > 1e-5
    factor = np.ones_like(multiplier)
    factor[live] = odd_fraction(multiplier[live]) / multiplier[live]
    _scale_channels(node.layer, factor)


def _scale_channels(layer: Any, factor: np.ndarray) -> None:
    """Multiplies each output channel's kernel and its ranges."""
    quantizer = layer.quantizer
    shaped = factor.reshape(quantizer.base_range.shape[1:])
    layer.kernel.assign(as_float64(layer.kernel) * shaped)
    quantizer.base_range.assign(as_float64(quantizer.base_range) * shaped)


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
    if norm is not None and norm.center:
        norm.beta.assign(as_float64(norm.beta) + shift)
    elif norm is not None:
        gain, _ = batch_norm_affine(norm, shift.size)
        moved = np.divide(shift, gain, out=np.zeros_like(shift), where=gain != 0)
        norm.moving_mean.assign(as_float64(norm.moving_mean) - moved)
    elif layer.bias is not None:
        layer.bias.assign(as_float64(layer.bias) + shift)
