"""What a training costs, estimated, against what processes of their own have measured."""

from __future__ import annotations

import json
from typing import Any

import keras
import pytest
from provenance import RESULTS
from training_cost import CASES, with_estimates

from ddq_tf import DDQConfig, jobs, quantize_model
from ddq_tf.jobs.doctor import cost
from tests.toys import images, mixed_net

ROWS: dict[str, Any] = json.loads((RESULTS / "training_cost.json").read_text())["results"]
RATIOS = ("peak_ratio", "step_ratio", "first_step_ratio")


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_within_a_factor_of_2(name: str) -> None:
    found = with_estimates(ROWS[name])
    for ratio in RATIOS:
        assert 0.5 < found[ratio] < 2, ratio
        assert found[ratio] == pytest.approx(ROWS[name][ratio]), "training_cost.py --again"


def test_what_costs_is_counted() -> None:
    load = cost.load_of(quantize_model(mixed_net(), DDQConfig(), images(8)), macs=7)
    assert load is not None
    assert load.macs == 7
    # The input and its grid, 8x8x3; a convolution with its ReLU, 4x4x8, and a wide one, 4x4x16,
    # each with grids; at least what the float layers write, at most thrice that.
    written = 8 * 8 * 3 + 4 * 4 * (8 * 3 + 16 + 8 + 8) + 8 + 4
    assert written <= load.elements <= 3 * written


def test_more_images_take_more(tmp_path: Any) -> None:
    load = cost.Load(layers=10, params=1000, elements=2**18, macs=10**6)
    few, many = (cost.peak_mib(load, batch) for batch in (128, 256))
    assert many - few == pytest.approx(128 * 1.15)  # MiB: 2^18 floats are one
    # Below the batches of calibration these are what counts.
    assert cost.peak_mib(load, 1) == cost.peak_mib(load, 2)
    speed = cost.Speed(macs_per_s=1e10, elements_per_s=1e9)
    assert cost.step_s(load, 64, speed) == pytest.approx(cost.step_s(load, 32, speed) * 2)


def test_inputs_of_any_size_have_no_estimate() -> None:
    anyhow = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(anyhow))
    found = jobs.diagnose(keras.Model(anyhow, keras.layers.Dense(2)(x)))
    assert found.quantized is None or found.quantized.cost is None
