"""An interrupted training goes on with the bits and losses of an undisturbed one."""

from __future__ import annotations

import contextlib
import io
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.training import Checkpoint, QuantizerLogger, epochs_kept, forget_training
from ddq_tf.training.kept import keep
from tests.toys import array, compiled, images, labels, layers, mixed_net

X, Y = images(32), labels(32)
CONFIG = DDQConfig(target="litert-int8", precisions=(4, 8), budget=0.7, activation_bits=(4, 8))
SETTINGS = {"rate": 0.02}


def dropping_net():
    """Also random layers, whose state is part of the training."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="early")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="late")(x)
    x = layers.Dropout(0.3, name="drop")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


def trained(folder, *callbacks, settings=None, net=dropping_net):
    model = compiled(quantize_model(net(), CONFIG, X), keras.optimizers.Adam(0.01))
    logger = QuantizerLogger()
    kept = Checkpoint(folder, [logger], settings or SETTINGS)
    given = [logger, *callbacks, kept]
    model.fit(X, Y, batch_size=16, epochs=6, shuffle=False, verbose=0, callbacks=given)
    return model, kept, logger


class Interrupt(keras.callbacks.Callback):
    """Ends the training at one of its moments."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("moment", [(1, 0), (2, 1), (4, 1)], ids=["early", "searching", "final"])
def test_a_training_goes_on_as_if_nothing_had_happened(moment, undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, Interrupt(*moment))
    assert epochs_kept(tmp_path) == moment[0]
    model, kept, logger = trained(tmp_path)
    whole, kept_whole, logger_whole = undisturbed
    for one, two in zip(whole.variables, model.variables, strict=True):
        np.testing.assert_array_equal(array(one), array(two), err_msg=one.path)
    assert kept.history == kept_whole.history
    assert len(kept.history["loss"]) == 6
    assert logger.bits == logger_whole.bits
    bits = [layer.num_bits for layer in weighted_layers(model)]
    assert bits == [layer.num_bits for layer in weighted_layers(whole)]


def test_a_new_model_is_not_given_what_another_left(undisturbed):
    folder = undisturbed[1]._folder
    with pytest.raises(DDQError, match=r"is of another model or optimizer.*Delete"):
        trained(folder, net=mixed_net)
    with pytest.raises(DDQError, match=r"begun with other settings: rate=0.02, now 0.5"):
        trained(folder, settings={"rate": 0.5})


def kept_in(folder):
    """A file as `Checkpoint` writes it."""
    notes = {"epochs_done": 3, "history": {}}
    keep(folder / "training.npz", [keras.Variable(np.ones(5000))], notes=notes, settings={})
    return folder / "training.npz"


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_broken_file_is_told(tmp_path, damage):
    path = kept_in(tmp_path)
    path.write_bytes(path.read_bytes()[:2000] if damage == "cut" else b"something else")
    with pytest.raises(DDQError, match=r"cannot read the unfinished work .*training.npz.*Delete"):
        Checkpoint(tmp_path)


def test_it_is_removed_with_its_folder_unless_others_use_that(tmp_path):
    folder = tmp_path / "kept"
    kept_in(folder)
    kept = Checkpoint(folder)
    assert kept.epochs_done == epochs_kept(folder) == 3
    kept.remove()
    assert not folder.exists()
    kept_in(folder)
    (folder / "mine.txt").write_text("stay")
    forget_training(folder)
    assert [f.name for f in folder.iterdir()] == ["mine.txt"]
    assert epochs_kept(folder) is None


def held(notes):
    """The file of a checkpoint without variables."""
    file = io.BytesIO()
    np.savez(file, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8))
    return bytearray(file.getvalue())


GOOD = {"format": 1, "notes": {"epochs_done": 1, "history": {}}, "settings": {}, "variables": 0}


@given(bit=st.integers(0, 8 * len(held(GOOD)) - 1))
@settings(max_examples=300, deadline=None)
def test_any_flipped_bit_is_harmless_or_named(tmp_path_factory, bit):
    content = held(GOOD)
    content[bit // 8] ^= 1 << bit % 8
    folder = tmp_path_factory.mktemp("kept")
    (folder / "training.npz").write_bytes(content)
    with contextlib.suppress(DDQError):  # any other error fails the test
        assert Checkpoint(folder).epochs_done >= 0


@pytest.mark.parametrize(
    "notes",
    [
        [],
        None,
        {**GOOD, "notes": {}},
        {**GOOD, "notes": []},
        {**GOOD, "notes": {"epochs_done": "x", "history": {}}},
        {**GOOD, "notes": {"epochs_done": 1e999, "history": {}}},
        {**GOOD, "notes": {"epochs_done": 1, "history": [1]}},
        {**GOOD, "notes": {"epochs_done": 1, "history": {"loss": 3}}},
        {**GOOD, "notes": {"epochs_done": 1, "history": {"loss": ["x"]}}},
        {**GOOD, "settings": 3},
        {**GOOD, "variables": "many"},
    ],
)
def test_forged_notes_are_named(notes, tmp_path):
    (tmp_path / "training.npz").write_bytes(held(notes))
    for look in (Checkpoint, epochs_kept):
        with pytest.raises(DDQError, match="cannot read the unfinished work"):
            look(tmp_path)


def test_what_unpacks_to_more_than_it_is_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "training.npz", notes=np.zeros(1 << 20, np.uint8))
    with pytest.raises(DDQError, match="it is packed, which ddq_tf never does"):
        Checkpoint(tmp_path)


def test_missing_and_odd_variables_are_named(tmp_path):
    model = compiled(mixed_net())
    for arrays in ({}, {"variable_0": np.array(["x"])}):
        file = io.BytesIO()
        notes = np.frombuffer(json.dumps({**GOOD, "variables": 1}).encode(), np.uint8)
        np.savez(file, notes=notes, **arrays)
        (tmp_path / "training.npz").write_bytes(file.getvalue())
        with pytest.raises(DDQError, match="unfinished work"):
            model.fit(X, Y, verbose=0, callbacks=[Checkpoint(tmp_path)])
