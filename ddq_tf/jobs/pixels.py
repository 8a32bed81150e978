"""How pictures become the inputs of a model or a file, and who says so; decided here only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf import data
from ddq_tf.data import Fit
from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import TensorInfo
from ddq_tf.export.model_metadata import ModelMetadata
from ddq_tf.graph import flatten
from ddq_tf.kinds import TRAINING_ONLY
from ddq_tf.layers import activation_layers
from ddq_tf.pictures import DataOptions, Range

DEFAULT_INPUT_RANGE: Range = (-1.0, 1.0)
_BUILDER_RANGES: dict[str, Range] = {"resnet8": (0.0, 255.0)}  # as published by MLPerf Tiny
_KNOWN_RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
_RANGE_TOLERANCE = 0.05
_RGB = "rgb"
_GIVEN, BY_DEFAULT = "as given", "by default"
_NOTED, _FROM_FILE = "noted in the file", "from the file's metadata"
_SHOWN = "as the file's input shows"
_SCALED = "as its first layer scales them"
# What layers at the front make of pixels: 0 to 1 or -1 to 1, or about three standard deviations.
_SCALED_TO, _NORMALIZED_TO, _WIDE = 1.05, 3.5, 0.9


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


_Known = tuple[Range, str]  # a range, and the order of channels
_Said = tuple[Any, str]  # a value, None if there is none, and who says so


def pixels_of_model(
    options: DataOptions,
    notes: Mapping[str, Any] | None = None,
    model: keras.Model | None = None,
) -> Pixels:
    """Returns what holds for a Keras model.

    That is what the user says, else what the model's file notes, else what is published of such a
    network, else what its Rescaling or Normalization at the front takes, else what its input
    quantizer shows.

    Args:
        options: of which only what it says of pixels is used.
        notes: those of the model's file (`ddq_tf.jobs.read_notes`).
        model: None if there is none yet.

    Raises:
        DDQError: if one of them says what cannot be.
    """
    noted = notes or {}
    known: list[tuple[_Known | None, str]] = []
    if "input_range" in noted:
        known.append((noted_range(noted), _NOTED))
    elif model is not None:
        known += [
            (data.published(model), "keras.applications"),
            (_scaled(model), _SCALED),
            (_learned(model), _SHOWN),
        ]
    crop = noted.get("crop")
    if not isinstance(crop, int | float | type(None)):
        raise DDQError(f"the model's file must note a number as crop. Received: {crop!r}")
    resize = noted.get("resize")
    told = {"crop": (crop, _NOTED), "resize": (None if resize is None else str(resize), _NOTED)}
    return _pixels(options, known, told)


def pixels_of_builder(options: DataOptions, name: str) -> Pixels:
    """Returns what holds for a network of `ddq_tf.models` that is to be trained: as published."""
    published = _BUILDER_RANGES.get(name)
    known = None if published is None else (published, _RGB)
    return _pixels(options, [(known, "as published")], {})


def pixels_of_file(options: DataOptions, metadata: ModelMetadata, image: TensorInfo) -> Pixels:
    """Returns what holds for a .tflite file: what the user, its metadata or its input's grid say.

    Args:
        options: of which only what it says of pixels is used.
        metadata: of the file.
        image: its input.

    Raises:
        DDQError: if one of them says what cannot be.
    """
    noted = metadata.input_range
    if noted is not None and range_said(options) is None:  # else the file may say what it likes
        noted = _checked(noted, metadata)
    known = [
        (None if noted is None else (noted, metadata.channels), _FROM_FILE),
        (_shown(image), _SHOWN),
    ]
    usual = ModelMetadata()  # a file leaves out what is as usual
    told = {
        name: (None if value == getattr(usual, name) else value, _FROM_FILE)
        for name in ("channels", "crop", "resize")
        for value in [getattr(metadata, name)]
    }
    return _pixels(options, known, told)


def range_said(options: DataOptions) -> Range | None:
    """Returns what pixels 0 and 255 become, as far as the user says so.

    Raises:
        DDQError: if that cannot be.
    """
    if options.mean is not None and options.std is not None:
        return data.range_of(options.mean, options.std)
    return None if options.input_range is None else data.as_range(*options.input_range)


def noted_range(notes: Mapping[str, Any]) -> _Known:
    """Returns the range and the order of channels that a model's file notes.

    Args:
        notes: with an "input_range".

    Raises:
        DDQError: if that is none.
    """
    try:
        return data.as_range(*notes["input_range"]), str(notes.get("channels", _RGB))
    except (TypeError, ValueError) as error:
        raise DDQError(
            "the model's file must note an input range of two ends. "
            f"Received: {notes['input_range']!r}"
        ) from error


def range_of_grid(scale: float, qmin: int, qmax: int) -> _Known | None:
    """Returns the usual input range that an input's grid was made for, if one fits, in RGB."""
    low, high = scale * qmin, scale * qmax
    for known in _KNOWN_RANGES:
        reach = _RANGE_TOLERANCE * max(map(abs, known))
        if abs(low - known[0]) <= reach and abs(high - known[1]) <= reach:
            return known, _RGB
    return None


def _pixels(
    options: DataOptions, known: Iterable[tuple[_Known | None, str]], told: Mapping[str, _Said]
) -> Pixels:
    """What the user says, else what is known.

    Args:
        options: of the user.
        known: ranges, those that count first before others, and who says so.
        told: the rest, by name.
    """
    (found, found_from) = next((each for each in known if each[0]), (None, BY_DEFAULT))
    said = range_said(options)
    sources = {"input_range": found_from if said is None else _GIVEN}
    by_name = {"channels": (found[1] if found else None, found_from), **told}
    usual = {"channels": _RGB, **dataclasses.asdict(Fit())}
    values: dict[str, Any] = {}
    for name, default in usual.items():
        candidates = ((getattr(options, name), _GIVEN), by_name.get(name, (None, "")))
        values[name], sources[name] = next(
            (each for each in candidates if each[0] is not None), (default, BY_DEFAULT)
        )
    return Pixels(
        input_range=said or (found[0] if found else None),
        channels=values.pop("channels"),
        fit=Fit(**values),
        sources=sources,
    )


def _checked(noted: tuple[Any, Any], metadata: ModelMetadata) -> Range:
    """The range that metadata tell, if images of 3 channels can have it."""
    try:
        return data.as_range(*noted)
    except DDQError as error:
        raise DDQError(
            f"the file's metadata tell mean={metadata.mean} and std={metadata.std}: {error}. "
            "Give --input_range=LOW,HIGH"
        ) from error


def _shown(info: TensorInfo) -> _Known | None:
    """The usual input range that the grid of a file's input shows, if one fits."""
    if info.scale is None:
        return None
    low, high = (-128, 127) if info.dtype.name == "int8" else (0, 255)
    return range_of_grid(float(info.scale), low - info.zero_point, high - info.zero_point)


def _scaled(model: keras.Model) -> _Known | None:
    """The usual range that a float model's Rescaling or Normalization takes, if one alone fits."""
    line = _first_line(model)
    if line is None:
        return None
    factor, offset, reach = line
    ends = [[factor * end + offset for end in known] for known in _KNOWN_RANGES]
    fits = [
        known
        for known, (low, high) in zip(_KNOWN_RANGES, ends, strict=True)
        if (low >= -reach).all() and (high <= reach).all() and (high - low >= _WIDE).all()
    ]
    return (fits[0], _RGB) if len(fits) == 1 else None


def _first_line(model: keras.Model) -> tuple[np.ndarray, np.ndarray, float] | None:
    """What a model multiplies its input with first, what it adds then, and how far that reaches."""
    try:
        graph = flatten(model)
    except DDQError:
        return None
    node = graph.sole_consumer(graph.inputs[0])
    while node is not None and isinstance(node.layer, TRAINING_ONLY):
        node = graph.sole_consumer(node.outputs[0])
    layer = None if node is None else node.layer
    if isinstance(layer, keras.layers.Rescaling):
        factor, offset = (np.asarray(v, np.float64) for v in (layer.scale, layer.offset))
        alike = factor.size == offset.size == 1
        return factor, offset, _SCALED_TO if alike else _NORMALIZED_TO
    if isinstance(layer, keras.layers.Normalization) and layer.mean is not None:
        mean, variance = (
            np.asarray(ops.convert_to_numpy(v)).ravel() for v in (layer.mean, layer.variance)
        )
        if not layer.invert and (mean > 0).all() and (variance > 0).all():
            return 1 / np.sqrt(variance), -mean / np.sqrt(variance), _NORMALIZED_TO
    return None


def _learned(model: keras.Model) -> _Known | None:
    """What the input quantizer of a DDQ model shows."""
    for layer in activation_layers(model)[:1]:
        quantizer = layer.quantizer
        return range_of_grid(float(quantizer.export_scale()), quantizer.qmin, quantizer.qmax)
    return None
