"""Which Keras layers can be quantized, and what is wrong with the others.

One table, keyed by exact type: a user's subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.layers import DDQActivation, DDQWeightedLayer

WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
IDENTITIES = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
)
MOVERS = (
    keras.layers.MaxPooling2D,
    keras.layers.ZeroPadding2D,
    keras.layers.Flatten,
    keras.layers.Reshape,
)
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.Softmax)
_FUSED = ("linear", "relu", "relu6")


def activation_kind(layer: Any) -> str | None:
    """Returns "linear", "relu", "relu6" or "softmax" for an activation, None for others.

    Args:
        layer: an activation layer, or a layer with an `activation` argument.
    """
    if isinstance(layer, keras.layers.ReLU):
        plain = not layer.negative_slope and not layer.threshold
        if not plain or layer.max_value not in (None, 6, 6.0):
            return None
        return "relu6" if layer.max_value else "relu"
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis == -1 else None
    name = keras.activations.serialize(layer.activation)
    if not isinstance(name, str):
        return None
    return name if name in (*_FUSED, "softmax") else None


def _check_weighted(layer: Any) -> str | None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    if getattr(layer, "groups", 1) != 1:
        return f"needs groups=1. Received: groups={layer.groups}"
    if getattr(layer, "padding", "valid") not in ("valid", "same"):
        return f"needs padding 'valid' or 'same'. Received: padding={layer.padding!r}"
    if activation_kind(layer) is None:
        name = keras.activations.serialize(layer.activation)
        return f"needs activation linear, relu, relu6 or softmax. Received: activation={name!r}"
    return None


def _check_activation(layer: Any) -> str | None:
    if activation_kind(layer) is not None:
        return None
    return (
        "needs to be relu, relu6, linear or softmax over the last axis. "
        f"Received: {_short_config(layer)}"
    )


def _check_batch_norm(layer: Any) -> str | None:
    if layer.axis not in (-1, 3) and not (layer.axis == 1 and len(layer.input_spec.axes) == 1):
        return f"needs axis=-1. Received: axis={layer.axis}"
    return None


def _check_pooling(layer: Any) -> str | None:
    if layer.data_format != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    return None


def _no_check(layer: Any) -> str | None:
    return None


_CHECKS: dict[type, Callable[[Any], str | None]] = {
    **dict.fromkeys(WEIGHTED, _check_weighted),
    **dict.fromkeys(IDENTITIES, _no_check),
    **dict.fromkeys(ACTIVATIONS, _check_activation),
    keras.layers.Flatten: _no_check,
    keras.layers.Reshape: _no_check,
    keras.layers.MaxPooling2D: _check_pooling,
    keras.layers.ZeroPadding2D: _check_pooling,
    keras.layers.AveragePooling2D: _check_pooling,
    keras.layers.GlobalAveragePooling2D: _check_pooling,
    keras.layers.BatchNormalization: _check_batch_norm,
    keras.layers.Add: _no_check,
}


def problems_of(graph: FlatGraph) -> list[str]:
    """Returns one line for every layer that cannot be quantized."""
    found = []
    for node in graph.nodes:
        problem = _problem_of(graph, node)
        if problem is not None:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def _problem_of(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if isinstance(layer, DDQWeightedLayer | DDQActivation):
        return "is quantized already; quantize_model takes the float model"
    check = _CHECKS.get(type(layer))
    if check is None:
        names = ", ".join(sorted(t.__name__ for t in _CHECKS))
        return f"has no integer form here; supported are {names}"
    if isinstance(layer, keras.layers.Add) and len(node.inputs) != 2:
        return f"needs exactly two inputs; chain several. Received: {len(node.inputs)}"
    return check(layer) or _misplaced(graph, node)


def _misplaced(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with where a fusable layer stands."""
    before = graph.producer(node.inputs[0])
    alone = before is not None and graph.sole_consumer(node.inputs[0]) is node
    if isinstance(node.layer, keras.layers.BatchNormalization):
        fusable = before is not None and isinstance(before.layer, WEIGHTED) and alone
        if not fusable or activation_kind(before.layer) != "linear":
            return (
                "needs to follow a convolution or dense layer without activation, as its only "
                f"reader. Received: it follows {_describe(before)}"
            )
    if isinstance(node.layer, ACTIVATIONS) and activation_kind(node.layer) in ("relu", "relu6"):
        fused = (*WEIGHTED, keras.layers.BatchNormalization, keras.layers.Add)
        if before is None or not isinstance(before.layer, fused) or not alone:
            return (
                "needs to follow a convolution, dense layer, BatchNormalization or Add, as its "
                f"only reader. Received: it follows {_describe(before)}"
            )
    return None


def _describe(node: FlatNode | None) -> str:
    return "the model's input" if node is None else f"{node.name!r} ({type(node.layer).__name__})"


def _short_config(layer: Any) -> str:
    config = layer.get_config()
    kept = {k: v for k, v in config.items() if k not in ("name", "trainable", "dtype")}
    return ", ".join(f"{k}={v!r}" for k, v in kept.items())
