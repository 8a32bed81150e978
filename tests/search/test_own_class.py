"""A subclass with its own way to train keeps it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.search import DDQModel
from tests.toys import array, images, labels

L = keras.layers
X, Y = images(16), labels(16, 3)
CONFIG = DDQConfig(budget=None)


class Smoothed(keras.Model):
    """Trains on targets that it smooths itself, and reports a metric of its own."""

    steps = 0

    def __init__(self, *args, share=0.3, **kwargs):
        super().__init__(*args, **kwargs)
        self.share = share
        self.spread = keras.metrics.Mean(name="spread")

    def train_step(self, data):
        x, y = data
        Smoothed.steps += 1
        result = super().train_step((x, y * (1 - self.share) + self.share / 3))
        self.spread.update_state(keras.ops.std(self(x, training=False)))
        return {**result, "spread": self.spread.result()}


class Loud(Smoothed):
    """A second generation, with its own loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 10 * super().compute_loss(x, y, y_pred, sample_weight, training)


def graph(kind, **kwargs):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu", name="conv")(inputs))
    return kind(inputs, L.Dense(3)(x), **kwargs)


def fitted(model, eager=True):
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
    targets = np.eye(3, dtype=np.float32)[Y]
    return model.fit(X, targets, batch_size=8, epochs=1, verbose=0, shuffle=False).history


@pytest.mark.parametrize("eager", [True, False])
def test_an_own_train_step_is_what_trains(eager):
    q = quantize_model(graph(Smoothed, share=0.5), CONFIG, X)
    assert isinstance(q, DDQModel)
    assert isinstance(q, Smoothed)
    assert q.share == 0.5
    before = Smoothed.steps
    history = fitted(q, eager)
    assert Smoothed.steps > before
    assert history["spread"][0] > 0
    assert history["weight_bits"] == [8.0]


def test_an_own_loss_is_what_is_minimized():
    plain = fitted(quantize_model(graph(Smoothed), CONFIG, X))["loss"][0]
    assert fitted(quantize_model(graph(Loud), CONFIG, X))["loss"][0] > 5 * plain


@pytest.mark.parametrize("first", ["quantized", "loaded"])
def test_it_is_saved_and_loaded(first, tmp_path):
    q = quantize_model(graph(Smoothed, share=0.5), CONFIG, X)
    q.save(tmp_path / "model.keras")
    with pytest.raises(DDQError, match=r"custom_objects=\{'Smoothed': Smoothed\}"):
        keras.models.load_model(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"Smoothed": Smoothed}
    )
    assert isinstance(loaded, Smoothed)
    assert isinstance(loaded, DDQModel)
    assert loaded.share == 0.5
    np.testing.assert_array_equal(array(loaded(X)), array(q(X)))
    before = Smoothed.steps
    fitted(loaded)
    assert Smoothed.steps > before
    clone = keras.models.clone_model(loaded)
    assert clone.ddq_config == q.ddq_config


def test_a_subclass_without_a_way_of_its_own_becomes_a_plain_model():
    class Named(keras.Model):
        @property
        def purpose(self):
            return "none"

    assert type(quantize_model(graph(Named), CONFIG, X)) is DDQModel


def test_a_teacher_outside_the_graph_stays():
    model = graph(Smoothed)
    model.teacher = graph(keras.Model)
    q = quantize_model(model, CONFIG, X)
    assert q.teacher is model.teacher


def test_a_layer_of_the_graph_as_an_attribute_is_refused():
    model = graph(Smoothed)
    model.first = model.get_layer("conv")
    model.parts = [model.get_layer("conv")]
    with pytest.raises(DDQError, match=r"attributes first, parts: layers of the float graph"):
        quantize_model(model, CONFIG, X)


def test_an_own_call_is_read():
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    inner = graph(Doubled)
    inputs = keras.Input((8, 8, 3))
    for model in (inner, keras.Model(inputs, inner(inputs))):
        expected = array(model(X))
        found = array(quantize_model(model, CONFIG, X)(X))
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_a_sequential_with_a_train_step_is_told_what_to_do():
    class Row(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    model = Row([keras.Input((8, 8, 3)), L.Conv2D(2, 3)])
    with pytest.raises(DDQError, match=r"own train_step.*Row\(inputs, outputs\)"):
        quantize_model(model, CONFIG, X)
