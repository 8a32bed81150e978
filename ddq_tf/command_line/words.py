"""Words for what commands print."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(share: float) -> str:
    """Returns a share in percent."""
    from ddq_tf.report import wording

    return wording.percent(share)


def picture_words(crop: float, resize: str, channels: str, sources: Mapping[str, str]) -> str:
    """Returns in words how pictures are fitted, and who says so where that is known."""
    parts = {"crop": f"{crop:g} of the centre", "resize": resize, "channels": channels}
    return ", ".join(
        f"{words} ({sources[name]})" if name in sources else words for name, words in parts.items()
    )


def accuracy_rows(result: Any) -> list[tuple[str, str]]:
    """Returns a row of accuracy for each split that was measured."""
    return [
        (f"{split} accuracy", f"{percent(share)} of {result.images.count(split):,} images")
        for split, share in result.accuracy.items()
    ]
