"""How pixels become the numbers that a network takes."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.pictures import CHANNELS, Range

# Names that keras.applications gives its networks, and the module of each. A name's beginning, as
# users see it in `model.summary()`.
_PUBLISHED = (
    (r"mobilenetv2_", "mobilenet_v2"),
    (r"mobilenet_\d", "mobilenet"),
    (r"MobileNetV3(Small|Large)", "mobilenet_v3"),
    (r"vgg16$", "vgg16"),
    (r"vgg19$", "vgg19"),
    (r"resnet(50|101|152)v2$", "resnet_v2"),
    (r"resnet(50|101|152)$", "resnet"),
    (r"densenet(121|169|201)$", "densenet"),
    (r"inception_v3$", "inception_v3"),
    (r"inception_resnet_v2$", "inception_resnet_v2"),
    (r"xception$", "xception"),
    (r"[Nn][Aa][Ss][Nn]et", "nasnet"),
    (r"efficientnetb\d$", "efficientnet"),
    (r"efficientnetv2-", "efficientnet_v2"),
    (r"convnext_", "convnext"),
)
# Modules whose `preprocess_input` changes nothing, for the network has layers that do it.
_INNER = ("Rescaling", "Normalization")


def as_range(low: Any, high: Any) -> Range:
    """Returns a range of plain numbers.

    Raises:
        DDQError: unless each is a number or one for each of 3 channels, low below high.
    """
    ends = [np.asarray(end, np.float64) for end in (low, high)]
    fits = all(end.shape in ((), (3,)) for end in ends) and bool((ends[0] < ends[1]).all())
    if not fits or not all(np.isfinite(end).all() for end in ends):
        raise DDQError(
            "input_range must be (low, high), low below high, each a number or one for each of 3 "
            f"channels. Received: {(low, high)!r}"
        )
    first, last = (end.item() if end.ndim == 0 else tuple(end.tolist()) for end in ends)
    return first, last


def range_of(mean: Sequence[float], std: Sequence[float]) -> Range:
    """Returns the range of inputs (pixel - mean) / std, of pixels from 0 to 255.

    Args:
        mean: one number, or one for each of 3 channels in the network's order.
        std: likewise.

    Raises:
        DDQError: if they are not, or are of pixels from 0 to 1.
    """
    if len(mean) not in (1, 3) or len(std) not in (1, 3) or not all(s >= 1 for s in std):
        raise DDQError(
            "mean and std need 1 or 3 numbers each, of pixels from 0 to 255, std at least 1; those "
            f"of pixels from 0 to 1 times 255. Received: mean={tuple(mean)}, std={tuple(std)}"
        )
    means, stds = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    low, high = -means / stds, (255 - means) / stds
    return as_range(*(end if end.size == 3 else end[0] for end in (low, high)))


def check_channels(channels: str) -> None:
    """Raises DDQError unless it is an order of channels."""
    if channels not in CHANNELS:
        raise DDQError(f"channels must be one of {CHANNELS}. Received: channels={channels!r}")


def published(model: Any) -> tuple[Range, str] | None:
    """Returns range and order of channels that keras.applications gives a network's inputs.

    Read from its `preprocess_input`, for a model of keras.applications or one that calls such a
    network on its input; None for others, and where that is not known.

    Args:
        model: a Keras model.
    """
    for network in (model, *_called_on_inputs(model)):
        for pattern, module in _PUBLISHED:
            if re.match(pattern, network.name):
                return _read(importlib.import_module(f"keras.applications.{module}"), network)
    return None


def _called_on_inputs(model: Any) -> list[Any]:
    """The models that a model calls on its own inputs."""
    inputs = {id(tensor) for tensor in getattr(model, "inputs", None) or ()}
    return [
        layer
        for layer in model.layers
        if hasattr(layer, "layers")
        and any(id(t) in inputs for node in layer._inbound_nodes for t in node.input_tensors)
    ]


def _read(module: Any, network: Any) -> tuple[Range, str] | None:
    """What a module's `preprocess_input` makes of black, white and red."""

    def seen(*pixel: float) -> np.ndarray:
        return np.ravel(module.preprocess_input(np.array([[[pixel]]], np.float32)))

    low, high, red = seen(0, 0, 0), seen(255, 255, 255), seen(255, 0, 0)
    early = {type(layer).__name__ for layer in network.layers[:4]}
    if np.array_equal(high, [255] * 3) and not early.intersection(_INNER):
        return None  # built without its own preprocessing
    # As a float64 of what is near: (pixel / 255 - mean) / std in float32.
    ends = [float(end[0]) if np.ptp(end) == 0 else end.astype(np.float64) for end in (low, high)]
    return as_range(*ends), "rgb" if red[0] == high[0] else "bgr"
