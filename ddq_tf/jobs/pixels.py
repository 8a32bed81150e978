"""How pictures become a .tflite file's inputs, and who says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddq_tf import data
from ddq_tf.data import Fit, Range
from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import TensorInfo
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.jobs.images import DataOptions, range_of_grid

_GIVEN, _FROM_FILE = "as given", "from the file's metadata"
_SHOWN, _BY_DEFAULT = "as the file's input shows", "by default"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pixels:
    """How pictures become inputs.

    Attributes:
        input_range: what pixels 0 and 255 become; None if nobody says.
        channels: their order, "rgb" or "bgr".
        fit: how pictures come to the input's size.
        sources: who says so, in words, for "input_range", "channels", "crop" and "resize".
    """

    input_range: Range | None
    channels: str
    fit: Fit
    sources: Mapping[str, str]


def pixels_of(options: DataOptions, metadata: ModelMetadata, image: TensorInfo) -> Pixels:
    """Returns what holds for a file: what the user says, else its metadata, else its input's grid.

    Args:
        options: of which only what it says of pixels is used.
        metadata: of the file.
        image: its input.

    Raises:
        DDQError: if one of them says what cannot be.
    """
    input_range, range_from = _range(options, metadata, image)
    sources, told = {"input_range": range_from}, {}
    for name in ("channels", "crop", "resize"):
        given = getattr(options, name)
        told[name] = getattr(metadata, name) if given is None else given
        # A file leaves out what is as usual.
        noted = told[name] != getattr(ModelMetadata(), name)
        sources[name] = (_FROM_FILE if noted else _BY_DEFAULT) if given is None else _GIVEN
    fit = Fit(crop=told["crop"], resize=told["resize"])
    return Pixels(input_range=input_range, channels=told["channels"], fit=fit, sources=sources)


def _range(
    options: DataOptions, metadata: ModelMetadata, image: TensorInfo
) -> tuple[Range | None, str]:
    if options.range_said is not None:
        return options.range_said, _GIVEN
    if (noted := metadata.input_range) is not None:
        return _checked(noted, metadata), _FROM_FILE
    if (shown := _shown_range(image)) is not None:
        return shown, _SHOWN
    return None, _BY_DEFAULT


def _checked(noted: tuple[Any, Any], metadata: ModelMetadata) -> Range:
    """The range that metadata tell, if images of 3 channels can have it."""
    try:
        return data.as_range(*noted)
    except DDQError as error:
        raise DDQError(
            f"the file's metadata tell mean={metadata.mean} and std={metadata.std}: {error}. "
            "Give --input_range=LOW,HIGH"
        ) from error


def _shown_range(info: TensorInfo) -> Range | None:
    """The usual input range that the grid of a file's input shows, if one fits."""
    if info.scale is None:
        return None
    low, high = (-128, 127) if info.dtype.name == "int8" else (0, 255)
    shown = range_of_grid(float(info.scale), low - info.zero_point, high - info.zero_point)
    return None if shown is None else shown[0]
