"""Data sets opened for models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddq_tf import DDQError, jobs
from ddq_tf.jobs.images import open_images
from ddq_tf.jobs.pixels import range_of_grid


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
    found = range_of_grid(scale, qmin, qmax)
    assert found == (None if expected is None else (expected, "rgb"))


def test_models_that_do_not_fit_are_refused() -> None:
    options = jobs.DataOptions(spec="digits")
    with pytest.raises(DDQError, match="tells 2 classes apart"):
        open_images(options, input_shape=(None, 8, 8, 3), num_classes=2)
    with pytest.raises(DDQError, match="must take images"):
        open_images(options, input_shape=(None, 640))
    with pytest.raises(DDQError, match="8x16 px"):
        open_images(options, input_shape=(None, 8, 16, 3))


def test_the_crop_comes_from_the_user_or_the_model_file(trained: Any) -> None:
    told = jobs.DataOptions(spec="digits", limit=16, crop=0.75, resize="bicubic")
    notes = jobs.read_notes(trained.path)
    assert (notes["crop"], notes["resize"]) == (1.0, "bilinear")
    noted = {**notes, "crop": 0.875, "resize": "area"}
    for options, given, wanted in (
        (told, notes, (0.75, "bicubic")),
        (told, noted, (0.75, "bicubic")),
        (jobs.DataOptions(spec="digits", limit=16), noted, (0.875, "area")),
        (jobs.DataOptions(spec="digits", limit=16), None, (1.0, "bilinear")),
    ):
        images = jobs.open_for_model(options, trained.model, given)
        assert (images.notes["crop"], images.notes["resize"]) == wanted


def test_one_output_tells_two_classes_apart(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(8):
            pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    options = jobs.DataOptions(spec=f"folder:{tmp_path}")
    assert open_images(options, input_shape=(None, 8, 8, 3), num_classes=1).count("train") > 0
