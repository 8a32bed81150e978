"""Models by name, for the command line."""

from __future__ import annotations

from collections.abc import Callable

import keras

from ddq_tf.errors import DDQError
from ddq_tf.models.mobilenet_v2 import mobilenet_v2
from ddq_tf.models.resnet8 import resnet8

MODELS: dict[str, Callable[..., keras.Model]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet8": resnet8,
}


def build(
    name: str, input_shape: tuple[int, int, int], classes: int, **options: object
) -> keras.Model:
    """Builds a float model by name.

    Args:
        name: a key of `MODELS`.
        input_shape: (height, width, channels) in pixels.
        classes: number of outputs.
        **options: further arguments of that builder.

    Raises:
        DDQError: if there is no such model, or its builder rejects an argument.
    """
    if name not in MODELS:
        raise DDQError(f"model must be one of {sorted(MODELS)}. Received: model={name!r}")
    return MODELS[name](input_shape=input_shape, classes=classes, **options)
