"""Networks whose outputs are images, boxes or several tasks' answers, as tutorials write them."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

SIDE = 64


def _double(x: Any, filters: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return x


def unet(side: int = SIDE, filters: tuple[int, ...] = (16, 32, 64)) -> keras.Model:
    """Returns a U-Net (Ronneberger et al., 2015), with a mask of one sigmoid per pixel."""
    inputs = keras.Input((side, side, 3), name="image")
    x, skips = inputs, []
    for width in filters[:-1]:
        x = _double(x, width)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.3)(_double(x, filters[-1]))
    for width, skip in zip(filters[-2::-1], reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2, padding="same")(x)
        x = _double(layers.Concatenate()([x, skip]), width)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x)
    return keras.Model(inputs, mask, name="unet")


def unet_residual(side: int = SIDE, filters: tuple[int, ...] = (16, 32, 48)) -> keras.Model:
    """Returns keras.io's U-Net of Xception's blocks, with a softmax of 3 classes per pixel."""
    inputs = keras.Input((side, side, 3), name="image")
    x = layers.Conv2D(filters[0], 3, strides=2, padding="same")(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    previous = x
    for width in filters[1:]:
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.SeparableConv2D(width, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = layers.add([x, layers.Conv2D(width, 1, strides=2, padding="same")(previous)])
        previous = x
    for width in reversed(filters):
        for _ in range(2):
            x = layers.Activation("relu")(x)
            x = layers.Conv2DTranspose(width, 3, padding="same")(x)
            x = layers.BatchNormalization()(x)
        x = layers.UpSampling2D(2)(x)
        residual = layers.Conv2D(width, 1, padding="same")(layers.UpSampling2D(2)(previous))
        x = layers.add([x, residual])
        previous = x
    classes = layers.Conv2D(3, 3, activation="softmax", padding="same", name="classes")(x)
    return keras.Model(inputs, classes, name="unet_residual")


def _separable(x: Any, filters: int, strides: int = 1) -> Any:
    x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(filters, 1, use_bias=False)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def ssd(side: int = SIDE, width: int = 16, classes: int = 4, anchors: int = 3) -> keras.Model:
    """Returns SSDLite (Liu et al., 2016; Sandler et al., 2018) on three scales of a pyramid.

    Its outputs: class logits (batch, anchors, classes), box offsets (batch, anchors, 4).
    """
    inputs = keras.Input((side, side, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu6")(x)
    scales = []
    for depth in (2, 3, 4):
        x = _separable(_separable(x, depth * width, 2), depth * width)
        scales.append(layers.Conv2D(2 * width, 1)(x))
    for place in (1, 0):  # what is coarse is added to what is fine: Lin et al., 2017
        scales[place] = layers.Add()(
            [scales[place], layers.UpSampling2D(2, interpolation="nearest")(scales[place + 1])]
        )
    logits, boxes = [], []
    for scale in scales:
        y = _separable(scale, 2 * width)
        each = layers.Conv2D(anchors * classes, 3, padding="same")(y)
        logits.append(layers.Reshape((-1, classes))(each))
        boxes.append(layers.Reshape((-1, 4))(layers.Conv2D(anchors * 4, 3, padding="same")(y)))
    outputs = {
        "classes": layers.Concatenate(axis=1, name="classes")(logits),
        "boxes": layers.Concatenate(axis=1, name="boxes")(boxes),
    }
    return keras.Model(inputs, outputs, name="ssd")


def multi_task(side: int = SIDE, width: int = 16) -> keras.Model:
    """Returns one backbone with a class, an age and a mask: three tasks, a dictionary."""
    inputs = keras.Input((side, side, 3), name="image")
    x = layers.Conv2D(width, 3, strides=2, padding="same", activation="swish")(inputs)
    low = _separable(x, width)
    x = _separable(_separable(low, 2 * width, 2), 2 * width)
    pooled = layers.GlobalAveragePooling2D()(x)
    up = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(width, 1)(x))
    mask = layers.Conv2DTranspose(1, 4, 2, "same", activation="sigmoid", name="mask")(
        layers.Concatenate()([up, low])
    )
    outputs = {
        "species": layers.Dense(5, activation="softmax", name="species")(pooled),
        "age": layers.Dense(1, name="age")(layers.Dense(16, activation="relu")(pooled)),
        "mask": mask,
    }
    return keras.Model(inputs, outputs, name="multi_task")
