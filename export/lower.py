"""From a DDQ Keras model to the integer graph: the one place that knows both.

Every operator writes the grid of the quantizer that follows it. BatchNorm folds into scale and
bias; activations need no operator: INT8 saturation at zero point -128 is the ReLU, and a range of
at most 6 the ReLU6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.lowering import elementwise, movers, weighted
from ddq_tf.export.lowering.builder import Lowering
from ddq_tf.graph import FlatGraph, FlatNode, flatten, grid_of
from ddq_tf.graph.affine import AFFINE, affine_chain, is_affine
from ddq_tf.graph.fold import is_finite, quantizer_after
from ddq_tf.graph.windows import stays_inside
from ddq_tf.layers import (
    FIXED_GRIDS,
    TABLES,
    DDQActivation,
    DDQBatchNormalization,
    DDQBorderGain,
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQFixedGrid,
    DDQRescaling,
    DDQSoftmax,
    DDQWeightedLayer,
    activation_name,
)

IO_TYPES: Mapping[str, DType] = {
    "int8": DType.INT8,
    "uint8": DType.UINT8,
    "float32": DType.FLOAT32,
}

_PAIRS = (keras.layers.Add, keras.layers.Multiply, keras.layers.Subtract)
_Rule = Callable[[Lowering, FlatNode], None]


_RULES: Mapping[type, _Rule] = {
    DDQActivation: elementwise.quantizer,
    DDQBatchNormalization: weighted.affine,
    DDQBorderGain: elementwise.border_gain,
    DDQConv2D: weighted.weighted,
    DDQConv2DTranspose: weighted.transposed,
    DDQDense: weighted.weighted,
    DDQDepthwiseConv2D: weighted.weighted,
    DDQFixedGrid: movers.alias,
    DDQRescaling: weighted.affine,
    DDQSoftmax: elementwise.softmax,
    keras.layers.Activation: elementwise.activation,
    keras.layers.ActivityRegularization: movers.alias,
    keras.layers.Add: elementwise.binary,
    keras.layers.AveragePooling2D: movers.average_pool,
    keras.layers.BatchNormalization: weighted.affine,
    keras.layers.Concatenate: movers.concatenate,
    keras.layers.Cropping2D: movers.crop,
    keras.layers.Dropout: movers.alias,
    keras.layers.Flatten: movers.reshape,
    keras.layers.GaussianDropout: movers.alias,
    keras.layers.GaussianNoise: movers.alias,
    keras.layers.GlobalAveragePooling2D: elementwise.global_average,
    keras.layers.GlobalMaxPooling2D: movers.global_max_pool,
    keras.layers.Identity: movers.alias,
    keras.layers.LeakyReLU: elementwise.leaky_relu,
    keras.layers.MaxPooling2D: movers.max_pool,
    keras.layers.Multiply: elementwise.binary,
    keras.layers.Permute: movers.permute,
    keras.layers.ReLU: elementwise.relu,
    keras.layers.Reshape: movers.reshape,
    keras.layers.SpatialDropout2D: movers.alias,
    keras.layers.Subtract: elementwise.binary,
    keras.layers.UpSampling2D: movers.upsample,
    keras.layers.ZeroPadding2D: movers.pad,
}


def lower(model: Any, *, input_type: str = "int8", output_type: str = "int8") -> Graph:
    """Returns the integer graph of a DDQ model; all weights still INT8.

    Args:
        model: as `quantize_model` returns it, or built from DDQ layers by hand.
        input_type: "int8", "uint8" or "float32".
        output_type: likewise.

    Raises:
        DDQError: naming every layer that has no integer form, if there are any.
    """
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in IO_TYPES:
            raise DDQError(f"{name} must be one of {sorted(IO_TYPES)}. Received: {value!r}")
    graph = flatten(model)
    raise_all(f"model {model.name!r} cannot be exported:", _problems(graph))
    lowering = Lowering(graph)
    lowering.enter(IO_TYPES[input_type])
    for node in graph.nodes:
        _RULES[type(node.layer)](lowering, node)
    return lowering.leave(IO_TYPES[output_type])


def _problems(graph: FlatGraph) -> list[str]:
    """One line for each layer that has no integer form where it stands."""
    found = []
    for tensor, name in zip(graph.inputs, graph.input_names, strict=True):
        if not all(isinstance(node.layer, DDQActivation) for node in graph.consumers(tensor)):
            found.append(f"input {name!r}: needs a DDQActivation as its only reader")
    for node in graph.nodes:
        problem = _problem(graph, node)
        if problem:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def _problem(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if type(layer) not in _RULES:
        return "has no integer form; quantize_model makes DDQ layers of Keras layers"
    if not is_finite(layer):
        return "holds NaN or infinite values: the training diverged"
    if isinstance(layer, DDQWeightedLayer):
        if activation_name(layer) != "linear":
            return "needs activation='linear' and a DDQActivation after it"
        return _needs_quantizer(graph, _end_of_block(graph, node))
    if type(layer) in AFFINE and is_affine(graph, node):
        return _needs_quantizer(graph, affine_chain(graph, node)[-1].outputs[0])
    if isinstance(layer, _PAIRS) and len(node.inputs) != 2:
        return f"needs exactly two inputs. Received: {len(node.inputs)}"
    own_grid = isinstance(layer, (*_PAIRS, DDQBorderGain, keras.layers.GlobalAveragePooling2D))
    if own_grid or stays_inside(node):
        return _needs_quantizer(graph, node.outputs[0])
    if isinstance(layer, keras.layers.Activation):
        return _needs_fixed_grid(graph, node)
    if isinstance(layer, keras.layers.Concatenate):
        return _needs_one_grid(graph, node)
    return None


def _needs_quantizer(graph: FlatGraph, tensor: int) -> str | None:
    if quantizer_after(graph, tensor) is not None:
        return None
    return "needs a DDQActivation as the only reader of its output"


def _needs_fixed_grid(graph: FlatGraph, node: FlatNode) -> str | None:
    name = activation_name(node.layer)
    if name == "linear":
        return None
    if name in TABLES:
        return _needs_quantizer(graph, node.outputs[0])
    after = graph.sole_consumer(node.outputs[0])
    if name in FIXED_GRIDS and after is not None and isinstance(after.layer, DDQFixedGrid):
        return None
    return (
        f"needs an activation among {sorted(FIXED_GRIDS)} with a DDQFixedGrid as its only reader, "
        f"or among {sorted(TABLES)} with a DDQActivation. Received: {name!r}"
    )


def _needs_one_grid(graph: FlatGraph, node: FlatNode) -> str | None:
    scales = {float(grid_of(graph, tensor).scale) for tensor in node.inputs}
    if len(scales) == 1:
        return None
    return f"needs all inputs from one shared DDQActivation. Received: scales {sorted(scales)}"


def _end_of_block(graph: FlatGraph, node: FlatNode) -> int:
    """The output of a weighted layer, or of the BatchNorm that follows it."""
    after = graph.sole_consumer(node.outputs[0])
    fused = after is not None and isinstance(after.layer, keras.layers.BatchNormalization)
    return after.outputs[0] if fused and after is not None else node.outputs[0]
