"""Keras's manners in `fit`: callbacks that compare epochs, averages, bad numbers, own loops."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, DDQError, PrecisionSearch, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import weighted_layers
from ddq_tf.search.callback import is_frozen
from tests.toys import array, compiled, images, labels, mixed_net

X, Y = images(32), labels(32)
WAITS = "ignore:EarlyStopping waits:UserWarning"
COARSE = DDQConfig(target="litert-int8", precisions=(4, 8), budget=0.7)


def quantized(config: DDQConfig = COARSE):
    return quantize_model(mixed_net(), config, X)


def fit(model, epochs=6, **kwargs):
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, **kwargs)


def bits(model):
    return [layer.num_bits for layer in weighted_layers(model)]


class Seen(keras.callbacks.Callback):
    """What a callback that compares epochs holds best at the end of each."""

    def __init__(self, watched):
        super().__init__()
        self.watched = watched
        self.bests, self.final = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.bests.append(self.watched.best)
        self.final.append(is_frozen(self.model))


def test_early_stopping_neither_stops_nor_restores_before_the_precisions_are_final():
    model = compiled(quantized())
    stop = keras.callbacks.EarlyStopping(
        monitor="loss", patience=1, min_delta=10.0, restore_best_weights=True, start_from_epoch=1
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, 12, callbacks=[stop]).history
    assert any("waits until precisions are final" in str(w.message) for w in caught)
    final = 6  # of 12 epochs, half search
    assert len(history["loss"]) == final + 2
    assert stop.best == history["loss"][final]
    assert stop.start_from_epoch == 1, "its own setting again"
    assert is_frozen(model)
    assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits


def test_the_best_checkpoint_is_of_final_precisions(tmp_path):
    model = compiled(quantized())
    path = tmp_path / "best.keras"
    keep = keras.callbacks.ModelCheckpoint(
        path, monitor="weight_bits", mode="max", save_best_only=True, initial_value_threshold=1.0
    )
    seen = Seen(keep)
    fit(model, 6, callbacks=[keep, seen])
    assert seen.final == [False] * 3 + [True] * 3
    best = keras.models.load_model(path)
    assert is_frozen(best)
    assert bits(best) == bits(model)


@pytest.mark.filterwarnings(WAITS)
def test_an_interrupted_fit_gives_callbacks_their_settings_back():
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    stop = keras.callbacks.EarlyStopping(monitor="loss", start_from_epoch=2)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(quantized()), 6, callbacks=[stop, Interrupt()])
    assert stop.start_from_epoch == 2


@pytest.mark.filterwarnings("error:EarlyStopping waits:UserWarning")
def test_a_fit_of_final_precisions_leaves_callbacks_alone():
    model = compiled(quantized())
    fit(model, 1)
    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=0, min_delta=10.0)
    history = fit(model, 6, callbacks=[stop]).history
    assert len(history["loss"]) == 2


def test_gradients_of_several_steps_may_be_added_up():
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model = compiled(quantized(), optimizer, eager=False)
    fit(model)
    assert model.weight_budget.average_bits <= 0.7 * 8


@pytest.mark.parametrize("frequency", [None, 3])
@pytest.mark.parametrize("eager", [True, False])
def test_averaged_weights_become_those_of_the_model(frequency, eager, tmp_path):
    model = quantized()
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=frequency)
    compiled(model, optimizer, eager=eager)
    averages = {}

    class Note(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pairs = zip(
                optimizer._trainable_variables,
                optimizer._model_variables_moving_average,
                strict=True,
            )
            averages.update({v.path: array(a) for v, a in pairs if a is not None})

    fit(model, 2, callbacks=[Note()])
    assert len(averages) > 8
    bias = model.get_layer("logits").bias  # alignment moves it by less than a thousandth
    np.testing.assert_allclose(array(bias), averages[bias.path], atol=2e-3)
    result = export_tflite(model, tmp_path / "model.tflite")
    assert verify(model, result, [X]).equal_codes_share == 1


@pytest.mark.parametrize("swap_on_epoch", [True, False])
def test_averages_that_are_swapped_in_leave_gates_alone(swap_on_epoch, tmp_path):
    model = compiled(quantized(), keras.optimizers.Adam(0.01, use_ema=True), eager=False)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    for _ in range(2):
        fit(model, 2, callbacks=[swap], validation_data=(X, Y))
    result = export_tflite(model, tmp_path / "model.tflite")
    assert verify(model, result, [X]).equal_codes_share == 1


def test_inputs_that_are_not_finite_are_refused_before_any_step():
    model = compiled(quantized())
    before = [array(v) for v in model.weights]
    bad = X.copy()
    bad[[3, 20], 1] = np.nan
    with pytest.raises(DDQError, match=r"inputs of example 3, 20 are NaN .* of 32 examples"):
        model.fit(bad, Y, epochs=2, verbose=0)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)


class Notes(keras.callbacks.Callback):
    """Weights and optimizer at the begin of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)
        self.kept = [array(v) for v in [*self.model.weights, *self.model.optimizer.variables]]


@pytest.mark.parametrize("eager", [True, False])
def test_a_batch_that_is_not_finite_stops_with_the_last_good_state(eager):
    model = compiled(quantized(), keras.optimizers.Adam(0.01), eager=eager)
    bad = X.copy()
    bad[20] = np.inf
    notes, epochs = Notes(), []

    def batches():
        while True:
            data = bad if len(epochs) == 2 else X
            epochs.append(0)
            for start in range(0, 32, 8):
                yield data[start : start + 8], Y[start : start + 8]

    with pytest.raises(DDQError, match=r"loss became (nan|inf) in batch 2 of epoch 2.*as it was"):
        model.fit(
            batches(), steps_per_epoch=4, epochs=5, verbose=0, shuffle=False, callbacks=[notes]
        )
    now = [array(v) for v in [*model.weights, *model.optimizer.variables]]
    for value, kept in zip(now, notes.kept, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_labels_that_are_not_finite_are_named():
    model = quantized()
    model.compile("sgd", "mse", run_eagerly=True)
    targets = np.zeros((32, 4), np.float32)
    targets[9, 1] = np.inf
    with pytest.raises(DDQError, match=r"labels of example 9 are NaN or infinite"):
        model.fit(X, targets, epochs=2, verbose=0)


def test_weights_that_are_not_finite_are_told_although_the_loss_does_not_show_it():
    """Quantizers clip an infinite weight."""
    notes = Notes()

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(notes.seen) == 2:
                kernel = self.model.get_layer("expand").kernel
                kernel.assign(np.full(kernel.shape, np.inf))

    model = compiled(quantized())
    with pytest.raises(DDQError, match=r"layers 'expand' became .* in epoch 1.*learning rate"):
        fit(model, 6, callbacks=[notes, Break()])
    for variable, kept in zip(model.weights, notes.kept, strict=False):
        np.testing.assert_array_equal(array(variable), kept)


def own_loop(model, search, optimizer, epochs=4):
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    seen = []
    for _ in range(epochs):
        for start in range(0, 32, 8):
            search.step()
            seen.append(bits(model))
            with tf.GradientTape() as tape:
                loss = loss_of(Y[start : start + 8], model(X[start : start + 8], training=True))
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
    return seen


def test_the_search_works_in_a_loop_of_ones_own(tmp_path):
    model = quantized()
    search = PrecisionSearch(model.ddq_config)
    search.start(model, steps=16)
    seen = own_loop(model, search, keras.optimizers.SGD(0.02))
    assert seen[0] == [8] * 4
    assert seen[8:] == [bits(model)] * 8, "final after half of the steps"
    search.finish()
    assert is_frozen(model)
    assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits
    assert len(set(bits(model))) > 1
    result = export_tflite(model, tmp_path / "model.tflite")
    assert verify(model, result, [X]).equal_codes_share == 1


def test_the_search_goes_on_in_a_loop_of_ones_own():
    def trained(*parts):
        model = quantized()
        optimizer = keras.optimizers.SGD(0.02)
        taken = 0
        for epochs in parts:
            search = PrecisionSearch(model.ddq_config)  # a new process would have none
            search.start(model, steps=16, taken=taken)
            own_loop(model, search, optimizer, epochs)
            taken += 4 * epochs
        return [array(v) for v in model.weights]

    for one, two in zip(trained(4), trained(1, 3), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_loop_is_told_what_it_forgot():
    model = quantized()
    search = PrecisionSearch(model.ddq_config)
    with pytest.raises(DDQError, match=r"search.step\(\) needs search.start"):
        search.step()
    with pytest.raises(DDQError, match="0 <= taken < steps"):
        search.start(model, steps=4, taken=4)


def test_weights_of_another_calibration_bring_their_grids_along(tmp_path):
    one = quantize_model(mixed_net(), COARSE, X)
    for hand_over in ("load", "set"):
        two = quantize_model(mixed_net(), COARSE, np.abs(X))
        assert not two.get_layer("image_quant").quantizer.signed
        two.predict(X, verbose=0)  # traced with grids of its own
        if hand_over == "load":
            one.save_weights(tmp_path / "one.weights.h5")
            two.load_weights(tmp_path / "one.weights.h5")
        else:
            two.set_weights(one.get_weights())
        assert two.get_layer("image_quant").quantizer.signed
        np.testing.assert_array_equal(array(two(X)), array(one(X)))
        wanted = one.predict(X, verbose=0)
        np.testing.assert_array_equal(two.predict(X, verbose=0), wanted)


def test_a_clone_knows_what_the_model_knows():
    inputs = {"left": keras.Input((8, 8, 3), name="left")}
    x = keras.layers.GlobalAveragePooling2D()(inputs["left"])
    heads = {name: keras.layers.Dense(2, name=name)(x) for name in ("cls", "box")}
    model = quantize_model(keras.Model(inputs, heads), COARSE, {"left": X})
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model)
    assert clone.ddq_config == model.ddq_config
    assert clone.float_outputs == model.float_outputs
    assert clone.output_names == model.output_names
    assert set(clone({"left": X})) == {"cls", "box"}


def test_a_quantized_model_is_not_quantized_again():
    with pytest.raises(DDQError, match="quantized already: train it on with fit"):
        quantize_model(quantized(), COARSE, X)


@pytest.mark.parametrize("metrics", [None, ["accuracy"]])
def test_a_training_step_is_traced_once(metrics):
    """Keras makes the variables of optimizer and metrics in the first trace, and traces again."""
    model = quantized()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=metrics)
    traces, step = [], model.train_step
    model.train_step = lambda data: traces.append(1) or step(data)
    history = fit(model, 2).history
    assert len(traces) == 1
    assert ("accuracy" in history) == bool(metrics)
