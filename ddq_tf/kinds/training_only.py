"""Layers that do nothing in inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatNode
from ddq_tf.kinds.rule import Example, Family, LayerRule, OnRow, Output, anywhere, on_any_rank

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering

L = keras.layers

# Which of them there are depends on Keras's release. RandomCrop is none: it crops in inference too.
_AUGMENTATIONS = (
    "AugMix",
    "CutMix",
    "MixUp",
    "RandAugment",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
)


def lower_alias(into: Lowering, node: FlatNode) -> None:
    """Another name for the tensor that a layer reads."""
    into.names[node.outputs[0]] = into.names[node.inputs[0]]


def _rule(
    layer: type, make: Any, *, on_row: OnRow | None = on_any_rank, two_modes: bool = True
) -> LayerRule:
    return LayerRule(
        layers=(layer,),
        words=layer.__name__,
        on_row=on_row,
        output=Output.KEEPS,
        lower=lower_alias,
        each_alone=anywhere,
        is_homogeneous=True,
        has_two_modes=two_modes,
        examples=(Example(build=lambda x: make()(x)),),
    )


def _dropout_row(layer: Any, name: str) -> Any:
    if layer.noise_shape is None:
        return layer
    batch, *others = layer.noise_shape
    return L.Dropout(layer.rate, (batch, 1, *others), name=name)


def _spatial_row(layer: Any, name: str) -> Any:
    return L.SpatialDropout2D(layer.rate, name=name)


FAMILY = Family(
    title="in training only",
    rules=(
        LayerRule(
            layers=(L.Dropout,),
            words="Dropout",
            on_row=_dropout_row,
            output=Output.KEEPS,
            lower=lower_alias,
            each_alone=anywhere,
            is_homogeneous=True,
            has_two_modes=True,
            examples=(
                Example(build=lambda x: L.Dropout(0.2)(x)),
                Example(build=lambda x: L.Dropout(0.2, (None, 1, 4))(x), shape=(12, 4)),
            ),
        ),
        _rule(L.SpatialDropout2D, lambda: L.SpatialDropout2D(0.2), on_row=None),
        LayerRule(
            layers=(L.SpatialDropout1D,),
            on_row=_spatial_row,
            has_two_modes=True,
            examples=(Example(build=lambda x: L.SpatialDropout1D(0.2)(x), shape=(12, 4)),),
        ),
        _rule(L.GaussianNoise, lambda: L.GaussianNoise(0.1)),
        _rule(L.GaussianDropout, lambda: L.GaussianDropout(0.2)),
        _rule(L.AlphaDropout, lambda: L.AlphaDropout(0.2)),
        _rule(L.ActivityRegularization, lambda: L.ActivityRegularization(l2=1e-3), two_modes=False),
        LayerRule(
            layers=(L.Identity,),
            words="Identity",
            on_row=on_any_rank,
            output=Output.KEEPS,
            # One with a DTypePolicy cannot tell its configuration.
            twin=lambda config, node, name: L.Identity(name=name),
            lower=lower_alias,
            each_alone=anywhere,
            is_homogeneous=True,
            examples=(Example(build=lambda x: L.Identity()(x)),),
        ),
        LayerRule(
            layers=tuple(getattr(L, name) for name in _AUGMENTATIONS if hasattr(L, name)),
            words="random augmentations of images (RandomFlip and its kin)",
            output=Output.KEEPS,
            lower=lower_alias,
            has_two_modes=True,
            examples=(
                Example(build=lambda x: L.RandomFlip()(x)),
                Example(build=lambda x: L.RandomRotation(0.1)(L.RandomZoom(0.1)(x))),
            ),
        ),
    ),
)

TRAINING_ONLY = tuple(layer for rule in FAMILY.rules for layer in rule.layers)
