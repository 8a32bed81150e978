"""Pruned and clustered models: zeros stay zeros, centroids become free levels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.jobs.collect import layer_reports
from ddq_tf.layers import weighted_layers
from ddq_tf.tfmot import from_tfmot
from tests.tfmot.projects import L, data
from tests.toys import array, compiled


def network():
    i = L.Input((16, 16, 3), name="image")
    x = L.Conv2D(16, 3, strides=2, activation="relu", name="stem")(i)
    x = L.Conv2D(16, 3, activation="relu", name="body")(x)
    return tf_keras.Model(i, L.Dense(5, name="scores")(L.GlobalAveragePooling2D()(x)))


def fitted(model, *callbacks):
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.legacy.SGD(0.02), loss)
    model.fit(*data(), epochs=2, batch_size=32, verbose=0, callbacks=list(callbacks))
    return model


@pytest.fixture(scope="module")
def pruned():
    tf_keras.utils.set_random_seed(0)
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.75, begin_step=0, frequency=1)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(network(), pruning_schedule=schedule)
    return fitted(wrapped, tfmot.sparsity.keras.UpdatePruningStep())


def test_zeros_stay_through_the_whole_line(pruned, tmp_path):
    model, _ = from_tfmot(pruned)
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    x, y = data()
    np.testing.assert_allclose(model(x), stripped.predict(x, verbose=0), atol=1e-5)
    config = DDQConfig(budget=None, precisions=(4,), keep_zeros=True)
    quantized = quantize_model(model, config, x)
    compiled(quantized).fit(x, y, epochs=1, verbose=0)
    for layer in weighted_layers(quantized):
        zeros = array(model.get_layer(layer.name).kernel) == 0
        assert zeros.mean() > 0.7
        np.testing.assert_array_equal(array(layer.kernel) == 0, zeros)
    assert all(report.zeros >= report.float_zeros > 0.7 for report in layer_reports(quantized))
    file = export_tflite(quantized, tmp_path / "pruned.tflite")
    assert verify(quantized, file, x).max_lsb == 0


def test_a_pruned_file(pruned, tmp_path):
    path = tmp_path / "pruned.keras"
    pruned.save(path)
    model, _ = from_tfmot(path)
    expected, _ = from_tfmot(pruned)
    x, _ = data()
    np.testing.assert_array_equal(model(x), expected(x))


def test_centroids_become_free_levels(tmp_path):
    tf_keras.utils.set_random_seed(0)
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = tfmot.clustering.keras.cluster_weights(
        fitted(network()), number_of_clusters=16, cluster_centroids_init=start
    )
    model, ranges = from_tfmot(fitted(wrapped))
    assert ranges.clustered == ("stem", "body")
    assert ranges.rules_for("litert") == ()
    config = DDQConfig(
        target="litert-int8", budget=None, precisions=(8,), rules=ranges.rules_for("litert-int8")
    )
    x, _ = data()
    quantized = quantize_model(model, config, x)
    for name in ranges.clustered:
        layer = next(layer for layer in weighted_layers(quantized) if layer.name == name)
        codes, scale = layer.integer_weights()
        assert len(np.unique(codes)) <= 16
        kernel = array(layer.kernel)
        assert np.abs(codes * scale - kernel).max() < scale.max()
    proof = verify(quantized, export_tflite(quantized, tmp_path / "clustered.tflite"), x)
    assert proof.max_lsb == 0
