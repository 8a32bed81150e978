"""Distillation: the loss it makes, and what it leaves alone."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.training import Distillation
from tests.toys import array, compiled, images, labels, mixed_net, shake

CONFIG = DDQConfig(target="litert-int8", precisions=(4,), budget=None)
X, Y = images(16), labels(16)
WEIGHTS = np.linspace(0.5, 2, 16).astype(np.float32)


def with_softmax(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, keras.layers.Softmax(name="softmax")(model.outputs[0]))


def net(*, softmax: bool = False, seed: int = 0) -> keras.Model:
    model = shake(mixed_net(seed), seed)
    return with_softmax(model) if softmax else model


def fitted(model: keras.Model, *callbacks: keras.callbacks.Callback, **kwargs):
    return model.fit(X, Y, batch_size=16, verbose=0, callbacks=list(callbacks), **kwargs).history


def log_probabilities(outputs, temperature: float, *, softmax: bool) -> np.ndarray:
    values = np.asarray(outputs, np.float64)
    scores = (np.log(values) if softmax else values) / temperature
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("teacher_softmax", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_loss_is_the_formula(teacher_softmax, softmax, weights) -> None:
    teacher = net(softmax=teacher_softmax, seed=3)
    model = quantize_model(net(softmax=softmax), CONFIG, X)
    state = model.get_weights()
    outputs = model(X, training=True)
    model.set_weights(state)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
    model.compile(keras.optimizers.SGD(0.0), loss)
    history = fitted(model, Distillation(teacher, 0.3, 2.5), sample_weight=weights)
    t = log_probabilities(teacher(X), 2.5, softmax=teacher_softmax)
    s = log_probabilities(outputs, 2.5, softmax=softmax)
    plain = -log_probabilities(outputs, 1.0, softmax=softmax)[np.arange(16), Y]
    each = 0.7 * plain + 0.3 * 2.5**2 * (np.exp(t) * (t - s)).sum(axis=-1)
    expected = np.mean(each * (1 if weights is None else weights))
    np.testing.assert_allclose(history["loss"], expected, rtol=2e-6)


class Validated(keras.callbacks.Callback):
    """The validation loss, computed anew after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        expected = -log_probabilities(self.model(X), 1.0, softmax=False)[np.arange(16), Y].mean()
        np.testing.assert_allclose(logs["val_loss"], expected, rtol=1e-5)


def test_validation_files_and_later_trainings_know_no_teacher(tmp_path) -> None:
    teacher, path = net(seed=3), tmp_path / "within.keras"
    before = teacher.get_weights()
    model = compiled(quantize_model(net(), CONFIG, X), keras.optimizers.SGD(0.05))
    keeper = keras.callbacks.ModelCheckpoint(str(path))
    fitted(model, Distillation(teacher), Validated(), keeper, validation_data=(X, Y), epochs=2)
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for file in (path, tmp_path / "after.keras"):
        model.save(tmp_path / "after.keras")
        loaded = keras.models.load_model(file)
        assert len(loaded.variables) == len(model.variables)
        with zipfile.ZipFile(file) as archive:
            assert b"mixed_1" not in archive.read("config.json")
            assert b"Distillation" not in archive.read("config.json")
    assert_plain(model)


def assert_plain(model: keras.Model) -> None:
    """A fit without distillation minimizes the compiled loss."""
    model.optimizer.learning_rate = 0.0
    state = model.get_weights()
    expected = -log_probabilities(model(X, training=True), 1.0, softmax=False)[np.arange(16), Y]
    model.set_weights(state)
    np.testing.assert_allclose(fitted(model)["loss"], expected.mean(), rtol=1e-5)


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("eager", [True, False])
def test_an_interrupted_training_forgets_its_teacher(eager: bool) -> None:
    model = compiled(quantize_model(net(), CONFIG, X), keras.optimizers.SGD(0.0), eager=eager)
    with pytest.raises(KeyboardInterrupt):
        fitted(model, Distillation(net(seed=3)), Interrupt())
    assert_plain(model)


def test_a_model_that_learns_from_its_teacher_alone_comes_closer() -> None:
    teacher = net(seed=3)
    model = compiled(quantize_model(net(), CONFIG, X), keras.optimizers.Adam(0.02), eager=False)
    losses = fitted(model, Distillation(teacher, weight=1.0, temperature=1.0), epochs=60)["loss"]
    assert losses[-1] < 0.1 * losses[0]
    assert np.mean(array(model(X)).argmax(-1) == array(teacher(X)).argmax(-1)) > 0.9


def test_other_losses_and_several_outputs() -> None:
    def two_headed(seed: int) -> keras.Model:
        base = net(seed=seed)
        x = base.get_layer("pool").output
        heads = [keras.layers.Dense(n, name=f"head{n}")(x) for n in (1, 2)]
        return keras.Model(base.input, heads)

    teacher, model = two_headed(3), quantize_model(two_headed(0), CONFIG, X)
    state = model.get_weights()
    pairs = list(zip(teacher(X), model(X, training=True), strict=True))
    model.set_weights(state)
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    targets = (np.zeros((16, 1)), np.zeros((16, 2)))
    distillation = Distillation(teacher, 1.0, loss=keras.losses.MeanSquaredError())
    history = model.fit(X, targets, batch_size=16, verbose=0, callbacks=distillation).history
    expected = sum(np.mean(np.square(array(a) - array(b))) for a, b in pairs)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    teacher = net()
    with pytest.raises(DDQError, match="weight must lie"):
        Distillation(teacher, 1.5)
    with pytest.raises(DDQError, match="temperature must be above 0"):
        Distillation(teacher, temperature=0)
    with pytest.raises(DDQError, match="models that quantize_model returns"):
        fitted(compiled(net()), Distillation(teacher))
    model = compiled(quantize_model(net(), CONFIG, X))
    small = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    with pytest.raises(DDQError, match=r"(?s)inputs are.*outputs are"):
        fitted(model, Distillation(small))
    with pytest.raises(DDQError, match="no Keras model"):
        fitted(model, Distillation("teacher"))  # type: ignore[arg-type]
    sigmoid = keras.Sequential([net(), keras.layers.Activation("sigmoid")])
    with pytest.raises(DDQError, match="from a sigmoid"):
        fitted(model, Distillation(sigmoid))
