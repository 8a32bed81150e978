"""The reconstruction job: what it measures, saves and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, ReconstructionConfig, jobs
from ddq_tf.jobs.reconstruct import _open, fidelity_of
from ddq_tf.layers import weighted_layers

_OPTIONS = jobs.DataOptions(spec="digits", batch_size=32, limit=96)
_QUICK = ReconstructionConfig(steps=5, search_views=1)


def test_it_saves_a_model_that_is_near_the_float_model(trained: Any, tmp_path: Path) -> None:
    done = jobs.reconstruct_float(
        trained.path,
        _OPTIONS,
        DDQConfig(target="litert-compact", budget=0.7),
        _QUICK,
        out=tmp_path / "ddq.keras",
    )
    assert done.average_bits <= 0.7 * 8
    assert done.fidelity.num_samples == 2 * 96  # val and test
    assert done.fidelity.top1_agreement > 0.8
    assert done.fidelity.kl_divergence is None or done.fidelity.kl_divergence < 0.5
    assert done.results["num_learned_from"] == 96
    saved = jobs.load_ddq_model(tmp_path / "ddq.keras")
    assert {layer.name: layer.num_bits for layer in weighted_layers(saved)} == done.bits
    assert jobs.read_notes(tmp_path / "ddq.keras")["input_range"] == [0.0, 255.0]


def test_it_takes_the_range_that_keras_publishes() -> None:
    build: Any = keras.applications.MobileNetV3Small
    model = build((32, 32, 3), weights=None, classes=10)
    assert _open(_OPTIONS, model, {}).input_range == (0.0, 255.0)
    assert _open(_OPTIONS, model, {"input_range": (0, 1)}).input_range == (0.0, 1.0)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    flat = keras.Sequential([keras.Input((12,)), keras.layers.Dense(3)], name="flat")
    with pytest.raises(DDQError, match="must take images"):
        jobs.reconstruct_float(flat, _OPTIONS, DDQConfig(), _QUICK, out=tmp_path / "a.keras")
    with pytest.raises(DDQError, match=r"must end in \.keras"):
        jobs.reconstruct_float(flat, _OPTIONS, DDQConfig(), _QUICK, out=tmp_path / "a.h5")


def test_fidelity() -> None:
    wanted = np.array([[0.6, 0.4], [0.1, 0.9]])
    given = np.array([[0.5, 0.5], [0.8, 0.2]])
    found = fidelity_of(wanted, given, probabilities=True)
    assert found.top1_agreement == 0.5
    divergence = np.mean(np.sum(wanted * np.log(wanted / given), axis=1))
    assert found.kl_divergence == pytest.approx(divergence, abs=1e-4)
    assert fidelity_of(wanted, given, probabilities=False).kl_divergence is None
