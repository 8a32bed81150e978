"""More inputs from few images: random parts of them."""

from __future__ import annotations

import numpy as np

from ddq_tf.reconstruction.streams import Joined, Stored, Values, Whole

_BATCH = 32
_SMALLEST_AREA = 0.4
_STRETCH = 4 / 3


def views_of(images: Values, count: int, seed: int) -> Values:
    """Returns the images as they are, then `count - 1` random views of each.

    A view is a part of 0.4 to 1 of the area, its sides in a ratio of 3/4 to 4/3 times the image's,
    resized back (bilinear) and mirrored left to right half of the time. Views are kept in a file.

    Args:
        images: float32 (images, height, width, channels).
        count: at least 1.
        seed: of the views.

    Returns:
        float32 (count * images, height, width, channels).
    """
    if count == 1:
        return images
    random = np.random.default_rng(seed)
    parts = [slice(start, start + _BATCH) for start in range(0, len(images), _BATCH)]
    views = Stored(images.shape[1:], Whole())
    for _ in range(count - 1):
        ends = _ends(len(images), random)
        for part in parts:
            pairs = zip(images[part], ends[part], strict=True)
            views.append(np.stack([_part(image, *box) for image, box in pairs]))
    return Joined(images, views)


def _ends(number: int, random: np.random.Generator) -> np.ndarray:
    """Top, left, bottom and right of a view of each image, as `_part` takes them."""
    area = random.uniform(_SMALLEST_AREA, 1.0, number)
    stretch = np.exp(random.uniform(-np.log(_STRETCH), np.log(_STRETCH), number) / 2)
    sides = np.minimum(np.sqrt(area)[:, None] * np.stack([stretch, 1 / stretch], axis=1), 1.0)
    start = random.uniform(size=(number, 2)) * (1 - sides)
    end = start + sides
    mirrored = random.uniform(size=number) < 0.5
    left, right = (
        np.where(mirrored, b, a) for a, b in ((start[:, 1], end[:, 1]), (end[:, 1], start[:, 1]))
    )
    return np.stack([start[:, 0], left, end[:, 0], right], axis=1).astype(np.float32)


def _part(
    image: np.ndarray, top: np.float32, left: np.float32, bottom: np.float32, right: np.float32
) -> np.ndarray:
    """A part of an image, resized to the whole's size; bilinear between centres of pixels.

    Ends are shares of the way from the first pixel to the last; from right to left mirrors.
    """
    rows, down = _places(image.shape[0], top, bottom)
    columns, across = _places(image.shape[1], left, right)
    upper, lower = image[rows], image[np.minimum(rows + 1, image.shape[0] - 1)]
    mixed = upper + (lower - upper) * down[:, None, None]
    first, second = mixed[:, columns], mixed[:, np.minimum(columns + 1, image.shape[1] - 1)]
    return first + (second - first) * across[:, None]


def _places(size: int, start: np.float32, end: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Pixels before `size` places between two ends, and how far behind them these lie: float32."""
    last = np.float32(size - 1)
    places = np.linspace(start * last, end * last, size, dtype=np.float32)
    pixels = np.clip(np.floor(places), 0, last)
    return pixels.astype(int), places - pixels
