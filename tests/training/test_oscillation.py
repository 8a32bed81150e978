"""Dampening and freezing of oscillating weights against numpy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.training import Checkpoint, OscillationDampening, OscillationFreezing
from tests.toys import array, compiled, images, labels, mixed_net

X, Y = images(16), labels(16)
CONFIGS = {
    "uniform": DDQConfig(target="litert-int8", precisions=(3,), budget=None),
    "free": DDQConfig(
        target="litert-int8", precisions=(3,), budget=None, levels="free", correction=0.0
    ),
    "merged": DDQConfig(
        target="litert-int8",
        precisions=(2, 4),
        budget="2bits",
        levels="free",
        level_init="kmeans",
        correction=0.0,
    ),
    "tensor": DDQConfig(target="litert-int8", precisions=(4,), budget=None, per_channel=False),
}


def quantized(name: str) -> keras.Model:
    return quantize_model(mixed_net(), CONFIGS[name], X)


def final(name: str) -> keras.Model:
    """A model whose precisions, the lowest, are final."""
    model = quantized(name)
    for layer in [*model.layers]:
        if hasattr(layer, "quantizer"):
            layer.quantizer.choose(0)
            layer.quantizer.frozen.assign(True)
    return model


def levels_of(layer) -> np.ndarray:
    """Every weight's possible values: (levels, channels)."""
    levels = layer.quantizer.levels_in_force()
    return levels[:, None] * layer.quantizer.range_in_force().reshape(1, -1)


def numbers_of(layer) -> np.ndarray:
    """The number of the level that each weight has, by distance."""
    kernel = array(layer.kernel).reshape(-1, levels_of(layer).shape[1])
    distances = np.abs(kernel[:, None, :] - levels_of(layer)[None])
    return distances.argmin(axis=1)


class Twin:
    """Nagel et al., written down a second time."""

    def __init__(self, layer, momentum: float) -> None:
        self.layer, self.m = layer, momentum
        self.number = numbers_of(layer)
        self.average = self.number.astype(np.float64)
        self.direction = np.zeros(self.number.shape)
        self.frequency = np.zeros(self.number.shape)
        self.frozen = np.zeros(self.number.shape, bool)

    def look(self, threshold: float) -> None:
        number = numbers_of(self.layer)
        move = np.sign(number - self.number)
        turned = (move != 0) & (self.direction != 0) & (move != self.direction)
        self.frequency = self.m * turned + (1 - self.m) * self.frequency
        self.average = np.where(
            self.frozen, self.average, self.m * number + (1 - self.m) * self.average
        )
        self.direction = np.where(move != 0, move, self.direction)
        self.number = number
        self.frozen |= self.frequency > threshold

    def expected(self) -> np.ndarray:
        """The kernel with frozen weights at their level."""
        kernel = array(self.layer.kernel).reshape(self.frozen.shape)
        chosen = np.take_along_axis(levels_of(self.layer), np.rint(self.average).astype(int), 0)
        return np.where(self.frozen, chosen, kernel).reshape(self.layer.kernel.shape)


@pytest.mark.parametrize("name", CONFIGS)
def test_freezing_is_the_algorithm(name: str) -> None:
    model, rng = final(name), np.random.default_rng(0)
    aid = OscillationFreezing(threshold=0.1, first_threshold=0.4, momentum=0.13)
    aid.set_model(model)
    aid.set_params({"epochs": 1, "steps": 40})
    aid.on_train_begin()
    aid.on_epoch_begin(0)
    layers = weighted_layers(model)
    starts = [array(layer.kernel) for layer in layers]
    twins = []
    for batch in range(40):
        for layer, start in zip(layers, starts, strict=True):
            noise = rng.normal(0, 0.05 * np.abs(start).max(), start.shape)
            layer.kernel.assign(start + noise.astype(np.float32))
            if batch > 20:  # ranges and levels go on learning
                layer.quantizer.log_range.assign_add(
                    0.002 * np.ones(layer.quantizer.log_range.shape)
                )
        moved = [array(layer.kernel) for layer in layers]
        aid.on_train_batch_end(batch)
        if not twins:
            twins = [Twin(layer, 0.13) for layer in layers]
            continue
        threshold = 0.1 + 0.3 * (1 + np.cos(np.pi * batch / 40)) / 2
        for twin, kernel in zip(twins, moved, strict=True):
            left = array(twin.layer.kernel)
            twin.layer.kernel.assign(kernel)
            twin.look(threshold)
            np.testing.assert_allclose(left, twin.expected(), rtol=1e-6, atol=1e-9)
            twin.layer.kernel.assign(left)
    frozen = np.concatenate([twin.frozen.ravel() for twin in twins])
    assert 0.1 < frozen.mean() < 0.99
    assert aid.frozen_share == frozen.mean()


class Spy(keras.callbacks.Callback):
    """Notes all weight codes after each step and at each evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[np.ndarray] = []
        self.evaluated: list[np.ndarray] = []

    def _codes(self) -> np.ndarray:
        layers = weighted_layers(self.model)
        return np.concatenate([layer.integer_weights()[0].ravel() for layer in layers])

    def on_train_batch_end(self, batch, logs=None):
        self.codes.append(self._codes())

    def on_test_begin(self, logs=None):
        self.evaluated.append(self._codes())


@pytest.mark.parametrize("every", [1, 3])
def test_frozen_weights_stay_in_fit(every: int) -> None:
    optimizer, spy = keras.optimizers.Adam(0.05), Spy()
    model = compiled(quantized("uniform"), optimizer, eager=False)
    aid = OscillationFreezing(threshold=0.0, momentum=0.1, every=every)
    history = model.fit(
        X,
        Y,
        batch_size=4,
        epochs=10,
        shuffle=False,
        validation_data=(X, Y),
        callbacks=[aid, spy],
        verbose=0,
    ).history
    shares = history["frozen_weights"]
    assert shares == sorted(shares)
    assert shares[4] == 0 < shares[-1] == aid.frozen_share < 1
    frozen = np.concatenate([array(t.frozen).ravel() for t in aid._trackers])
    held = np.concatenate([np.rint(array(t.average)).ravel() - 3 for t in aid._trackers])
    np.testing.assert_array_equal(spy.evaluated[-1][frozen], held[frozen])
    np.testing.assert_array_equal(spy._codes()[frozen], held[frozen])
    np.testing.assert_array_equal(spy.codes[every * (40 // every) - 1][frozen], held[frozen])
    assert np.any(spy.codes[-1][~frozen] != spy.codes[20][~frozen])


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def test_a_resumed_training_goes_on_where_it_was(tmp_path) -> None:
    def train(folder, *callbacks):
        model = compiled(quantized("uniform"), keras.optimizers.Adam(0.02))
        aid = OscillationFreezing(0.01, momentum=0.05, every=2)
        given = [aid, Checkpoint(folder, [aid]), *callbacks]
        model.fit(X, Y, batch_size=8, epochs=5, shuffle=False, callbacks=given, verbose=0)
        return model, aid

    whole, first = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Interrupt())
    resumed, second = train(tmp_path / "parts")
    assert first.frozen_share == second.frozen_share > 0
    for one, two in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", CONFIGS)
def test_dampening_pulls_to_levels_within_reach(name: str) -> None:
    """One step of SGD on a loss that is the dampening term alone."""
    model = final(name)
    for layer in weighted_layers(model):
        kernel = array(layer.kernel)
        kernel.flat[:2] = 9.0, -9.0  # far outside the range
        layer.kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(0.5), lambda y, outputs: 0.0 * outputs, run_eagerly=True)
    before = {v.path: array(v) for v in model.variables}
    wanted, total = {}, 0.0
    for layer in weighted_layers(model):
        levels, kernel = levels_of(layer), array(layer.kernel)
        flat = kernel.reshape(-1, levels.shape[1])
        target = np.take_along_axis(levels, numbers_of(layer), 0)
        gap = np.where((flat >= levels[0]) & (flat <= levels[-1]), flat - target, 0)
        wanted[layer.kernel.path] = kernel - 0.5 * 2 * 0.2 * gap.reshape(kernel.shape)
        total += 0.2 * np.sum(np.square(gap.astype(np.float64)))

    class Halfway(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 1  # of two: the coefficient is at its half

        def on_train_batch_end(self, batch, logs=None):
            self.after = {v.path: array(v) for v in self.model.variables}

    halfway = Halfway()
    history = model.fit(
        X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[OscillationDampening(0.4), halfway]
    ).history
    np.testing.assert_allclose(history["loss"], [total], rtol=1e-5)
    assert total > 0
    for path, value in halfway.after.items():
        if path in wanted:
            np.testing.assert_allclose(value, wanted[path], rtol=1e-5, atol=1e-7)
        elif "moving" not in path and "evidence" not in path:
            np.testing.assert_array_equal(value, before[path], err_msg=path)


@pytest.mark.parametrize("name", ["uniform", "merged"])
def test_dampening_waits_for_the_precision_and_spares_validation(name: str) -> None:
    model = compiled(quantized(name), keras.optimizers.SGD(0.0))
    arguments = {"batch_size": 16, "epochs": 4, "validation_data": (X, Y), "verbose": 0}

    class Plain(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            scores = array(self.model(X)).astype(np.float64)
            scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
            np.testing.assert_allclose(
                logs["val_loss"], -scores[np.arange(16), Y].mean(), rtol=1e-5
            )

    state = model.get_weights()
    plain = model.fit(X, Y, **arguments).history["loss"]
    model = compiled(quantized(name), keras.optimizers.SGD(0.0))
    for one, two in zip(state, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    aids = [OscillationDampening(2.0), Plain()]
    damped = model.fit(X, Y, callbacks=aids, **arguments).history["loss"]
    assert damped[:2] == plain[:2]
    assert plain[2] < damped[2] < damped[3]
    assert model.fit(X, Y, batch_size=16, verbose=0).history["loss"][0] < damped[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OscillationDampening(-1.0), "coefficient"),
        (lambda: OscillationFreezing(2.0), "threshold must lie"),
        (lambda: OscillationFreezing(0.1, 0.05), "first_threshold"),
        (lambda: OscillationFreezing(momentum=0.0), "momentum"),
        (lambda: OscillationFreezing(every=0), "every"),
    ],
)
def test_what_cannot_be_is_refused(make, message: str) -> None:
    with pytest.raises(DDQError, match=message):
        make()
