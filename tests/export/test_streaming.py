"""Files of one time step: equal to the whole sequence, code by code, and refused by name."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf import cli
from ddq_tf.errors import DDQError
from ddq_tf.export import Runner, Stream, delegation, export_tflite, first_difference, verify
from ddq_tf.export.interpreter import quantized_inputs
from tests.toys import array, shake

L = keras.layers
STEPS, FEATURES = 4, 5


def readings(count=24, shape=(STEPS, FEATURES)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def ddq(build, shape=(STEPS, FEATURES), config=None):
    """A DDQ model of `build`, with weights that are all other than zero."""
    x = keras.Input(shape, name="features")
    model = shake(keras.Model(x, build(x), name="net"))
    config = config or ddq_tf.DDQConfig(budget=None)
    return ddq_tf.quantize_model(model, config, calibration=readings(shape=shape))


def step_for_step(x):
    """Layers on each step alone around stacked recurrent ones; an answer at each step."""
    y = L.LayerNormalization()(L.Dense(6, activation="gelu")(x))
    y = L.BatchNormalization()(L.Add()([y, L.Conv1D(6, 1, activation="relu")(y)]))
    y = L.LSTM(4, return_sequences=True, name="first")(L.PReLU(shared_axes=[1])(y))
    y = L.GRU(3, return_sequences=True, name="second")(L.Dropout(0.2)(y))
    return L.Dense(3, activation="softmax", name="answer")(L.Concatenate()([y, x]))


def cells(x):
    """All kinds of cells, and states that are answers too."""
    stacked = [L.SimpleRNNCell(3), L.GRUCell(2, reset_after=False), L.LSTMCell(2)]
    _, *states = L.RNN(stacked, return_state=True, name="rnn")(x)
    return {"mean": L.Dense(2)(L.Concatenate()(keras.tree.flatten(states))), "rnn_2_h": states[1]}


def rows_of_pictures(x):
    """A ReLU as the activation of an LSTM, on the rows of a picture."""
    rows = L.Reshape((STEPS, FEATURES))(L.Rescaling(1 / 4)(x))
    return L.Dense(3)(L.LSTM(5, activation="relu", name="lstm")(rows))


USES = {
    "step for step": (step_for_step, (STEPS, FEATURES), ["first_h", "first_c", "second_h"]),
    "cells": (cells, (STEPS, FEATURES), ["rnn_h", "rnn_1_h", "rnn_2_h_2", "rnn_2_c"]),
    "rows": (rows_of_pictures, (STEPS, FEATURES, 1), ["lstm_h", "lstm_c"]),
}


@pytest.mark.parametrize("use", USES)
def test_steps_give_the_codes_of_the_whole_sequence(use, tmp_path):
    build, shape, states = USES[use]
    x = readings(shape=shape)
    q = ddq(build, shape)
    q.save(tmp_path / "net.keras")
    q = keras.models.load_model(tmp_path / "net.keras")
    whole = Runner(export_tflite(q, tmp_path / "whole.tflite").path)
    file = export_tflite(q, tmp_path / "step.tflite", streaming=True)
    stream = Stream(file)
    assert delegation(file.path).is_complete
    expected = whole.run(quantized_inputs(whole, {"features": x}))
    by_step = stream.run({"features": stream.inputs["features"].quantize(x)})
    assert list(stream.states) == states
    assert list(stream.outputs) == list(whole.outputs)
    for name, codes in expected.items():
        last = by_step[name][:, -1]
        np.testing.assert_array_equal(codes if codes.ndim == 2 else codes[:, -1], last, name)
        assert len(np.unique(last)) > 10, "outputs that hardly vary prove nothing"
    proof = verify(q, file, x)
    assert (proof.equal_codes_share, proof.weight_codes_identical) == (1.0, True)
    assert first_difference(q, x, streaming=True) is None


def test_a_trained_model_streams_real_numbers(tmp_path):
    """Also with other types outside, whatever the batch, and again from zeros."""
    q = ddq(lambda x: L.Dense(3)(L.LSTM(6, name="lstm")(x)), config=ddq_tf.DDQConfig(budget=0.8))
    x = readings()
    q.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    q.fit(x, np.arange(len(x)) % 3, verbose=0)
    types = {"input_type": "uint8", "output_type": "float32"}
    file = export_tflite(q, tmp_path / "step.tflite", streaming=True, **types)
    stream, expected = Stream(file), array(q(x))
    infos = Runner(file.path).inputs
    assert [info.dtype for info in infos.values()] == [np.uint8, np.int8, np.int8]
    for batch in (slice(0, 1), slice(3, 9)):
        stream.reset()
        for step in range(STEPS):
            received = stream(x[batch, step])
        np.testing.assert_array_equal(received, expected[batch])
    sizes = [export_tflite(q, tmp_path / "whole.tflite").size_bytes, file.size_bytes]
    assert sizes[1] < 0.7 * sizes[0]


def test_by_commands(tmp_path, capsys):
    """The rows of a picture, one after the other."""

    def build(x):
        return L.Dense(10)(L.GRU(6, name="rows")(L.Reshape((8, 24))(x)))

    ddq(build, (8, 8, 3)).save(tmp_path / "net.keras")
    out, record = tmp_path / "step.tflite", tmp_path / "run.json"
    model = str(tmp_path / "net.keras")
    assert cli.run(["export", model, f"--out={out}", "--streaming", f"--json={record}"]) == 0
    assert "one time step; states: rows_h" in " ".join(capsys.readouterr().out.split())
    assert json.loads(record.read_text())["results"]["states"] == ["rows_h"]
    data = ["--data=digits", "--limit=64", "--input_range=-1,1"]
    assert cli.run(["verify", model, str(out), *data]) == 0
    assert "All output codes are equal" in " ".join(capsys.readouterr().out.split())
    assert cli.run(["evaluate", str(out), *data[:2]]) == 2
    assert "the file of the whole sequence" in " ".join(capsys.readouterr().err.split())


def several(x):
    """A layer of each kind that cannot stream, beside one that can."""
    sequence, *state = L.LSTM(3, return_sequences=True, return_state=True, name="fine")(x)
    parts = [
        L.Flatten()(L.Conv1D(3, 3, padding="same", name="window")(x)),
        L.GlobalAveragePooling1D(name="mean")(sequence),
        L.Flatten(name="flat")(sequence),
        L.MultiHeadAttention(1, 4, name="attention")(x, x)[:, -1],
        L.Add(name="two_steps")([sequence[:, 0], sequence[:, -1]]),
        L.Bidirectional(L.SimpleRNN(2), name="both")(x),
        L.GRU(2, go_backwards=True, name="back")(x),
        L.LSTM(3, name="given")(x, initial_state=state),
    ]
    return {"late": L.Dense(2)(L.Concatenate()(parts)), "early": sequence[:, 1]}


def test_all_that_cannot_stream_is_named_at_once(tmp_path):
    q = ddq(several)
    with pytest.raises(DDQError, match="one step and the states") as refused:
        export_tflite(q, tmp_path / "step.tflite", streaming=True)
    lines = str(refused.value).splitlines()[1:]
    words = {
        "'both'": "forwards",
        "'back'": "forwards",
        "'given'": "initial_state",
        "'window": "several of the 4 steps",
        "'mean": "several of the 4 steps",
        "'attention": "several of the 4 steps",
        "'flat'": "joins the 4 steps",
        "'two_steps'": "Received: step 1 of 4",
        "output 'early'": "Received: step 2 of 4",
    }
    assert len(lines) == len(words)
    for name, reason in words.items():
        assert [reason in line for line in lines if name in line] == [True], name
    assert not (tmp_path / "step.tflite").exists()


twice = L.SimpleRNN(3, name="twice")
BAD = {
    "needs a recurrent layer": (lambda x: L.Dense(3)(L.Flatten()(x)), (STEPS, FEATURES)),
    "two steps at least": (L.GRU(3), (1, FEATURES)),
    r"input 'features'.*sequences": (lambda x: L.GRU(3)(L.Reshape((4, 5))(x)), (20,)),
    "layer 'twice': .*single call": (
        lambda x: L.Add()([twice(x), twice(L.Activation("tanh")(x))]),
        (STEPS, FEATURES),
    ),
    "several of the 4 steps": (  # positions, which differ from step to step
        lambda x: L.GRU(3)(x + np.arange(4, dtype=np.float32).reshape(1, 4, 1)),
        (STEPS, FEATURES),
    ),
}


@pytest.mark.parametrize("words", BAD)
def test_refused_by_name(words, tmp_path):
    build, shape = BAD[words]
    with pytest.raises(DDQError, match=words):
        export_tflite(ddq(build, shape), tmp_path / "step.tflite", streaming=True)


def test_what_does_not_fit_a_stream(tmp_path):
    q = ddq(L.GRU(3))
    with pytest.raises(DDQError, match=r"a target that runs in LiteRT.*'tflm'"):
        export_tflite(q, tmp_path / "step.tflite", target="tflm", streaming=True)
    with pytest.raises(DDQError, match="streaming"):
        export_tflite(q, tmp_path / "step.tflite", streaming="lstm")  # type: ignore[arg-type]
    labels = ddq_tf.export.ModelMetadata(labels=("a", "b", "c"))
    with pytest.raises(DDQError, match="labels need one output"):
        export_tflite(q, tmp_path / "step.tflite", metadata=labels, streaming=True)
    with pytest.raises(DDQError, match="a file without states"):
        Stream(export_tflite(q, tmp_path / "whole.tflite"))
    stream = Stream(export_tflite(q, tmp_path / "step.tflite", streaming=True))
    codes = np.zeros((2, FEATURES), np.int8)
    with pytest.raises(DDQError, match="needs sequences"):
        stream.run({"features": codes})
    stream.step({"features": codes})
    with pytest.raises(DDQError, match="equally many examples"):
        stream.step({"features": codes[:1]})
    other = ddq(lambda x: L.Dense(4)(L.GRU(3)(x)))
    with pytest.raises(DDQError, match="exported from another model"):
        verify(other, tmp_path / "step.tflite", readings())
