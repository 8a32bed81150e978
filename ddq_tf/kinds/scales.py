"""Layers that multiply and shift each channel.

BatchNormalization folds into the layer before it where it can. What stands alone becomes, with its
neighbours of the kind, a 1x1 depthwise convolution (`ddq_tf.grids.affine`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds import checks
from ddq_tf.kinds.rule import (
    Example,
    Family,
    LayerRule,
    Output,
    but_the_last,
    config_of,
    on_any_rank,
)
from ddq_tf.layers import DDQBatchNormalization, DDQRescaling

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers


def _rescaling(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    def make() -> Any:
        layer = node.layer
        return DDQRescaling(layer.scale, layer.offset, name=node.name)

    return [node.calling(to.layer(node.layer, "layer", make))]


def _normalization(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    layer = node.layer
    given = [np.shape(values) for values in (layer.mean, layer.variance)]
    if layer.mean is None or not all(math.prod(shape[:-1]) == 1 for shape in given):
        return [node]  # along another axis than the last

    def make() -> Any:
        mean = as_float64(layer.mean).ravel()
        variance = as_float64(layer.variance).ravel()
        deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
        if layer.invert:
            return DDQRescaling(deviation, mean, name=node.name)
        return DDQRescaling(1 / deviation, -mean / deviation, name=node.name)

    return [node.calling(to.layer(layer, "layer", make))]


def _check_normalization(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if layer.mean is None:
        return "needs its mean and variance: call adapt() first. Received: none"
    return (
        f"needs one mean and variance, or one per channel ({node.shapes[0][-1]}). "
        f"Received: shape {tuple(layer.mean.shape)}"
    )


def _check_batch_norm(graph: FlatGraph, node: FlatNode) -> str | None:
    rank = len(node.shapes[0])
    if node.layer.axis not in (-1, rank - 1):
        return f"needs axis=-1. Received: axis={node.layer.axis}"
    return checks.images_or_dense(graph, node)


def _batch_norm_row(layer: Any, name: str) -> Any:
    return L.BatchNormalization.from_config({**layer.get_config(), "axis": -1, "name": name})


def _batch_norm_twin(config: DDQConfig, node: FlatNode, name: str) -> Any:
    return DDQBatchNormalization.from_config(config_of(node, name))


def _lower(into: Lowering, node: FlatNode) -> None:
    """DEPTHWISE_CONV_2D 1x1, for the first of a chain; nothing for what folds into others."""
    into.affine(node)


def batch_norm_affine(layer: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (gain, shift), float64, of a BatchNorm in inference: y = gain * x + shift."""
    gamma = as_float64(layer.gamma) if layer.scale else np.ones(channels)
    beta = as_float64(layer.beta) if layer.center else np.zeros(channels)
    gain = gamma / np.sqrt(as_float64(layer.moving_variance) + layer.epsilon)
    return gain, beta - gain * as_float64(layer.moving_mean)


def _rescaling_affine(layer: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    return as_float64(layer.gain) * np.ones(channels), as_float64(layer.shift) * np.ones(channels)


FAMILY = Family(
    title="scales",
    rules=(
        LayerRule(
            layers=(L.BatchNormalization,),
            words="BatchNormalization (folded, or alone)",
            on_row=_batch_norm_row,
            problem=_check_batch_norm,
            output=Output.OWN,
            twin=_batch_norm_twin,
            lower=_lower,
            affine=batch_norm_affine,
            has_two_modes=True,
            examples=(
                Example(build=lambda x: L.BatchNormalization()(x)),
                Example(build=lambda x: L.BatchNormalization(center=False)(L.ReLU()(x))),
                Example(build=lambda x: L.BatchNormalization(scale=False)(L.Conv2D(4, 3)(x))),
                Example(
                    build=lambda x: L.ReLU()(L.BatchNormalization()(L.BatchNormalization()(x)))
                ),
            ),
        ),
        LayerRule(
            layers=(DDQBatchNormalization,),
            problem=_check_batch_norm,
            output=Output.OWN,
            lower=_lower,
            affine=batch_norm_affine,
            has_two_modes=True,
            each_alone=but_the_last,
        ),
        LayerRule(
            layers=(L.Rescaling,),
            words="Rescaling",
            expand=_rescaling,
            examples=(Example(build=lambda x: L.Rescaling(0.3, 0.1)(x)),),
        ),
        LayerRule(
            layers=(L.Normalization,),
            words="Normalization",
            expand=_normalization,
            problem=_check_normalization,
            examples=(
                Example(
                    build=lambda x: L.Normalization(mean=[0.1] * 4, variance=[0.5, 1, 2, 3])(x)
                ),
            ),
        ),
        LayerRule(
            layers=(DDQRescaling,),
            on_row=on_any_rank,
            problem=checks.images_or_dense,
            output=Output.OWN,
            lower=_lower,
            affine=_rescaling_affine,
            each_alone=but_the_last,
        ),
    ),
)
