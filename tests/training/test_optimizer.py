"""A learning rate of their own for ranges and levels."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.training import QuantizerLearningRate, TrainConfig, make_optimizer
from tests.toys import array, compiled, images, labels, mixed_net

X, Y = images(32), labels(32)
FREE = DDQConfig(target="litert-int8", precisions=(2, 3), levels="free", budget="2.5bits")
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.003),
    "adamw": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.01, 8), global_clipnorm=1.0
    ),
}


def quantized() -> keras.Model:
    return quantize_model(mixed_net(), FREE, X[:16])


def is_learned(variable) -> bool:
    return variable.path.endswith(("quantizer/log_range", "quantizer/levels/levels"))


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: array(v) for v in model.variables}


def stepped(optimizer: keras.optimizers.Optimizer, steps: int = 1) -> keras.Model:
    model = compiled(quantized(), optimizer)
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_quantizers_take_the_factor_of_a_step_and_others_all_of_it(name: str) -> None:
    start, plain = values(quantized()), values(stepped(OPTIMIZERS[name]()))
    scaled = stepped(QuantizerLearningRate(OPTIMIZERS[name](), 0.25))
    learned = [v for v in scaled.trainable_variables if is_learned(v)]
    assert len(learned) == 4 * 2 + 6
    for variable in scaled.variables:
        path = variable.path
        if is_learned(variable):
            wanted = start[path] + np.float32(0.25) * (plain[path] - start[path])
            np.testing.assert_allclose(array(variable), wanted, rtol=1e-6, atol=1e-9)
        else:
            np.testing.assert_array_equal(array(variable), plain[path], err_msg=path)
    moved = [not np.array_equal(array(v), start[v.path]) for v in learned]
    assert sum(moved) >= 8
    evidence = [v for v in scaled.variables if v.name == "evidence"]
    assert all(np.any(array(v) != 0) for v in evidence)


def test_a_factor_of_zero_holds_quantizers() -> None:
    start, model = values(quantized()), stepped(QuantizerLearningRate(OPTIMIZERS["adam"](), 0.0), 5)
    for variable in model.trainable_variables:
        if variable.name != "evidence":
            same = np.array_equal(array(variable), start[variable.path])
            assert same == is_learned(variable), variable.path


def test_sgd_with_a_factor_is_sgd_with_that_rate() -> None:
    """Momentum and all: ranges learn as with an optimizer of a quarter of the rate."""
    slow = stepped(keras.optimizers.SGD(0.02 * 0.25, momentum=0.9), 1)
    fast = stepped(QuantizerLearningRate(keras.optimizers.SGD(0.02, momentum=0.9), 0.25), 1)
    for a, b in zip(slow.variables, fast.variables, strict=True):
        if is_learned(a):
            np.testing.assert_allclose(array(a), array(b), rtol=1e-5, atol=1e-8)


def test_schedules_and_callbacks_reach_the_wrapped_one() -> None:
    model = compiled(quantized(), QuantizerLearningRate(keras.optimizers.SGD(0.5), 0.1))
    rates = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1))
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[rates]).history
    np.testing.assert_allclose(history["learning_rate"], [0.01, 0.005])
    assert float(model.optimizer.inner.learning_rate) == pytest.approx(0.005)
    assert int(model.optimizer.iterations) == 2
    config = TrainConfig(quantizer_learning_rate=0.1, optimizer="adam")
    made = make_optimizer(config, 10)
    assert isinstance(made, QuantizerLearningRate)
    assert made.factor == 0.1
    assert not isinstance(make_optimizer(TrainConfig(), 10), QuantizerLearningRate)


def test_it_survives_saving(tmp_path) -> None:
    model = stepped(QuantizerLearningRate(keras.optimizers.Adam(0.003), 0.3), 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, QuantizerLearningRate)
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    model.train_on_batch(X, Y)
    loaded.train_on_batch(X, Y)
    for one, two in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(DDQError, match="factor"):
        QuantizerLearningRate(keras.optimizers.SGD(0.1), -1.0)
    with pytest.raises(DDQError, match="use_ema"):
        QuantizerLearningRate(keras.optimizers.SGD(0.1, use_ema=True), 0.5)
