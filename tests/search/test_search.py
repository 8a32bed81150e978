import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.search import PrecisionSearch
from ddq_tf.search.callback import is_frozen
from tests.toys import compiled, images, labels, mixed_net

K = keras.layers
X, Y = images(32), labels(32)
FINE = DDQConfig(target="litert-int8", precisions=(2, 3, 4, 5, 6, 7, 8), budget="4.5bits")
COARSE = DDQConfig(target="litert-int8", budget=0.7)
OUT_OF_DATA = "ignore:Your input ran out of data:UserWarning"


def quantized(config=COARSE):
    return quantize_model(mixed_net(), config, X[:16])


def fine_net():
    """Its two smallest layers have steps of less than 2 % of 4.5 bits per weight."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = K.Conv2D(8, 3, strides=2, use_bias=False)(inputs)
    x = K.ReLU()(K.BatchNormalization()(x))
    x = K.Conv2D(32, 1, activation="relu")(x)
    x = K.GlobalAveragePooling2D()(K.Conv2D(16, 1, activation="relu")(x))
    x = K.Dense(6, activation="relu")(x)
    return keras.Model(inputs, K.Dense(4)(x))


def bits(model):
    return [layer.num_bits for layer in weighted_layers(model)]


def fit(model, epochs=4, **kwargs):
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, **kwargs)


def assert_final(model):
    """The choice is within the budget, leaves no step that fits, and will not move."""
    budget = model.weight_budget
    slack = budget.capacity_bits - budget.used_bits
    assert slack >= 0
    for layer, cost in zip(budget.layers, budget.costs, strict=True):
        choice = int(layer.quantizer.choice)
        assert choice + 1 == len(cost) or cost[choice + 1] - cost[choice] > slack * 0.999
        assert layer.quantizer.is_frozen
        assert float(layer.quantizer.explore) == 0
    assert is_frozen(model)


class Spy(keras.callbacks.Callback):
    """Notes the bits and the exploration at the start of every batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        layers = weighted_layers(self.model)
        self.seen.append(
            (bits(self.model), float(layers[0].quantizer.explore), is_frozen(self.model))
        )


@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.SGD(0.02, momentum=0.9), keras.optimizers.Adam(1e-3)],
    ids=["sgd", "adam"],
)
def test_a_plain_fit_reaches_the_budget(optimizer):
    model, spy = quantize_model(fine_net(), FINE, X), Spy()
    history = fit(compiled(model, optimizer, eager=False), 10, callbacks=[spy])
    assert_final(model)
    assert 0.98 <= model.weight_budget.average_bits / 4.5 <= 1
    assert history.history["weight_bits"][-1] == model.weight_budget.average_bits
    assert len(history.history["weight_bits"]) == 10
    half = len(spy.seen) // 2
    assert spy.seen[0][1:] == (pytest.approx(0.15), False)
    assert all(explore > 0 and not frozen for _, explore, frozen in spy.seen[:half])
    assert all(explore == 0 and frozen for _, explore, frozen in spy.seen[half:])
    assert len({tuple(b) for b, *_ in spy.seen[half:]}) == 1
    sums = [np.mean(b) for b, *_ in spy.seen]
    assert sums[0] > sums[half - 1], "the limit sinks while the search lasts"
    assert all(np.isfinite(layer.quantizer.loss_saved()).all() for layer in weighted_layers(model))


def test_the_gates_decide_not_the_layer_order():
    """The budget frees about one layer; evidence put in by hand says which."""
    for favourite in ("expand", "project"):
        model = quantized(DDQConfig(target="litert-int8", budget="5.2bits"))
        search = PrecisionSearch(model.ddq_config)
        search.set_model(model)
        search.set_params({"epochs": 1, "steps": 10})
        search.on_epoch_begin(0)
        for layer in weighted_layers(model):
            saved = 5.0 if layer.name == favourite else 0.01
            layer.quantizer.evidence.assign([[[0, 0], [saved, 1]]])
        search.on_train_end()
        assert model.get_layer(favourite).num_bits == 8
        assert model.get_layer("conv").num_bits == 4
        assert_final(model)


@pytest.fixture(scope="module")
def final():
    model = compiled(quantized())
    fit(model)
    return model


def test_a_second_fit_keeps_the_choice(final):
    before, spy = bits(final), Spy()
    assert len(set(before)) > 1
    history = fit(final, 1, callbacks=[spy])
    assert all(seen == (before, 0, True) for seen in spy.seen)
    assert history.history["weight_bits"] == [final.weight_budget.average_bits]


def test_the_choice_survives_saving_and_training_on(final, tmp_path):
    final.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.ddq_config == final.ddq_config
    assert bits(loaded) == bits(final)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), final.predict(X, verbose=0))
    fit(compiled(loaded), 1)
    assert bits(loaded) == bits(final)
    assert_final(loaded)


def test_no_budget_keeps_full_precision():
    model = compiled(quantized(DDQConfig(target="litert-int8", budget=None)))
    fit(model, 2)
    assert set(bits(model)) == {8}
    assert is_frozen(model)


class StopAfter(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.model.stop_training = True


@pytest.mark.parametrize(
    "stopper",
    [
        StopAfter(1),
        keras.callbacks.EarlyStopping(monitor="weight_bits", mode="max", patience=0),
        # Restores weights of before the choice was made.
        keras.callbacks.EarlyStopping(
            monitor="weight_bits", mode="max", patience=1, restore_best_weights=True
        ),
        keras.callbacks.TerminateOnNaN(),
    ],
    ids=["stop", "early", "restored", "nan"],
)
def test_a_training_that_stops_early_ends_within_the_budget(stopper):
    model = compiled(quantized())
    data = X
    if isinstance(stopper, keras.callbacks.TerminateOnNaN):
        data = np.where(np.arange(32)[:, None, None, None] == 30, np.nan, X)
    model.fit(data, Y, batch_size=16, epochs=20, verbose=0, callbacks=[stopper])
    assert_final(model)


@pytest.mark.filterwarnings(OUT_OF_DATA)
def test_data_that_run_out_end_within_the_budget():
    model = compiled(quantized())
    batches = ((X[:16], Y[:16]) for _ in range(5))
    model.fit(batches, steps_per_epoch=4, epochs=10, shuffle=False, verbose=0)
    assert_final(model)


@pytest.mark.filterwarnings(OUT_OF_DATA)
def test_data_of_unknown_length_end_within_the_budget():
    model = compiled(quantized())
    batches = ((X[i : i + 16], Y[i : i + 16]) for i in (0, 16))
    model.fit(batches, shuffle=False, verbose=0)
    assert_final(model)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_training_keeps_a_final_choice_and_makes_an_open_one(epoch, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    model = compiled(quantized())
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[backup(), Interrupt(epoch)])
    assert is_frozen(model) == (epoch == 3)
    resumed, spy = compiled(quantized()), Spy()
    history = fit(resumed, callbacks=[backup(), spy])
    assert len(history.epoch) == 4 - epoch
    assert_final(resumed)
    if epoch == 3:
        assert all(seen == (bits(model), 0, True) for seen in spy.seen)
    else:
        assert spy.seen[0][1] > 0


def test_a_search_of_the_users_own_is_not_doubled():
    model = compiled(quantized())
    own = PrecisionSearch(DDQConfig(target="litert-int8", budget=1.0))
    fit(model, 2, callbacks=own)
    assert set(bits(model)) == {8}


def test_training_is_determined_by_the_seed():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        model = compiled(quantized())
        fit(model, 2, shuffle=False)
        results.append(model.get_weights())
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
