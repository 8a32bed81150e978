"""Data sets opened for models."""

from __future__ import annotations

from typing import Any

import pytest

from ddq_tf import DDQError, jobs
from ddq_tf.jobs.images import open_images, range_of_grid


def test_the_input_range_comes_from_the_model(trained: Any, quantized: Any) -> None:
    options = jobs.DataOptions(spec="digits", limit=16)
    # From the notes in the file, from the learned grid, from the user, from the default.
    noted = jobs.open_for_model(options, trained.model, jobs.read_notes(trained.path))
    assert noted.input_range == (0.0, 255.0)
    assert jobs.open_for_model(options, quantized.model).input_range == (0.0, 255.0)
    told = jobs.DataOptions(spec="digits", limit=16, input_range=(0.0, 1.0))
    assert jobs.open_for_model(told, quantized.model).input_range == (0.0, 1.0)
    assert jobs.open_for_model(options, trained.model).input_range == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("scale", "qmin", "qmax", "expected"),
    [
        (1 / 127, -128, 127, (-1.0, 1.0)),
        (1.0, 0, 255, (0.0, 255.0)),
        (1 / 255, 0, 255, (0.0, 1.0)),
        (2.6 / 127, -128, 127, None),
    ],
)
def test_usual_ranges_are_recognised(scale: float, qmin: int, qmax: int, expected: Any) -> None:
    assert range_of_grid(scale, qmin, qmax) == expected


def test_models_that_do_not_fit_are_refused() -> None:
    options = jobs.DataOptions(spec="digits")
    with pytest.raises(DDQError, match="tells 2 classes apart"):
        open_images(options, input_shape=(None, 8, 8, 3), num_classes=2)
    with pytest.raises(DDQError, match="must take images"):
        open_images(options, input_shape=(None, 640))
    with pytest.raises(DDQError, match="8x16 px"):
        open_images(options, input_shape=(None, 8, 16, 3))
