"""What DDQ is compared with: the float model as stock tools write it."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator

import keras
import tensorflow as tf


def float_tflite(model: keras.Model) -> bytes:
    """Returns a float model as the stock converter writes it, in float32."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        model.export(folder, verbose=False)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()
