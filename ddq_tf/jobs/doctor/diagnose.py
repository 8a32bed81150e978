"""`ddq doctor`: what can be told of a float model within seconds, without data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.jobs.doctor.next_steps import after_cure, commands_for
from ddq_tf.jobs.doctor.quantizable import quantizable
from ddq_tf.jobs.doctor.reading import (
    counted,
    named,
    nested_in,
    ports_of,
    takes_image,
    with_kernel,
)
from ddq_tf.jobs.doctor.troubles import examined, troubles_of, whole
from ddq_tf.jobs.loading import load_model, read_notes
from ddq_tf.jobs.pixels import DEFAULT_INPUT_RANGE, Pixels, pixels_of_model
from ddq_tf.pictures import DataOptions
from ddq_tf.report.diagnosis import Diagnosis, Trouble
from ddq_tf.search import DDQModel
from ddq_tf.targets import Target, get_target
from ddq_tf.transform.quantize import in_float32


def diagnose(
    source: str | os.PathLike[str] | keras.Model,
    *,
    target: str = "litert",
    measure: bool = False,
) -> Diagnosis:
    """Tells whether a float model can be quantized, what stands in the way, and how small it gets.

    Needs no data: sizes are those of weights, and a draft of the file has ranges by default.

    Args:
        source: the float model, which stays as it is, or its .keras or .h5 file.
        target: where the file will run.
        measure: whether to time training steps, too.

    Raises:
        DDQError: if the file cannot be read or holds no float model.
    """
    chosen = get_target(target)
    is_model = isinstance(source, keras.Model)
    model = source if is_model else _loaded(Path(source))
    file = "" if is_model else os.fspath(source)
    notes = {} if is_model else read_notes(source)
    with in_float32():
        return _diagnosis(model, chosen, file, notes, measure)


def _diagnosis(
    model: keras.Model, chosen: Target, file: str, notes: dict[str, Any], measure: bool
) -> Diagnosis:
    target = chosen.name
    found = examined(model, chosen)
    if isinstance(found, Trouble):
        return _untold(model, target, found, file)
    config = DDQConfig(target=target, budget=None)
    troubles = troubles_of(found)
    quantized = None
    if not troubles:
        try:
            quantized = quantizable(model, found, config, measure)
        except DDQError as error:  # of scales that cannot meet what operators ask of them
            troubles = (whole(error),)
    inputs, outputs = ports_of(model)
    pixels = pixels_of_model(DataOptions(spec=""), notes, model) if takes_image(inputs) else None
    is_known = pixels is not None and pixels.input_range is not None
    return Diagnosis(
        name=model.name,
        file=file,
        target=target,
        num_params=model.count_params(),
        troubles=troubles,
        nested=tuple(nested_in(model)),
        frozen=named(n for n in with_kernel(found.flat) if not n.layer.trainable),
        shared=named(n for n in with_kernel(found.flat) if found.flat.calls(n.layer) > 1),
        operations=counted(
            type(n.layer).__name__
            for n in found.flat.nodes
            if not isinstance(n.layer, keras.layers.Layer)
        ),
        inputs=inputs,
        outputs=outputs,
        **({} if pixels is None else _told_pixels(pixels)),
        quantized=quantized,
        commands=after_cure(file, target)
        if troubles
        else commands_for(file, target, inputs, outputs, is_known=is_known),
    )


def _loaded(path: Path) -> keras.Model:
    if path.suffix.lower() == ".tflite" and path.is_file():
        raise DDQError(
            f"{str(path)!r} is an exported file, not the float model: `ddq verify` checks it, "
            "`ddq benchmark` times it. Give the .keras or .h5 file that it was made from"
        )
    model = load_model(path)
    if isinstance(model, DDQModel):
        raise DDQError(
            f"{str(path)!r} holds a DDQ model, quantized already: `ddq report {path}` tells all of "
            "it, `ddq export` writes its file. `ddq doctor` takes the float model"
        )
    return model


def _untold(model: keras.Model, target: str, trouble: Trouble, file: str) -> Diagnosis:
    """The diagnosis of a model whose graph cannot be read."""
    return Diagnosis(
        name=model.name,
        file=file,
        target=target,
        num_params=model.count_params() if model.built else 0,
        troubles=(trouble,),
        commands=after_cure(file, target),
    )


def _told_pixels(found: Pixels) -> dict[str, Any]:
    """What pixels 0 and 255 become, the order of channels, and who says so."""
    if found.input_range is None:
        low, high = DEFAULT_INPUT_RANGE
        words = f"range not known: give --input_range; without it, {low:g} to {high:g} is taken"
        return {"range_from": words}
    low, high = found.input_range
    return {
        "input_range": (_ends(low), _ends(high)),
        "channels": found.channels,
        "range_from": found.sources["input_range"],
    }


def _ends(level: Any) -> tuple[float, ...]:
    return tuple(level) if isinstance(level, tuple) else (float(level),)
