"""A tiny model, trained through the jobs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddq_tf import DDQConfig, jobs
from ddq_tf.training import TrainConfig

OPTIONS = jobs.DataOptions(spec="digits", batch_size=32, limit=128)
RECIPE = TrainConfig(epochs=2, batch_size=32, learning_rate=0.01)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("trained")
    return jobs.train_float(
        "resnet8", OPTIONS, RECIPE, out=folder / "float.keras", image_size=8, augment=None
    )


@pytest.fixture(scope="session")
def quantized(trained: Any) -> Any:
    return jobs.quantize_float(
        trained.path,
        OPTIONS,
        DDQConfig(target="litert-compact", budget=0.7),
        RECIPE,
        out=trained.path.with_name("ddq.keras"),
        augment=None,
    )
