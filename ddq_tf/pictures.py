"""What users say of their pictures, as frozen, validated dataclasses (stdlib only)."""

from __future__ import annotations

import dataclasses
from typing import Any

from ddq_tf.arguments import check_is, check_types, setting
from ddq_tf.errors import DDQError

CHANNELS = ("rgb", "bgr")
RESIZES = ("bilinear", "bicubic", "area", "nearest", "lanczos3", "lanczos5")  # of tf.image.resize

Level = float | tuple[float, ...]
Range = tuple[Level, Level]
"""What 0 and 255 become: numbers, or one for each channel in the network's order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What a user says about the data.

    Attributes:
        spec: "digits" (always at hand), "cifar10", "fashion_mnist", "tfrecord:TRAIN[,TEST]",
            "folder:PATH" (one folder per class), "images:PATH" (without labels) or "tfds:NAME"; see
            `ddq_tf.data.load`.
        input_range: values that pixels 0 and 255 become. By default what the model's file notes,
            what keras.applications or MLPerf says of such a network, or what the file's input
            shows, else -1,1.
        mean: instead of `input_range`, with `std`: inputs are (pixel - mean) / std, pixels 0 to
            255; one number, or one for each channel in the network's order.
        std: of that; like `mean`.
        channels: their order. By default as for `input_range`, else rgb.
        crop: share of each image's centre that the network sees. By default what the file notes,
            else all; most ImageNet networks were published with 0.875; see `ddq_tf.data.Fit`.
        resize: how images come to the network's size. By default what the file notes, else
            bilinear.
        batch_size: images per batch.
        limit: at most so many images of each split, for a quick try; by default all.
    """

    spec: str = setting(dataclasses.MISSING, shown="SPEC")
    input_range: Range | None = setting(None, shown="LOW,HIGH")
    mean: tuple[float, ...] | None = setting(None, shown="R,G,B")
    std: tuple[float, ...] | None = setting(None, shown="R,G,B")
    channels: str | None = setting(None, choices=CHANNELS)
    crop: float | None = setting(None, within="(0, 1]", shown="SHARE")
    resize: str | None = setting(None, choices=RESIZES)
    batch_size: int = setting(128, within="[1, inf)")
    limit: int | None = setting(None, within="[1, inf)")

    def __post_init__(self) -> None:
        check_types(self)
        given = [self.input_range is not None, self.mean is not None, self.std is not None]
        if given not in ([False] * 3, [True, False, False], [False, True, True]):
            raise DDQError(
                "give input_range, or mean and std together, or none of them. Received: "
                f"input_range={self.input_range}, mean={self.mean}, std={self.std}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes to training images.

    Attributes:
        flip: whether every other image is mirrored left to right.
        pad_crop: shifts by up to this many pixels either way; the border is reflected.
        cutout: side in pixels of a grey square put at a random place (cut off at the border); by
            default none.
        least_area: instead of the centre, a random part of the whole picture is seen, of at least
            this share of its area and with sides 3:4 to 4:3; by default the centre. Trainings on
            ImageNet take 0.08.
    """

    flip: bool = False
    pad_crop: int = setting(0, within="[0, inf)", shown="PIXELS")
    cutout: int | None = setting(None, within="[1, inf)", shown="PIXELS")
    least_area: float | None = setting(None, within="(0, 1]", shown="SHARE")

    def __post_init__(self) -> None:
        check_types(self)

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Reads changes as users write them: names of attributes, with "=" and a number.

        Args:
            text: as in "flip,pad_crop=4" or "flip,least_area=0.08".

        Raises:
            DDQError: if it is not of that form, or a number is out of its range.
        """
        check_is("augment", text, str, cure=', or an Augment, "auto" or None')
        given: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, number = (word.strip() for word in part.partition("="))
            kind = _AUGMENTS.get(name)
            try:
                if kind is None or name in given or bool(equals) is (kind is bool):
                    raise ValueError
                given[name] = True if kind is bool else kind(number)
            except ValueError:
                raise DDQError(
                    "augment must read like 'flip,pad_crop=4,cutout=8' or 'flip,least_area=0.08', "
                    f"each once. Received: augment={text!r}"
                ) from None
        return cls(**given)

    @property
    def words(self) -> str:
        """The changes, for people."""
        found = [
            "mirrored" if self.flip else "",
            f"a random part of at least {self.least_area:.0%}" if self.least_area else "",
            f"shifted by up to {self.pad_crop} px" if self.pad_crop else "",
            f"with a grey square of {self.cutout} px" if self.cutout else "",
        ]
        return ", ".join(filter(None, found)) or "none"


_AUGMENTS = {"flip": bool, "pad_crop": int, "cutout": int, "least_area": float}


def range_words(values: tuple[Any, Any]) -> str:
    """Returns an input range in words, of a number or one for each channel."""
    low, high = (end if isinstance(end, list | tuple) else (end,) for end in values)
    return f"{', '.join(f'{v:.4g}' for v in low)} to {', '.join(f'{v:.4g}' for v in high)}"
