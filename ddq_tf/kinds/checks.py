"""Checks that rules of several families share."""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds.functions import FUNCTIONS, function_of, known_names


def channels_last(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with a layer that has a `data_format`."""
    if node.layer.data_format != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    return None


def fixed_size(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with a layer that must know the size of its images."""
    if None in node.shapes[0][1:]:
        return f"needs a fixed image size. Received: shape {node.shapes[0]}"
    return channels_last(graph, node)


def on_sequences(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with a layer on sequences that has not become one on images."""
    return (
        "needs sequences of a fixed length, channels last. "
        f"Received: shape {node.shapes[0]}, {node.layer.data_format}"
    )


def known_activation(node: FlatNode) -> str | None:
    """What is wrong with the activation of a layer with weights."""
    activation = node.layer.activation
    if function_of(node.layer) is not None or isinstance(activation, keras.layers.Layer):
        return None
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"needs an activation among {known_names()}, or a layer. Received: activation={name!r}"


def does_linear(node: FlatNode) -> bool:
    """Returns whether a layer with weights has no activation that it does itself."""
    function = function_of(node.layer)
    return function is None or not function.is_fused or function is FUNCTIONS["linear"]


def images_or_dense(graph: FlatGraph, node: FlatNode) -> str | None:
    """What is wrong with where a layer stands that multiplies and shifts each channel."""
    if len(node.shapes[0]) == 4:
        return None
    before = graph.producer(node.inputs[0])
    if before is not None and graph.norm_of(before) is node:
        return None
    what = (
        "the model's input"
        if before is None
        else f"{before.name!r} ({type(before.layer).__name__})"
    )
    return (
        "needs images (rank 4), or to follow a dense layer without activation, as its only "
        f"reader. Received: it follows {what}"
    )


def short_config(layer: Any) -> str:
    """Returns the arguments of a layer that say what it computes."""
    config = layer.get_config()
    kept = {k: v for k, v in config.items() if k not in ("name", "trainable", "dtype")}
    return ", ".join(f"{k}={v!r}" for k, v in kept.items())
