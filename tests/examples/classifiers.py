"""Exported classifiers with metadata, and the pictures that they see."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

import ddq_tf
from ddq_tf import data
from ddq_tf.export import ModelMetadata
from tests.toys import images, shake

SIDE = 20
CLASSES = 7
RANGE = ((-2.1, -2.0, -1.8), (2.2, 2.4, 2.6))  # one for each channel


def small_model() -> keras.Model:
    """A DDQ model with convolutions at 4 and 8 bits, ready for export."""
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu6")(image)
    x = keras.layers.Conv2D(32, 1, activation="relu6")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = shake(keras.Model(image, keras.layers.Dense(CLASSES, name="logits")(x)))
    config = ddq_tf.DDQConfig(budget=0.8)
    q = ddq_tf.quantize_model(model, config, calibration=images(32, (SIDE, SIDE, 3)))
    for layer in q.weight_budget.layers:
        layer.quantizer.choice.assign(0)  # the fewest bits
    return q


def metadata(**more: Any) -> ModelMetadata:
    """Labels, a normalization that differs between channels, and what `more` says."""
    low, high = RANGE
    plain = ModelMetadata.for_range(low, high)
    names = [f"class {index}, été" for index in range(CLASSES)]
    return ModelMetadata(labels=names, mean=plain.mean, std=plain.std, **more)


def pictures(count: int, seed: int = 0, least: int = 8, most: int = 90) -> list[np.ndarray]:
    """Smooth colours with noise on top, uint8 (height, width, 3), all of different sizes."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = rng.integers(least, most, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3)).astype(np.uint8))
        smooth = np.asarray(coarse.resize((int(width), int(height)))).astype(np.int64)
        noisy = smooth + rng.integers(-30, 30, smooth.shape)
        made.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return made


def as_trained(
    shown: Iterable[np.ndarray], folder: Path, fit: data.Fit, channels: str, side: int = SIDE
) -> np.ndarray:
    """What training makes of pictures: float32 (n, side, side, 3)."""
    for split in ("train", "val"):
        (folder / split / "a").mkdir(parents=True)
        Image.new("RGB", (side, side)).save(folder / split / "a" / "x.png")
    (folder / "test" / "a").mkdir(parents=True)
    for index, picture in enumerate(shown):
        Image.fromarray(picture).save(folder / "test" / "a" / f"{index:04}.png")
    dataset = data.load(f"folder:{folder}", image_size=side, fit=fit)
    batches = data.batches(dataset, "test", batch_size=16, input_range=RANGE, channels=channels)
    return np.concatenate([batch.numpy() for batch, _ in batches])


def packed(shown: Iterable[np.ndarray]) -> bytes:
    """Pictures as Check.kt takes them."""
    return b"".join(
        struct.pack(">ii", picture.shape[1], picture.shape[0]) + picture.tobytes()
        for picture in shown
    )
