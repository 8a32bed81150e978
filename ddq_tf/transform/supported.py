"""Which Keras layers can be quantized, and what is wrong with the others.

One table, keyed by exact type: a user's subclass may compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras.src.ops import numpy as operations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.windows import upsampling_fractions
from ddq_tf.layers import (
    FIXED_GRIDS,
    TABLES,
    DDQActivation,
    DDQBorderGain,
    DDQFixedGrid,
    DDQRescaling,
    DDQWeightedLayer,
    activation_name,
)
from ddq_tf.transform.canonical import CASES, WEIGHTED
from ddq_tf.transform.sequences import SEQUENCE_LAYERS

IDENTITIES = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
)
PAIRS = (keras.layers.Add, keras.layers.Multiply, keras.layers.Subtract)
ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, keras.layers.Softmax)
FUSED = ("linear", "relu", "relu6", "clipped_relu")
_KNOWN = (*FUSED, "softmax", "leaky_relu", "silu", "hard_silu", *FIXED_GRIDS, *TABLES)

_Check = Callable[[FlatNode], str | None]


def fused_kind(layer: Any) -> str:
    """Returns the activation that a layer does itself: "linear", "relu" or "relu6"."""
    name = activation_name(layer)
    return name if name in FUSED else "linear"


def _check_weighted(node: FlatNode) -> str | None:
    layer = node.layer
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    if getattr(layer, "padding", "valid") not in ("valid", "same"):
        return f"needs padding 'valid' or 'same'. Received: padding={layer.padding!r}"
    if activation_name(layer) not in _KNOWN:
        name = keras.activations.serialize(layer.activation)
        return f"needs an activation among {', '.join(_KNOWN)}. Received: activation={name!r}"
    return None


def _check_transposed(node: FlatNode) -> str | None:
    layer = node.layer
    if layer.output_padding is not None and any(layer.output_padding):
        return f"needs output_padding=None. Received: output_padding={layer.output_padding}"
    if any(rate != 1 for rate in layer.dilation_rate):
        return f"needs dilation_rate=1. Received: dilation_rate={layer.dilation_rate}"
    if None in node.shapes[0][1:]:
        return f"needs a fixed image size. Received: shape {node.shapes[0]}"
    return _check_weighted(node)


def _check_elu(node: FlatNode) -> str | None:
    return f"needs alpha=1. Received: alpha={node.layer.alpha}"


def _check_sequence(node: FlatNode) -> str | None:
    return (
        "needs sequences of a fixed length, channels last. "
        f"Received: shape {node.shapes[0]}, {node.layer.data_format}"
    )


def _check_activation(node: FlatNode) -> str | None:
    name = activation_name(node.layer)
    if name not in _KNOWN:
        return (
            f"needs to be one of {', '.join(_KNOWN)}, a softmax over the last axis. "
            f"Received: {_short_config(node.layer)}"
        )
    if name == "hard_sigmoid" and len(node.shapes[0]) != 4:
        return f"needs images (rank 4) for {name}. Received: shape {node.shapes[0]}"
    return None


def _check_affine(node: FlatNode) -> str | None:
    if isinstance(node.layer, keras.layers.BatchNormalization):
        rank = len(node.shapes[0])
        if node.layer.axis not in (-1, rank - 1):
            return f"needs axis=-1. Received: axis={node.layer.axis}"
    return None


def _check_normalization(node: FlatNode) -> str | None:
    layer = node.layer
    if layer.mean is None:
        return "needs its mean and variance: call adapt() first. Received: none"
    return (
        f"needs one mean and variance, or one per channel ({node.shapes[0][-1]}). "
        f"Received: shape {tuple(layer.mean.shape)}"
    )


def _check_channels_last(node: FlatNode) -> str | None:
    if node.layer.data_format != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    return None


def _check_upsampling(node: FlatNode) -> str | None:
    layer = node.layer
    if layer.interpolation not in ("nearest", "bilinear"):
        return (
            "needs interpolation 'nearest' or 'bilinear'. "
            f"Received: interpolation={layer.interpolation!r}"
        )
    if layer.interpolation == "bilinear" and upsampling_fractions(node) is None:
        return (
            "needs factors of 1, 2, 4, 8 or 16 to be bilinear: LiteRT rounds the weights of others."
            f" Received: size={layer.size}"
        )
    return _check_static(node)


def _check_concatenate(node: FlatNode) -> str | None:
    if node.layer.axis == 0:
        return "needs another axis than the batch. Received: axis=0"
    return None


def _check_static(node: FlatNode) -> str | None:
    if None in node.shapes[0][1:]:
        return f"needs a fixed image size. Received: shape {node.shapes[0]}"
    return _check_channels_last(node)


def _check_pair(node: FlatNode) -> str | None:
    if len(node.inputs) != 2:
        return f"needs exactly two inputs; chain several. Received: {len(node.inputs)}"
    return None


def _check_operation(node: FlatNode) -> str | None:
    received = [type(c).__name__ for c in node.constants if c is not None]
    return f"needs two tensors, or a tensor and a number. Received: {', '.join(received)}"


def _check_clip(node: FlatNode) -> str | None:
    layer = node.layer
    return (
        "needs to clip to 0 and a number > 0, as a clipped ReLU does. "
        f"Received: {layer.x_min!r} and {layer.x_max!r}"
    )


def _no_check(node: FlatNode) -> str | None:
    return None


_CHECKS: dict[type, _Check] = {
    **dict.fromkeys(WEIGHTED, _check_weighted),
    **dict.fromkeys(SEQUENCE_LAYERS, _check_sequence),
    keras.layers.Conv2DTranspose: _check_transposed,
    keras.layers.ELU: _check_elu,
    **dict.fromkeys(IDENTITIES, _no_check),
    **dict.fromkeys(ACTIVATIONS, _check_activation),
    **dict.fromkeys(PAIRS, _check_pair),
    operations.Add: _check_operation,
    operations.Subtract: _check_operation,
    operations.Multiply: _check_operation,
    operations.Clip: _check_clip,
    keras.layers.LeakyReLU: _no_check,
    keras.layers.Flatten: _no_check,
    keras.layers.Reshape: _no_check,
    keras.layers.Permute: _no_check,
    keras.layers.Concatenate: _check_concatenate,
    keras.layers.MaxPooling2D: _check_channels_last,
    keras.layers.ZeroPadding2D: _check_channels_last,
    keras.layers.Cropping2D: _check_static,
    keras.layers.AveragePooling2D: _check_channels_last,
    keras.layers.GlobalAveragePooling2D: _check_channels_last,
    keras.layers.GlobalMaxPooling2D: _check_static,
    keras.layers.UpSampling2D: _check_upsampling,
    keras.layers.BatchNormalization: _check_affine,
    keras.layers.Normalization: _check_normalization,
    DDQBorderGain: _no_check,
    DDQRescaling: _check_affine,
}
SUPPORTED = sorted(
    {kind.__name__ for kind in (*_CHECKS, *CASES) if kind.__module__.startswith("keras.src.layers")}
)


def problems_of(graph: FlatGraph) -> list[str]:
    """Returns one line for every layer of a canonical graph that cannot be quantized."""
    found = []
    for node in graph.nodes:
        problem = _problem_of(graph, node)
        if problem is not None:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def _problem_of(graph: FlatGraph, node: FlatNode) -> str | None:
    if isinstance(node.layer, DDQWeightedLayer | DDQActivation | DDQFixedGrid):
        return "is quantized already; quantize_model takes the float model"
    check = _CHECKS.get(type(node.layer))
    if check is None:
        return f"has no integer form here; supported are {', '.join(SUPPORTED)}"
    return check(node) or _misplaced(graph, node)


def _misplaced(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with where a layer stands."""
    affine = isinstance(node.layer, keras.layers.BatchNormalization | DDQRescaling)
    if not affine or len(node.shapes[0]) == 4:
        return None
    before = graph.producer(node.inputs[0])
    alone = graph.sole_consumer(node.inputs[0]) is node
    folds = (
        before is not None
        and isinstance(before.layer, WEIGHTED)
        and isinstance(node.layer, keras.layers.BatchNormalization)
        and fused_kind(before.layer) == "linear"
    )
    return None if folds and alone else _follows(before)


def _follows(before: FlatNode | None) -> str:
    what = (
        "the model's input"
        if before is None
        else f"{before.name!r} ({type(before.layer).__name__})"
    )
    return (
        "needs images (rank 4), or to follow a dense layer without activation, as its only "
        f"reader. Received: it follows {what}"
    )


def _short_config(layer: Any) -> str:
    config = layer.get_config()
    kept = {k: v for k, v in config.items() if k not in ("name", "trainable", "dtype")}
    return ", ".join(f"{k}={v!r}" for k, v in kept.items())
