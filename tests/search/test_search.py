import dataclasses
import itertools

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.search import PrecisionSearch, activation_budget
from ddq_tf.search.callback import is_frozen
from tests.toys import array, compiled, images, labels, mixed_net

K = keras.layers
X, Y = images(32), labels(32)
FINE = DDQConfig(
    target="litert-int8",
    precisions=(4, 5),
    budget="4.5bits",
    activation_bits=(4, 5),
    activation_budget=4.5,
)
COARSE = DDQConfig(target="litert-int8", precisions=(4, 8), budget=0.7)
OUT_OF_DATA = "ignore:Your input ran out of data:UserWarning"


def quantized(config=COARSE):
    return quantize_model(mixed_net(), config, X[:16])


def fine_net():
    """Twelve equal layers: a bit of one is less than 2 % of either budget."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = K.Conv2D(8, 3, strides=4, use_bias=False)(inputs)
    x = K.GlobalAveragePooling2D()(K.ReLU()(K.BatchNormalization()(x)))
    for _ in range(11):
        x = K.Dense(8, activation="relu")(x)
    return keras.Model(inputs, K.Dense(8)(x))


def bits(model):
    return [layer.num_bits for layer in weighted_layers(model)]


def fit(model, epochs=4, **kwargs):
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, **kwargs)


def quantizers(model):
    layers = [*weighted_layers(model), *activation_layers(model)]
    return {layer.name: layer.quantizer for layer in layers}


def visiting(model):
    """By name, how far layers are from the precision in force."""
    steps = {n: int(q.active) - int(q.choice) for n, q in quantizers(model).items()}
    return {name: step for name, step in steps.items() if step}


def assert_final(model):
    """The choice is within the budgets, leaves no step that fits, and will not move."""
    activations = activation_budget(model, model.ddq_config)
    for budget in filter(None, (model.weight_budget, activations)):
        slack = (budget.capacity_bits or np.inf) - budget.used_bits
        assert slack >= 0
        for layer, cost in zip(budget.layers, budget.costs, strict=True):
            choice = int(layer.quantizer.choice)
            assert choice + 1 == len(cost) or cost[choice + 1] - cost[choice] > slack * 0.999
    assert not visiting(model)
    assert is_frozen(model)


class Spy(keras.callbacks.Callback):
    """Notes the bits, the layers that visit another precision, and whether the choice is final."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append((bits(self.model), visiting(self.model), is_frozen(self.model)))


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
}


@pytest.mark.parametrize(("optimizer", "levels"), [("sgd", "uniform"), ("adam", "free")])
def test_a_plain_fit_reaches_both_budgets(optimizer, levels):
    config = dataclasses.replace(FINE, levels=levels)
    model, spy = quantize_model(fine_net(), config, X), Spy()
    compiled(model, OPTIMIZERS[optimizer](), eager=False)
    history = fit(model, 4, callbacks=[spy]).history
    assert_final(model)
    activations = activation_budget(model, config)
    assert 0.98 <= model.weight_budget.average_bits / 4.5 <= 1
    assert 0.98 <= activations.average_bits / 4.5 <= 1
    for name, budget in (("weight_bits", model.weight_budget), ("activation_bits", activations)):
        assert len(history[name]) == 4
        assert history[name][0] > history[name][-1] == budget.average_bits
    half = len(spy.seen) // 2
    assert not any(frozen for *_, frozen in spy.seen[:half])
    assert any(visits for _, visits, _ in spy.seen[:half])
    assert all(not visits and frozen for _, visits, frozen in spy.seen[half:])
    assert len({tuple(b) for b, *_ in spy.seen[half:]}) == 1
    assert all(np.isfinite(q.loss_saved()).all() for q in quantizers(model).values())


def searching(config, seed):
    """A search in its first epoch, and the model."""
    model = quantized(dataclasses.replace(config, seed=seed))
    search = PrecisionSearch(model.ddq_config)
    search.set_model(model)
    search.set_params({"epochs": 4, "steps": 50})
    search.on_train_begin()
    search.on_epoch_begin(0)
    return search, model


BOTH = dataclasses.replace(FINE, precisions=(4, 5, 6), activation_bits=(4, 5, 6))


def visits(seed, steps=40):
    """Which layers visited which neighbour, step by step."""
    search, model = searching(BOTH, seed)
    seen = []
    for batch in range(steps):
        search.on_train_batch_begin(batch)
        seen.append(visiting(model))
    return seen, model


def test_visits_are_determined_by_the_seed_and_go_to_neighbours_only():
    first, model = visits(3)
    assert first == visits(3)[0]
    assert first != visits(4)[0]
    flat = [step for visited in first for step in visited.items()]
    assert {step for _, step in flat} == {-1, 1}
    learning = [name for name, q in quantizers(model).items() if len(q.precisions) > 1]
    assert {name for name, _ in flat} == set(learning), "weights and activations"
    # 40 steps at 0.15; the highest precision has one neighbour only.
    assert 0.04 < len(flat) / (40 * len(learning)) < 0.16
    assert any(before.keys() - after.keys() for before, after in itertools.pairwise(first))


def test_validation_during_fit_sees_the_choice_not_the_visits():
    class Check(keras.callbacks.Callback):
        checked = 0

        def on_epoch_end(self, epoch, logs=None):
            self.checked += bool(visiting(self.model))
            for quantizer in quantizers(self.model).values():
                quantizer.visit(int(quantizer.choice))
            scores = array(self.model(X, training=False)).astype(np.float64)
            scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
            assert logs["val_loss"] == pytest.approx(-scores[np.arange(len(Y)), Y].mean(), rel=1e-4)

    model, check = compiled(quantized(BOTH)), Check()
    fit(model, 4, validation_data=(X, Y), callbacks=[check])
    assert check.checked


def test_the_gates_decide_not_the_layer_order():
    """The budget frees about one layer; evidence put in by hand says which."""
    for favourite in ("expand", "project"):
        model = quantized(dataclasses.replace(COARSE, budget="5.2bits"))
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
    assert all(seen == (before, {}, True) for seen in spy.seen)
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


@pytest.mark.filterwarnings("ignore:EarlyStopping waits:UserWarning")
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
        assert all(seen == (bits(model), {}, True) for seen in spy.seen)
    else:
        assert not spy.seen[0][2]


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
