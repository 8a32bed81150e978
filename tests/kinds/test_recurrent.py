"""Recurrent layers, unrolled: equal to Keras's, trained, exact in LiteRT, and refused by name."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, first_difference, verify
from ddq_tf.graph import flatten
from ddq_tf.kinds.recurrent import MOST_STEPS
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt
from tests.kinds.test_contract import without_grids
from tests.toys import array

L = keras.layers
STEPS, FEATURES = 3, 4


def sequences(count=16, steps=STEPS):
    return np.random.default_rng(0).normal(size=(count, steps, FEATURES)).astype(np.float32)


def model_of(build, steps=STEPS):
    """With weights, biases too, that are all other than zero."""
    x = keras.Input((steps, FEATURES), name="sequence")
    model = keras.Model(x, build(x), name="net")
    random = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(random.normal(0, 0.4, weight.shape))
    return model


def from_states(x):
    _, h, c = L.LSTM(3, return_state=True)(x)
    return L.LSTM(3)(x, initial_state=[h, c])


def called_twice(x):
    layer = L.GRU(3)
    return L.Add()([layer(x), layer(L.Activation("tanh")(x))])


USES = {
    "backwards": lambda x: L.LSTM(3, go_backwards=True, return_sequences=True)(x),
    "stacked": lambda x: L.GRU(3)(L.LSTM(2, return_sequences=True)(x)),
    "states": lambda x: L.Concatenate()(L.LSTM(3, return_state=True)(x)),
    "initial states": from_states,
    "cells": lambda x: L.RNN([L.SimpleRNNCell(3), L.GRUCell(2), L.LSTMCell(2)])(x),
    "without bias": lambda x: L.GRU(3, use_bias=False)(x),
    "reset before": lambda x: L.GRU(3, reset_after=False, return_sequences=True)(x),
    "both, apart": lambda x: L.Add()(L.Bidirectional(L.GRU(3), merge_mode=None)(x)),
    "both, states": lambda x: L.Concatenate()(L.Bidirectional(L.LSTM(2, return_state=True))(x)),
    "both, product": lambda x: L.Bidirectional(
        L.SimpleRNN(3, return_sequences=True), merge_mode="mul"
    )(x),
    "dropout": lambda x: L.LSTM(3, dropout=0.3, recurrent_dropout=0.3)(x),
    "activations": lambda x: L.LSTM(
        3, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True
    )(x),
    "called twice": called_twice,
}


@pytest.mark.parametrize("use", USES)
def test_unrolled_is_what_keras_computes(use):
    model, x = model_of(USES[use]), sequences()
    twin = rebuilt(canonical(flatten(model)), DDQConfig(budget=None), model).model
    without_grids(twin)
    with float_network(twin):
        received = array(twin(x, training=False))
    np.testing.assert_allclose(received, array(model(x, training=False)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU])
def test_trained_saved_and_exported(kind, tmp_path):
    model = model_of(lambda x: L.Dense(3, activation="softmax")(kind(6)(x)), steps=2)
    x = sequences(32, steps=2)
    q = quantize_model(model, DDQConfig(target="litert"), calibration=x)
    q.compile("adam", "sparse_categorical_crossentropy")
    q.fit(x, np.arange(32) % 3, batch_size=32, verbose=0)
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    file = export_tflite(loaded, tmp_path / "net.tflite")
    proof = verify(loaded, file, [x])
    assert first_difference(loaded, x) is None
    assert proof.equal_codes_share == 1.0
    assert proof.delegation.is_complete
    assert proof.delegation.partitions == 1


def test_a_ceiling_holds_on_the_grid_of_all_steps():
    model = model_of(lambda x: L.SimpleRNN(4, activation=L.ReLU(0.75))(x))
    model.layers[1].set_weights([3 * w for w in model.layers[1].get_weights()])
    x = sequences()
    q = quantize_model(model, DDQConfig(budget=None), calibration=x)
    expected, received = array(model(x)), array(q(x))
    assert expected.max() == 0.75
    assert np.abs(received - expected).max() < 0.2
    assert received.max() == pytest.approx(0.75, abs=0.02)


def test_weights_stand_in_the_file_once(tmp_path):
    sizes = []
    for steps in (2, 3):
        model = model_of(lambda x: L.LSTM(32)(x), steps)
        q = quantize_model(model, DDQConfig(budget=None), calibration=sequences(8, steps))
        sizes.append(export_tflite(q, tmp_path / f"{steps}.tflite").size_bytes)
    # The recurrent kernel alone has 32 x 128 values.
    assert sizes[1] - sizes[0] < 2 * 32 * 128 / 2 + 8000
    assert sizes[1] < 2 * sizes[0]


class OwnCell(L.LSTMCell):
    """May compute something else."""


BAD = {
    "fixed length": (lambda x: L.LSTM(3)(x), None),
    f"{MOST_STEPS} steps are the most": (lambda x: L.GRU(3)(x), MOST_STEPS + 1),
    "needs cells among": (lambda x: L.RNN(OwnCell(3))(x), STEPS),
    "one length": (lambda x: L.LSTM(3)(L.Masking()(x)), STEPS),
}


@pytest.mark.parametrize("words", BAD)
def test_refused_by_name(words):
    build, steps = BAD[words]
    x = keras.Input((steps, FEATURES), name="sequence")
    with pytest.raises(DDQError, match=words):
        quantize_model(keras.Model(x, build(x)), calibration=sequences())


def test_a_state_that_is_kept_is_refused():
    x = keras.Input(batch_shape=(1, STEPS, FEATURES), name="sequence")
    model = keras.Model(x, L.LSTM(3, stateful=True)(x))
    with pytest.raises(DDQError, match="stateful=False"):
        quantize_model(model, calibration=sequences())
