"""ResNet-8 of the MLPerf Tiny benchmark (image classification on CIFAR-10)."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from ddq_tf.models.blocks import check_classifier

_FILTERS = (16, 32, 64)


def resnet8(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    *,
    classifier_activation: str | None = "softmax",
    l2: float = 1e-4,
    batch_norm_momentum: float = 0.99,
    name: str = "resnet8",
) -> keras.Model:
    """Builds ResNet-8 with random weights, layer for layer as MLPerf Tiny publishes it.

    Three stacks of two 3x3 convolutions with 16, 32 and 64 filters; the last two start with
    stride 2 and have a 1x1 stride-2 shortcut convolution without BatchNormalization.

    Args:
        input_shape: (height, width, channels) in pixels, at least 8; the published weights take
            values in 0..255.
        classes: number of outputs.
        classifier_activation: "softmax" as published, or None for logits.
        l2: factor of the kernels' L2 penalty (the classifier has none); 0 for no penalty, as
            where the optimizer already decays weights.
        batch_norm_momentum: of the moving statistics.
        name: of the model.

    Returns:
        A functional model from (batch, height, width, channels) to (batch, classes).

    Raises:
        DDQError: if the input shape or the number of classes cannot be built.
    """
    check_classifier(input_shape, classes, smallest=8)

    def conv(
        x: keras.KerasTensor, filters: int, size: int, stride: int, label: str
    ) -> keras.KerasTensor:
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
            name=label,
        )(x)

    def norm(x: keras.KerasTensor, label: str) -> keras.KerasTensor:
        return layers.BatchNormalization(momentum=batch_norm_momentum, name=label)(x)

    image: Any = keras.Input(input_shape)
    x = norm(conv(image, _FILTERS[0], 3, 1, "stem_conv"), "stem_bn")
    x = layers.Activation("relu", name="stem_relu")(x)
    for index, filters in enumerate(_FILTERS, start=1):
        stride = 1 if index == 1 else 2
        y = norm(conv(x, filters, 3, stride, f"stack{index}_conv1"), f"stack{index}_bn1")
        y = layers.Activation("relu", name=f"stack{index}_relu1")(y)
        y = conv(y, filters, 3, 1, f"stack{index}_conv2")
        # The shortcut comes before the norm, so that weights keep the published order.
        shortcut = x if stride == 1 else conv(x, filters, 1, stride, f"stack{index}_shortcut")
        y = norm(y, f"stack{index}_bn2")
        x = layers.Add(name=f"stack{index}_add")([shortcut, y])
        x = layers.Activation("relu", name=f"stack{index}_relu2")(x)
    x = layers.AveragePooling2D(min(x.shape[1:3]), name="avg_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(
        classes,
        activation=classifier_activation,
        kernel_initializer="he_normal",
        name="predictions",
    )(x)
    return keras.Model(image, x, name=name)
