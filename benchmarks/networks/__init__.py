"""Networks beyond classifiers of images by convolutions, written as a stranger would."""

from __future__ import annotations

from collections.abc import Callable

import keras

from networks import images, sequences, transformers

# Name: what builds it, and the range of its inputs.
BEYOND_CNN: dict[str, tuple[Callable[[], keras.Model], tuple[float, float]]] = {
    "unet": (images.unet, (-1.0, 1.0)),
    "unet_residual": (images.unet_residual, (-1.0, 1.0)),
    "ssd": (images.ssd, (0.0, 255.0)),
    "multi_task": (images.multi_task, (-1.0, 1.0)),
    "segformer": (transformers.segformer, (0.0, 255.0)),
    "vit": (transformers.vit, (0.0, 255.0)),
    "swin": (transformers.swin, (0.0, 1.0)),
    "mobilevit": (transformers.mobilevit, (0.0, 255.0)),
    "convnext": (transformers.convnext, (0.0, 255.0)),
    "lstm": (sequences.lstm, (-1.0, 1.0)),
    "gru": (sequences.gru, (-1.0, 1.0)),
}
