"""Layers and quantizers that stand in a model more than once."""

import keras
import numpy as np

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import activation_layers, weighted_layers
from tests.toys import array, compiled, images, labels

K = keras.layers


def test_a_shared_layer_counts_each_step_once():
    inputs = keras.Input((8, 8, 3), name="image")
    twice = K.Conv2D(3, 1, activation="relu", name="twice")
    x = K.Concatenate()([twice(inputs), twice(K.MaxPooling2D(1)(twice(inputs)))])
    model = keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(x)))
    config = DDQConfig(target="litert-int8", precisions=(4, 8), activation_bits=(4, 8), budget=None)
    q = quantize_model(model, config, images(8))
    compiled(q, keras.optimizers.SGD(0.0)).fit(
        images(16), labels(16), batch_size=1, epochs=1, verbose=0
    )
    shared = [layer for layer in weighted_layers(q) if layer.name == "twice"]
    tied = [layer for layer in activation_layers(q) if layer.name.endswith("_shared")]
    assert shared[0].quantizer.calls == 3
    assert tied[0].quantizer.calls >= 2
    for layer in (*shared, *tied):
        visits = array(layer.quantizer.evidence)[..., 1].sum()
        steps = 8  # until the choice is final
        assert 0.9 * steps < visits <= steps, layer.name
        assert np.isfinite(array(layer.quantizer.evidence)).all()
