"""The baseline: the stock TensorFlow converter's post-training int8 file."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from ddq_tf.backend import need_tensorflow


def stock_int8(model: keras.Model, calibration: Sequence[np.ndarray]) -> bytes:
    """Returns a float model as the stock converter quantizes it, int8 from input to output.

    Args:
        model: a float Keras 3 model.
        calibration: float32 batches of inputs.

    Returns:
        The content of a .tflite file.

    Raises:
        DDQError: if TensorFlow is missing.
    """
    need_tensorflow("TensorFlow's own converter", "Export a DDQ model: that needs LiteRT alone")
    import tensorflow as tf

    def representative() -> Iterator[list[np.ndarray]]:
        for batch in calibration:
            for image in np.asarray(batch, np.float32):
                yield [image[None]]

    with tempfile.TemporaryDirectory() as folder, _quiet():
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        return converter.convert()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the converter writes past Python's logging, to file descriptor 2."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as devnull, contextlib.redirect_stdout(io.StringIO()):
            os.dup2(devnull.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
