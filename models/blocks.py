"""Pieces that the model builders share."""

from __future__ import annotations

from ddq_tf.errors import DDQError


def make_divisible(value: float, divisor: int = 8) -> int:
    """Rounds a channel count to a multiple of `divisor`, never down by more than 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


def check_classifier(input_shape: tuple[int, int, int], classes: int, smallest: int) -> None:
    """Checks what every builder requires.

    Args:
        input_shape: (height, width, channels), channels last.
        classes: number of outputs.
        smallest: least height and width in pixels.

    Raises:
        DDQError: if the shape is not three whole numbers, or an image is too small, or there is
            no class.
    """
    if len(input_shape) != 3 or not all(isinstance(n, int) and n > 0 for n in input_shape):
        raise DDQError(
            "input_shape must be (height, width, channels), three whole numbers above 0. "
            f"Received: input_shape={input_shape!r}"
        )
    if min(input_shape[:2]) < smallest:
        raise DDQError(
            f"height and width must be at least {smallest} px; resize the images. "
            f"Received: input_shape={input_shape!r}"
        )
    if not isinstance(classes, int) or classes < 1:
        raise DDQError(f"classes must be a whole number above 0. Received: classes={classes!r}")
