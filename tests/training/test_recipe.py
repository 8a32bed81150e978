from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.layers import weighted_layers
from ddq_tf.models import mobilenet_v2, resnet8
from ddq_tf.training import (
    QuantizerLogger,
    TrainConfig,
    accuracy,
    epochs_kept,
    fit_classifier,
    make_optimizer,
    outputs_logits,
)
from tests.toys import array, mixed_net


def toy_batches(*, finite: bool = True) -> tf.data.Dataset:
    """96 points in 3 classes that a linear model tells apart; batches of 16."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 3
    points = (3.0 * np.eye(3)[labels] + rng.normal(0, 0.5, (96, 3))).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((points, labels.astype("int64"))).batch(16)
    return batches if finite else batches.repeat()


def toy_model(activation: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3, activation=activation),
        ]
    )


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_learns(activation: str | None, optimizer: str) -> None:
    model = toy_model(activation)
    config = TrainConfig(
        epochs=6,
        learning_rate=0.05,
        optimizer=optimizer,
        label_smoothing=0.1 if optimizer == "adam" else 0.0,
        weight_decay=1e-4,
    )
    history = fit_classifier(
        model, toy_batches(), toy_batches(), config, steps_per_epoch=6, verbose=0
    )
    assert history.history["val_accuracy"][-1] > 0.95
    assert accuracy(model, toy_batches()) == pytest.approx(history.history["val_accuracy"][-1])
    assert model.loss.from_logits == (activation is None)


def test_is_reproducible_and_takes_endless_data() -> None:
    weights = []
    for finite in (True, False):
        model = toy_model()
        fit_classifier(
            model,
            toy_batches(finite=finite),
            None,
            TrainConfig(epochs=2),
            steps_per_epoch=6,
            verbose=0,
        )
        weights.append(model.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def test_resumes_after_an_interruption(tmp_path: Path) -> None:
    config = TrainConfig(epochs=4, learning_rate=0.05)

    def train(folder: Path, *callbacks: keras.callbacks.Callback) -> keras.Model:
        model = toy_model()
        history = fit_classifier(
            model,
            toy_batches(),
            None,
            config,
            steps_per_epoch=6,
            checkpoint_dir=folder,
            callbacks=callbacks,
            verbose=0,
        )
        model.epochs_seen = history.epoch
        model.losses_seen = history.history["loss"]
        return model

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", Interrupt())
    resumed = train(tmp_path / "parts")
    assert resumed.epochs_seen == [0, 1, 2, 3]
    assert resumed.losses_seen == whole.losses_seen
    for first, second in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    logged = (tmp_path / "parts" / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in logged] == ["epoch", "0", "1", "2", "3"]
    again = train(tmp_path / "parts")  # what is complete stays as it is
    assert again.losses_seen == whole.losses_seen
    for first, second in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_all_aids_together_resume_after_an_interruption(tmp_path: Path) -> None:
    images = np.random.default_rng(2).normal(0, 1, (32, 8, 8, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((images, np.arange(32) % 4)).batch(4)
    config = TrainConfig(
        epochs=4,
        learning_rate=0.03,
        optimizer="adam",
        distill=0.5,
        dampening=0.01,
        freeze_oscillations=0.001,
        reestimate_batch_norm=2,
        quantizer_learning_rate=0.3,
    )
    ddq = DDQConfig(target="litert-int8", precisions=(3,), budget=None, levels="free")

    def train(folder: Path, *callbacks: keras.callbacks.Callback) -> tuple[keras.Model, dict]:
        teacher = mixed_net()
        model = quantize_model(teacher, ddq, images)
        history = fit_classifier(
            model,
            batches,
            batches,
            config,
            steps_per_epoch=8,
            teacher=teacher,
            checkpoint_dir=folder,
            callbacks=[QuantizerLogger(), *callbacks],
            verbose=0,
        )
        return model, history.history

    whole, history = train(tmp_path / "whole")
    assert history["frozen_weights"][-1] > 0
    interrupted, resumed_at = InterruptLate(), StateAt(3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", interrupted)
    resumed, _ = train(tmp_path / "parts", resumed_at)
    assert resumed_at.state.keys() == interrupted.state.keys()
    for name, value in interrupted.state.items():  # what the last epoch is computed from
        np.testing.assert_array_equal(resumed_at.state[name], value, err_msg=name)
    # TensorFlow may optimize two traces of one step differently, so that float sums differ in
    # their last bits: what is compared at the end are the codes of the file.
    for first, second in zip(weighted_layers(whole), weighted_layers(resumed), strict=True):
        np.testing.assert_array_equal(first.integer_weights()[0], second.integer_weights()[0])
    assert sorted(f.name for f in (tmp_path / "parts").iterdir()) == ["history.csv", "training.npz"]
    header = (tmp_path / "parts" / "history.csv").read_text().splitlines()[0].split(",")
    assert {"frozen_weights", "quantization_error", "weight_bits"} <= set(header)


class StateAt(keras.callbacks.Callback):
    """Takes all that a training step computes from, as an epoch begins."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch
        self.state: dict[str, np.ndarray] = {}

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == self.epoch:
            held = [*self.model.variables, *self.model.optimizer.variables]
            self.state = {f"{number} {v.name}": array(v) for number, v in enumerate(held)}


class InterruptLate(StateAt):
    def __init__(self) -> None:
        super().__init__(3)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if epoch == 3:
            raise KeyboardInterrupt


def test_decays_kernels_only() -> None:
    model = toy_model()
    optimizer = make_optimizer(TrainConfig(weight_decay=0.1), total_steps=10)
    optimizer.build(model.trainable_variables)
    for name in ("log_range", "levels", "evidence"):
        assert not optimizer._use_weight_decay(keras.Variable([1.0], name=name))
    decayed = {v.name for v in model.trainable_variables if optimizer._use_weight_decay(v)}
    assert decayed == {"kernel"}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_schedule(schedule: str) -> None:
    config = TrainConfig(learning_rate=0.4, warmup_fraction=0.2, schedule=schedule)
    rate = make_optimizer(config, total_steps=100)._learning_rate
    rates = [float(rate(step)) for step in (0, 10, 20, 60, 100)]
    expected = [0, 0.2, 0.4, 0.2, 0] if schedule == "cosine" else [0, 0.2, 0.4, 0.4, 0.4]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_schedule_without_warmup_and_with_one_step() -> None:
    config = TrainConfig(learning_rate=0.4, warmup_fraction=0)
    assert float(make_optimizer(config, 100)._learning_rate(0)) == pytest.approx(0.4)
    config = TrainConfig(learning_rate=0.4, warmup_fraction=0.9)
    assert float(make_optimizer(config, 1)._learning_rate(0)) == pytest.approx(0.4)


class Passing(keras.layers.Layer):
    """A layer that is no Keras layer and changes nothing, like a quantizer."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs


class Foreign(keras.layers.Layer):
    """A classifier of another library that has an activation."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = keras.activations.get(activation)
        self.dense = keras.layers.Dense(3)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.activation(self.dense(inputs))


@pytest.mark.parametrize(
    ("layers", "logits"),
    [
        ([keras.layers.Dense(3)], True),
        ([keras.layers.Dense(3, activation="softmax")], False),
        ([keras.layers.Dense(3), keras.layers.Softmax()], False),
        ([keras.layers.Dense(3), keras.layers.Activation("softmax")], False),
        ([keras.layers.Dense(3), keras.layers.Activation("linear")], True),
        ([keras.layers.Dense(3, activation="softmax"), Passing()], False),
        ([keras.layers.Dense(3), Passing(), keras.layers.Reshape((3,))], True),
        ([Foreign("softmax")], False),
        ([Foreign("linear")], True),
        ([keras.layers.Dense(1, activation="sigmoid")], False),
    ],
)
def test_outputs_logits(layers: list[keras.layers.Layer], logits: bool) -> None:
    sequential = keras.Sequential([keras.Input((3,)), *layers])
    assert outputs_logits(sequential) is logits
    image = keras.Input((3,))
    assert outputs_logits(keras.Model(image, sequential(image))) is logits


def test_outputs_logits_of_our_models() -> None:
    assert outputs_logits(mobilenet_v2((32, 32, 3), 0.35, 10))
    assert not outputs_logits(resnet8())
    image = keras.Input((3,))
    assert not outputs_logits(keras.Model(image, keras.ops.softmax(image)))


def test_outputs_logits_reads_subclassed_models_that_were_called() -> None:
    class Own(keras.Model):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return keras.ops.softmax(keras.ops.matmul(inputs, np.eye(3, dtype=np.float32)))

    model = Own()
    with pytest.raises(DDQError, match="never called"):
        outputs_logits(model)
    model(np.zeros((1, 3), np.float32))
    assert not outputs_logits(model)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"warmup_fraction": 1.0},
        {"label_smoothing": 1.0},
        {"schedule": "step"},
        {"optimizer": "lion"},
        {"distill": 1.5},
        {"distill_temperature": 0.0},
        {"dampening": -1.0},
        {"freeze_oscillations": 1.0},
        {"reestimate_batch_norm": -1},
        {"quantizer_learning_rate": -0.1},
    ],
)
def test_config_rejects(arguments: dict) -> None:
    with pytest.raises(DDQError, match=next(iter(arguments))):
        TrainConfig(**arguments)


def test_other_bad_input() -> None:
    with pytest.raises(DDQError, match="needs a teacher"):
        fit_classifier(
            toy_model(), toy_batches(), None, TrainConfig(distill=0.5), steps_per_epoch=1
        )
    with pytest.raises(DDQError, match="steps_per_epoch"):
        fit_classifier(toy_model(), toy_batches(), None, TrainConfig(), steps_per_epoch=0)
    with pytest.raises(DDQError, match="at least one batch"):
        accuracy(toy_model(), toy_batches().take(0))


def test_data_that_vanish_end_in_an_error_that_says_what_is_kept(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.raw" for number in range(6)]
    for file in files:
        file.write_bytes(bytes(3))
    names = tf.data.Dataset.from_tensor_slices([str(file) for file in files])

    def read(name):
        pixels = tf.reshape(tf.io.decode_raw(tf.io.read_file(name), tf.uint8), (1, 3))
        return tf.cast(pixels, tf.float32), tf.zeros(1, tf.int64)

    class Vanish(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            if epoch == 1:
                files[3].unlink()

    kept = tmp_path / "kept"
    with pytest.raises(DDQError, match=r"3.raw.*[23] epochs are kept in .*kept"):
        fit_classifier(
            toy_model(),
            names.map(read),
            None,
            TrainConfig(epochs=6),
            steps_per_epoch=6,
            checkpoint_dir=kept,
            callbacks=[Vanish()],
            verbose=0,
        )
    assert epochs_kept(kept) in (2, 3)
