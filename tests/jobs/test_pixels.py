"""Who says what pixels become: here, the layers at the front of a float model."""

from __future__ import annotations

import types
from typing import Any

import keras
import numpy as np
import pytest

from ddq_tf.jobs.pixels import pixels_of_model
from ddq_tf.jobs.plan import float_rows
from ddq_tf.pictures import DataOptions

L = keras.layers
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, pixels from 0 to 1


def of_pixels(top: float) -> Any:
    """A Normalization of ImageNet's pixels from 0 to `top`."""
    return L.Normalization(
        mean=np.array(MEAN) * top, variance=np.square(np.array(STD) * top), name="normalization"
    )


def adapted() -> Any:
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (64, 8, 8, 3)).astype("float32"))
    return layer


def range_of(*front: Any) -> tuple[Any, str]:
    model = keras.Sequential([keras.Input((8, 8, 3)), *front, L.Conv2D(4, 3), L.Flatten()])
    found = pixels_of_model(DataOptions(spec=""), {}, model)
    return found.input_range, found.sources["input_range"]


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (lambda: [L.Rescaling(1 / 255)], (0.0, 255.0)),
        (lambda: [L.Rescaling(1 / 127.5, offset=-1)], (0.0, 255.0)),
        (lambda: [L.Rescaling(2.0, offset=-1.0)], (0.0, 1.0)),
        (
            lambda: [L.RandomFlip("horizontal"), L.RandomRotation(0.1), L.Rescaling(1 / 255)],
            (0, 255),
        ),
        (lambda: [of_pixels(255)], (0.0, 255.0)),
        (lambda: [of_pixels(1)], (0.0, 1.0)),
        (lambda: [adapted()], (0.0, 255.0)),
    ],
)
def test_the_first_layer_tells_the_range(front: Any, expected: tuple[float, float]) -> None:
    assert range_of(*front()) == (expected, "as its first layer scales them")


@pytest.mark.parametrize(
    "front",
    [
        list,
        lambda: [L.Rescaling(1.0)],  # 0 to 1, or -1 to 1
        lambda: [L.Rescaling(1 / 1000)],  # none of the usual ranges
        lambda: [L.Conv2D(3, 1), L.Rescaling(1 / 255)],  # not of pixels
    ],
)
def test_others_do_not(front: Any) -> None:
    assert range_of(*front()) == (None, "by default")


def test_what_the_user_says_comes_first() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(1 / 255), L.Flatten()])
    options = DataOptions(spec="", input_range=(0.0, 1.0))
    assert pixels_of_model(options, {}, model).input_range == (0.0, 1.0)


@pytest.mark.parametrize(("accuracy", "asks"), [(0.1, True), (0.15, True), (0.16, False)])
def test_a_float_model_that_only_guesses_is_doubted(accuracy: float, asks: bool) -> None:
    data: Any = types.SimpleNamespace(  # as much of `Images` as is asked here
        dataset=types.SimpleNamespace(class_names=tuple("abcdefghij")), count=lambda split: 600
    )
    [(name, words)] = float_rows(accuracy, data)
    assert name == "float model"
    assert f"{accuracy:.2%}"[:-1] in words
    assert ("--input_range" in words) == asks
