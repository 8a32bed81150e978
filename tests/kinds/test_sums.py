"""Sums that broadcast, in batches that are as large as an axis."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, verify
from tests.toys import images

SIZES = (1, 8, 16)


@pytest.mark.parametrize("shape", [(8, 8), (8,)], ids=["columns", "numbers"])
@pytest.mark.parametrize("as_layer", [True, False], ids=["Add", "ops.add"])
def test_a_column_beside_as_many_channels_is_no_bias(shape, as_layer, tmp_path):
    """The mean of the channels, added to each: LiteRT knows which axis is which."""
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    rows = keras.layers.Dense(8)(x)
    column = keras.ops.mean(rows, -1, keepdims=True)
    total = keras.layers.Add()([rows, column]) if as_layer else rows + column
    data = images(16, shape)
    q = quantize_model(keras.Model(x, total), DDQConfig(budget=None), calibration=data)
    file = export_tflite(q, tmp_path / "net.tflite")
    whole = np.asarray(q(data))
    for size in SIZES:
        assert verify(q, file, [data[:size]]).equal_codes_share == 1.0
        np.testing.assert_array_equal(np.asarray(q(data[:size])), whole[:size])
