"""More inputs from few images: random parts of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_SMALLEST_AREA = 0.4
_STRETCH = 4 / 3
_BATCH = 256


def views_of(images: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the images as they are, then `count - 1` random views of each.

    A view is a part of 0.4 to 1 of the area, its sides in a ratio of 3/4 to 4/3 times the image's,
    resized back (bilinear) and mirrored left to right half of the time.

    Args:
        images: float32 (images, height, width, channels).
        count: at least 1.
        seed: of the views.

    Returns:
        float32 (count * images, height, width, channels).
    """
    random = np.random.default_rng(seed)
    return np.concatenate([images, *(_view(images, random) for _ in range(count - 1))])


def _view(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    number = len(images)
    area = random.uniform(_SMALLEST_AREA, 1.0, number)
    stretch = np.exp(random.uniform(-np.log(_STRETCH), np.log(_STRETCH), number) / 2)
    sides = np.minimum(np.sqrt(area)[:, None] * np.stack([stretch, 1 / stretch], axis=1), 1.0)
    start = random.uniform(size=(number, 2)) * (1 - sides)
    end = start + sides
    mirrored = random.uniform(size=number) < 0.5
    left, right = (
        np.where(mirrored, b, a) for a, b in ((start[:, 1], end[:, 1]), (end[:, 1], start[:, 1]))
    )
    boxes = np.stack([start[:, 0], left, end[:, 0], right], axis=1).astype(np.float32)
    size = images.shape[1:3]
    parts = [
        tf.image.crop_and_resize(
            images[i : i + _BATCH],
            boxes[i : i + _BATCH],
            np.arange(len(boxes[i : i + _BATCH])),
            size,
        ).numpy()
        for i in range(0, number, _BATCH)
    ]
    return np.concatenate(parts)
