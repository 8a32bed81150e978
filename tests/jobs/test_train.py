"""Training jobs: what they refuse, what they record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import pytest

from ddq_tf import DDQConfig, DDQError, jobs
from ddq_tf.jobs.quantize import history_path, load_history
from ddq_tf.layers import weighted_layers
from ddq_tf.training import TrainConfig

_OPTIONS = jobs.DataOptions(spec="digits", batch_size=32, limit=64)


def test_bits_are_recorded_every_epoch(quantized: Any) -> None:
    names = [layer.name for layer in weighted_layers(quantized.model)]
    assert list(quantized.bits_history) == names
    assert {len(bits) for bits in quantized.bits_history.values()} == {2}
    assert {name: bits[-1] for name, bits in quantized.bits_history.items()} == quantized.bits
    past = load_history(quantized.path)
    for name in ("history", "bits_history", "error_history", "range_history", "level_history"):
        assert getattr(past, name) == getattr(quantized, name)
    assert quantized.average_bits <= 0.7 * 8


def test_a_broken_history_is_named(tmp_path: Path) -> None:
    assert load_history(tmp_path / "model.keras").history == {}
    history_path(tmp_path / "model.keras").write_text("{}")
    with pytest.raises(DDQError, match=r"model\.history\.json"):
        load_history(tmp_path / "model.keras")


def test_foreign_model_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match="'resnet8' has no alpha"):
        jobs.train_float(
            "resnet8",
            _OPTIONS,
            TrainConfig(),
            out=tmp_path / "a.keras",
            model_options={"alpha": 0.5},
        )


def test_a_diverged_training_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match=r"(?i)became .*lower the learning rate"):
        jobs.train_float(
            "resnet8",
            _OPTIONS,
            TrainConfig(epochs=2, batch_size=32, learning_rate=1e30, warmup_fraction=0.0),
            out=tmp_path / "a.keras",
            image_size=8,
        )
    assert not list(tmp_path.iterdir())


def test_unsupported_layers_are_refused_before_training(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.LayerNormalization(axis=1, name="odd")(image))
    model = keras.Model(image, keras.layers.Dense(10)(x))
    with pytest.raises(DDQError, match="'odd'"):
        jobs.quantize_float(model, _OPTIONS, DDQConfig(), TrainConfig(), out=tmp_path / "ddq.keras")
    assert not list(tmp_path.iterdir())


def test_history_is_plain_json(quantized: Any) -> None:
    values = json.loads(history_path(quantized.path).read_text())
    kinds = ("bits", "error", "range", "level")
    assert set(values) == {"history", *(f"{kind}_history" for kind in kinds)}
    assert "weight_bits" in values["history"]


def test_the_float_model_teaches_and_all_aids_join(trained: Any, tmp_path: Path) -> None:
    config = TrainConfig(
        epochs=2,
        batch_size=32,
        learning_rate=0.01,
        distill=0.5,
        dampening=0.01,
        freeze_oscillations=0.01,
        reestimate_batch_norm=1,
        quantizer_learning_rate=0.5,
    )
    done = jobs.quantize_float(
        trained.path,
        _OPTIONS,
        DDQConfig(target="litert-compact", budget=0.7),
        config,
        out=tmp_path / "ddq.keras",
        augment=None,
    )
    assert len(done.history["frozen_weights"]) == 2
    loaded = jobs.load_ddq_model(done.path)
    assert len(loaded.variables) == len(done.model.variables)
