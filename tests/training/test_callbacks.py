"""What QuantizerLogger records, against numpy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.training import QuantizerLogger
from tests.toys import array, compiled, images, labels, mixed_net

X, Y = images(16), labels(16)
CONFIGS = {
    "uniform": DDQConfig(target="litert-int8", budget=0.6, activation_bits=(4, 8)),
    "free": DDQConfig(target="litert-int8", precisions=(2, 3), budget="2.5bits", levels="free"),
}


class Twin(keras.callbacks.Callback):
    """The same records by other ways: exported codes and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict] = []

    def on_epoch_end(self, epoch, logs=None):
        found: dict = {"lost": 0.0, "whole": 0.0, "error": logs["quantization_error"]}
        for layer in weighted_layers(self.model):
            codes, scale = layer.integer_weights()
            kernel = array(layer.kernel).astype(np.float64)
            lost = np.sum(np.square(kernel - codes * scale.astype(np.float64)))
            whole = np.sum(np.square(kernel))
            free = layer.quantizer.scheme.levels == "free"
            qmax = 127 if free else 2 ** (layer.num_bits - 1) - 1
            found[layer.name] = (layer.num_bits, lost / whole, qmax * scale.mean(), codes / qmax)
            found["lost"] += lost
            found["whole"] += whole
        for layer in activation_layers(self.model):
            quantizer = layer.quantizer
            found[layer.name] = (quantizer.num_bits, quantizer.qmax * quantizer.export_scale())
        self.epochs.append(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_records(name: str, tmp_path) -> None:
    model = compiled(quantize_model(mixed_net(), CONFIGS[name], X))
    logger, twin = QuantizerLogger(tmp_path), Twin()
    history = model.fit(X, Y, epochs=3, callbacks=[logger, twin], verbose=0).history
    assert len(logger.average_bits) == len(twin.epochs) == 3
    for epoch, found in enumerate(twin.epochs):
        assert history["quantization_error"][epoch] == found["error"]
        np.testing.assert_allclose(found["error"], found["lost"] / found["whole"], rtol=1e-5)
        for layer in weighted_layers(model):
            bits, error, reach, used = found[layer.name]
            assert logger.bits[layer.name][epoch] == bits
            np.testing.assert_allclose(logger.errors[layer.name][epoch], error, rtol=1e-4)
            np.testing.assert_allclose(logger.ranges[layer.name][epoch], reach, rtol=1e-5)
            levels = logger.levels[layer.name][epoch]
            assert levels == sorted(set(levels))
            assert len(levels) <= 2**bits
            nearest = np.abs(np.unique(used)[:, None] - np.array(levels)).min(axis=1)
            assert nearest.max() < 1e-6
        for layer in activation_layers(model):
            bits, reach = found[layer.name]
            assert logger.activation_bits[layer.name][epoch] == bits
            np.testing.assert_allclose(logger.activation_ranges[layer.name][epoch], reach)
    bits = [logger.bits[layer.name][-1] for layer in weighted_layers(model)]
    sizes = [layer.quantizer.num_weights for layer in weighted_layers(model)]
    assert logger.average_bits[-1] == np.dot(bits, sizes) / sum(sizes)
    assert_written(tmp_path, logger)


def assert_written(folder, logger: QuantizerLogger) -> None:
    """TensorBoard's file holds every scalar."""
    (file,) = folder.iterdir()
    scalars = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
    kinds = {
        "bits": logger.bits,
        "quantization_error": logger.errors,
        "range": logger.ranges,
        "activation_bits": logger.activation_bits,
        "activation_range": logger.activation_ranges,
    }
    expected = {
        (f"{kind}/{name}", epoch): np.float32(value)
        for kind, series in kinds.items()
        for name, values in series.items()
        for epoch, value in enumerate(values)
    }
    assert scalars == expected


def test_a_later_training_starts_anew() -> None:
    model = compiled(quantize_model(mixed_net(), CONFIGS["uniform"], X))
    logger = QuantizerLogger()
    for epochs in (2, 1):
        model.fit(X, Y, epochs=epochs, callbacks=[logger], verbose=0)
        assert {len(v) for v in logger.levels.values()} == {epochs}
