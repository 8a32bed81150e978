"""What each precision of each layer takes in time, by a table of measured operators."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
import numpy as np

from ddq_tf.config import DDQConfig
from ddq_tf.errors import raise_all
from ddq_tf.graph import flatten
from ddq_tf.latency import MAKE, LatencyTable, OperatorShape
from ddq_tf.layers import operator_shape, rounds_kernel, weighted_layers
from ddq_tf.scheme import MAX_BITS
from ddq_tf.targets import Target

_NS_PER_US = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """Times in whole nanoseconds, whose sums are exact, of one example.

    Attributes:
        by_precision: per layer, shape (precisions,): of all its calls.
        int8: of all layers with INT8 weights.
    """

    by_precision: tuple[np.ndarray, ...]
    int8: float


def layer_shapes(model: keras.Model, target: Target) -> dict[str, list[OperatorShape]]:
    """Returns the operators that a DDQ model's layers become, one for each call.

    Args:
        model: a DDQ model.
        target: where the file will run.

    Returns:
        By layer.
    """
    found: dict[str, list[OperatorShape]] = collections.defaultdict(list)
    for node in flatten(model).nodes:
        if rounds_kernel(node.layer):
            in_rows = target.fully_connected_pointwise
            found[node.layer.name].append(
                operator_shape(node.layer, node.shapes[0], in_rows=in_rows)
            )
    return dict(found)


def layer_times(model: keras.Model, config: DDQConfig) -> LayerTimes | None:
    """Returns what the layers of a DDQ model take; None without a table.

    Args:
        model: a DDQ model.
        config: of it, with its table.

    Raises:
        DDQError: naming all layers that the table has no row for.
    """
    table, target = config.latency_table, config.resolved_target
    if not isinstance(table, LatencyTable):
        return None
    shapes = layer_shapes(model, target)
    layers = weighted_layers(model)
    problems = [
        words for layer in layers for words in _problems(layer, shapes[layer.name], table, target)
    ]
    raise_all(
        f"latency_table ({table.origin}) does not tell the time of all layers. Make one of this "
        f"model: {MAKE}, with the .keras file of the float or of the DDQ model as MODEL:",
        problems,
    )
    return LayerTimes(
        by_precision=tuple(
            np.array([_ns(table, shapes[layer.name], bits) for bits in _stored(layer, target)])
            for layer in layers
        ),
        int8=sum(_ns(table, shapes[layer.name], MAX_BITS) for layer in layers),
    )


def _stored(layer: Any, target: Target) -> list[int]:
    """The widths that a layer's precisions are stored in."""
    row = layer.quantizer.weights_per_channel
    return [target.stored_bits(layer.kind, bits, row) for bits in layer.quantizer.precisions]


def _problems(
    layer: Any, shapes: list[OperatorShape], table: LatencyTable, target: Target
) -> list[str]:
    """What of a layer a table does not tell."""
    name = f"layer {layer.name!r} ({type(layer).__name__})"
    widths = sorted({*_stored(layer, target), MAX_BITS})
    missing: dict[OperatorShape, list[str]] = {}
    for shape in dict.fromkeys(shapes):
        lacking = [str(bits) for bits in widths if table.us(shape, bits) is None]
        if lacking:
            missing[shape] = lacking
    return [f"{name}: no row of {shape}, {' and '.join(w)} bits" for shape, w in missing.items()]


def _ns(table: LatencyTable, shapes: list[OperatorShape], bits: int) -> float:
    times = (table.us(shape, bits) for shape in shapes)
    return float(sum(round(us * _NS_PER_US) for us in times if us is not None))
