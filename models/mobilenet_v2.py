"""MobileNetV2 (Sandler et al., CVPR 2018) whose strides fit small images too.

Layers, names and weights are those of `keras.applications.MobileNetV2`, so that weights move
either way with `set_weights`. Only the strides depend on the image, see `mobilenet_v2`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from ddq_tf.errors import DDQError
from ddq_tf.models.blocks import check_classifier, make_divisible

# (filters, repetitions, stride of the first, expansion): table 2 of the paper.
_STAGES = (
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 2, 6),
    (320, 1, 1, 6),
)
_EPSILON = 1e-3
_LARGEST_OF_OUTPUT_STRIDE = {8: 48, 16: 95}  # px; 32 above


def mobilenet_v2(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    alpha: float = 1.0,
    classes: int = 1000,
    *,
    output_stride: int | None = None,
    classifier_activation: str | None = None,
    dropout: float = 0.0,
    batch_norm_momentum: float = 0.999,
    name: str | None = None,
) -> keras.Model:
    """Builds MobileNetV2 with random weights.

    How far the image shrinks (`output_stride`) follows its shorter side: up to 48 px by 8 (the
    stem and the first strided block, block_1, keep stride 1: 32 px end as 4x4), from 49 to 95 px
    by 16 (the stem keeps stride 1: 64 px end as 4x4), above by 32 as in the paper.

    A block has a shortcut where its stride is 1 and its channels stay the same. That includes
    block_1 at output stride 8 for alpha < 0.5, where `keras.applications` has none; weights are
    the same all the same.

    Args:
        input_shape: (height, width, channels) in pixels, at least 8; usual values are in [-1, 1].
        alpha: width multiplier, above 0.
        classes: number of outputs.
        output_stride: 8, 16 or 32, or None to choose it by the rule above.
        classifier_activation: None for logits, or for example "softmax".
        dropout: share of the pooled features dropped before the classifier, in [0, 1).
        batch_norm_momentum: of the moving statistics. The default suits long trainings; for a
            few hundred steps take 0.9 to 0.99, or the statistics lag behind.
        name: of the model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, classes).

    Raises:
        DDQError: if an argument is out of its range.
    """
    check_classifier(input_shape, classes, smallest=8)
    if not alpha > 0:
        raise DDQError(f"alpha must be above 0. Received: alpha={alpha!r}")
    if not 0 <= dropout < 1:
        raise DDQError(f"dropout must lie in [0, 1). Received: dropout={dropout!r}")
    stem_stride, block_1_stride = _first_strides(input_shape, output_stride)
    build = _Builder(alpha, batch_norm_momentum)

    image: Any = keras.Input(input_shape)
    x = build.conv(image, make_divisible(32 * alpha), "Conv1", size=3, strides=stem_stride)
    x = build.norm(x, "bn_Conv1", relu="Conv1_relu")
    block_id = 0
    for filters, repetitions, stride, expansion in _STAGES:
        for repetition in range(repetitions):
            first_stride = block_1_stride if block_id == 1 else stride
            block_stride = first_stride if repetition == 0 else 1
            x = build.block(x, filters, block_stride, expansion, block_id)
            block_id += 1
    x = build.conv(x, make_divisible(1280 * max(alpha, 1.0)), "Conv_1", padding="valid")
    x = build.norm(x, "Conv_1_bn", relu="out_relu")
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Dense(classes, activation=classifier_activation, name="predictions")(x)
    return keras.Model(image, x, name=name or f"mobilenet_v2_{alpha:g}_{input_shape[0]}")


def _first_strides(input_shape: tuple[int, int, int], output_stride: int | None) -> tuple[int, int]:
    """Returns the strides of the stem and of block_1."""
    if output_stride is None:
        side = min(input_shape[:2])
        fitting = (s for s, largest in _LARGEST_OF_OUTPUT_STRIDE.items() if side <= largest)
        output_stride = next(fitting, 32)
    strides = {8: (1, 1), 16: (1, 2), 32: (2, 2)}
    if output_stride not in strides:
        raise DDQError(
            "output_stride must be 8, 16, 32 or None (chosen by image size). "
            f"Received: output_stride={output_stride!r}"
        )
    return strides[output_stride]


class _Builder:
    """Layers with the settings that hold throughout one network."""

    def __init__(self, alpha: float, momentum: float) -> None:
        self._alpha = alpha
        self._momentum = momentum

    def conv(
        self,
        x: keras.KerasTensor,
        filters: int,
        name: str,
        *,
        size: int = 1,
        strides: int = 1,
        padding: str = "same",
    ) -> keras.KerasTensor:
        """Applies a convolution without bias."""
        return layers.Conv2D(
            filters, size, strides=strides, padding=padding, use_bias=False, name=name
        )(x)

    def norm(self, x: keras.KerasTensor, name: str, relu: str | None = None) -> keras.KerasTensor:
        """Applies BatchNormalization and, where it has a name, ReLU6."""
        x = layers.BatchNormalization(epsilon=_EPSILON, momentum=self._momentum, name=name)(x)
        return layers.ReLU(6.0, name=relu)(x) if relu else x

    def block(
        self, x: keras.KerasTensor, filters: int, stride: int, expansion: int, block_id: int
    ) -> keras.KerasTensor:
        """Applies an inverted residual: expand, depthwise, project, shortcut."""
        prefix = f"block_{block_id}_" if block_id else "expanded_conv_"
        shortcut, in_channels = x, x.shape[-1]
        if block_id:
            x = self.conv(x, expansion * in_channels, f"{prefix}expand")
            x = self.norm(x, f"{prefix}expand_BN", relu=f"{prefix}expand_relu")
        if stride == 2:
            x = layers.ZeroPadding2D(_padding(x), name=f"{prefix}pad")(x)
        x = layers.DepthwiseConv2D(
            3,
            strides=stride,
            padding="same" if stride == 1 else "valid",
            use_bias=False,
            name=f"{prefix}depthwise",
        )(x)
        x = self.norm(x, f"{prefix}depthwise_BN", relu=f"{prefix}depthwise_relu")
        out_channels = make_divisible(int(filters * self._alpha))
        x = self.conv(x, out_channels, f"{prefix}project")
        x = self.norm(x, f"{prefix}project_BN")
        if stride == 1 and in_channels == out_channels:
            return layers.Add(name=f"{prefix}add")([shortcut, x])
        return x


def _padding(x: keras.KerasTensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the zero padding before a 3x3 stride-2 convolution: even sizes start at 0."""
    height, width = x.shape[1:3]
    return (height % 2, 1), (width % 2, 1)
