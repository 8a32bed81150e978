"""BatchNorm re-estimation against statistics computed in numpy."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.training import BatchNormReestimation, reestimate_batch_norm
from tests.toys import array, compiled, images, labels, mixed_net, shake

CONFIG = DDQConfig(target="litert-int8", budget=0.7)
BATCHES = [images(16, seed=2), images(16, seed=3), images(7, seed=4)]
STATISTICS = ("moving_mean", "moving_variance")


def quantized() -> keras.Model:
    return quantize_model(shake(mixed_net()), CONFIG, BATCHES[0])


def before_norm(model: keras.Model, name: str = "norm") -> keras.Model:
    return keras.Model(model.input, model.get_layer(name).input)


def assert_exact(model: keras.Model) -> None:
    """The first BatchNorm has the statistics of all samples together."""
    values = np.concatenate([array(before_norm(model)(x)) for x in BATCHES]).astype(np.float64)
    layer = model.get_layer("norm")
    axes = tuple(range(values.ndim - 1))
    np.testing.assert_allclose(array(layer.moving_mean), values.mean(axes), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(layer.moving_variance), values.var(axes), rtol=1e-5)


def test_the_first_batch_norm_is_exact_and_nothing_else_moves() -> None:
    model = quantized()
    before = {v.path: array(v) for v in model.variables}
    momentum = model.get_layer("norm").momentum
    assert reestimate_batch_norm(model, BATCHES) == 1
    assert_exact(model)
    assert model.get_layer("norm").momentum == momentum
    for variable in model.variables:
        changed = not np.array_equal(array(variable), before[variable.path])
        assert changed == (variable.name in STATISTICS), variable.path
    once = model.get_weights()
    reestimate_batch_norm(model, [(x, None) for x in BATCHES])  # it does not depend on the start
    for one, two in zip(once, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_later_batch_norms_see_normalized_batches_without_dropout() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, name="one"),
            keras.layers.BatchNormalization(epsilon=0.01, name="a"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(4, name="two"),
            keras.layers.BatchNormalization(name="b"),
        ]
    )
    shake(model)
    rng = np.random.default_rng(5)
    batches = [rng.normal(1, 2, (n, 5)).astype(np.float32) for n in (8, 12, 3)]
    reestimate_batch_norm(model, batches)
    a, b = model.get_layer("a"), model.get_layer("b")
    moments = []
    for batch in batches:
        x = batch.astype(np.float64) @ array(model.get_layer("one").kernel)
        x = x + array(model.get_layer("one").bias)
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 0.01) * array(a.gamma) + array(a.beta)
        x = x @ array(model.get_layer("two").kernel) + array(model.get_layer("two").bias)
        moments.append((len(x), x.mean(0), x.var(0)))
    total = sum(n for n, *_ in moments)
    mean = sum(n * m for n, m, _ in moments) / total
    variance = sum(n * (v + m**2) for n, m, v in moments) / total - mean**2
    np.testing.assert_allclose(array(b.moving_mean), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(b.moving_variance), variance, rtol=1e-4)


class AtTheEnd(keras.callbacks.Callback):
    """Looks at the model when `fit` ends, before scales are aligned."""

    def on_train_end(self, logs=None):
        assert_exact(self.model)


def test_the_callback_measures_after_the_last_step() -> None:
    model = compiled(quantized(), keras.optimizers.SGD(0.05))
    endless = itertools.cycle((x, labels(len(x))) for x in BATCHES)
    model.fit(
        images(32),
        labels(32),
        epochs=2,
        verbose=0,
        callbacks=[BatchNormReestimation(endless, num_batches=3), AtTheEnd()],
    )


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model = quantized()
    model.get_layer("norm").trainable = False
    before = model.get_weights()
    assert reestimate_batch_norm(model, BATCHES) == 0
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("batches", "message"),
    [([], "at least one batch"), ([BATCHES[0] * np.nan], "norm are not finite")],
)
def test_bad_batches_leave_the_model_as_it_was(batches, message) -> None:
    model = quantized()
    before = model.get_weights()
    with pytest.raises(DDQError, match=message):
        reestimate_batch_norm(model, batches)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    outputs = array(model(BATCHES[0]))
    model(BATCHES[0])
    np.testing.assert_array_equal(array(model(BATCHES[0])), outputs)


def test_num_batches_is_checked_early() -> None:
    with pytest.raises(DDQError, match="num_batches"):
        BatchNormReestimation(BATCHES, 0)
