"""Keras models, configurations and data from their descriptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from .spec import Call, Case, Spec, spec_from

EXAMPLES = 16
# Of each, how it is written.
OPERATORS: dict[str, tuple[str, Callable[..., Any]]] = {
    "add_number": ("{0} + {number}", lambda x, number: x + number),
    "subtract_number": ("{0} - {number}", lambda x, number: x - number),
    "subtract_from_number": ("{number} - {0}", lambda x, number: number - x),
    "multiply_number": ("{0} * {number}", lambda x, number: x * number),
    "add": ("{0} + {1}", lambda x, y: x + y),
    "subtract": ("{0} - {1}", lambda x, y: x - y),
    "multiply": ("{0} * {1}", lambda x, y: x * y),
    "clip": ("keras.ops.clip({0}, 0, {top})", lambda x, top: keras.ops.clip(x, 0, top)),
}
DATA: dict[str, tuple[str, Callable[[np.random.Generator, Any], Any]]] = {
    "normal": ("rng.normal(size={0})", lambda rng, size: rng.normal(size=size)),
    "pixels": ("rng.integers(0, 256, {0})", lambda rng, size: rng.integers(0, 256, size)),
    "positive": ("abs(rng.normal(size={0}))", lambda rng, size: abs(rng.normal(size=size))),
    "negative": ("-abs(rng.normal(size={0}))", lambda rng, size: -abs(rng.normal(size=size))),
    "zeros": ("np.zeros({0})", lambda rng, size: np.zeros(size)),
    "constant": ("np.full({0}, 3.0)", lambda rng, size: np.full(size, 3.0)),
    "tiny": ("rng.normal(0, 1e-6, {0})", lambda rng, size: rng.normal(0, 1e-6, size)),
    "large": ("rng.normal(0, 1e6, {0})", lambda rng, size: rng.normal(0, 1e6, size)),
}
# Which part of a variable, what it is multiplied with, and what is added then.
CHANGES: dict[str, tuple[str, float, float]] = {
    "huge_channel": ("..., 0", 1e4, 0.0),
    "huge_row": ("..., :1, :", 1e4, 0.0),
    "zero": ("...", 0.0, 0.0),
    "zero_channel": ("..., 0", 0.0, 0.0),
    "half_zero": ("..., ::2", 0.0, 0.0),
    "tiny": ("...", 1e-8, 0.0),
    "negative": ("...", -1.0, 0.0),
    "plus_1e4": ("...", 1.0, 1e4),
    "minus_20": ("...", 1.0, -20.0),
    "minus_20_channel": ("..., 0", 1.0, -20.0),
}
_PARTS: dict[str, Any] = {
    "...": np.s_[...],
    "..., 0": np.s_[..., 0],
    "..., :1, :": np.s_[..., :1, :],
    "..., ::2": np.s_[..., ::2],
}
INITIALIZERS: dict[str, Callable[..., Any]] = {
    "normal": lambda deviation, seed: keras.initializers.RandomNormal(0.0, deviation, seed),
    "uniform": lambda low, high, seed: keras.initializers.RandomUniform(low, high, seed),
}


def layer_of(kind: str, arguments: dict[str, Any]) -> Any:
    """Returns a new layer, or model."""
    if kind == "Model":
        return model_of(spec_from(arguments["spec"]))
    given = {
        name: INITIALIZERS[value[0]](*value[1:]) if name.endswith("_initializer") else value
        for name, value in arguments.items()
    }
    return getattr(keras.layers, kind)(**given)


def is_layer(kind: str) -> bool:
    """Whether a call is one of a layer or model: of something that can be shared."""
    return kind not in OPERATORS and not kind.startswith("activations.")


def model_of(spec: Spec) -> keras.Model:
    """Returns the Keras model."""
    tensors: dict[int, Any] = {
        each.writes: keras.Input(each.shape, name=each.name) for each in spec.inputs
    }
    layers: dict[int, Any] = {}
    for call in spec.calls:
        tensors[call.writes] = _called(call, [tensors[number] for number in call.reads], layers)
    outputs = [tensors[number] for number in spec.outputs]
    inputs = [tensors[each.writes] for each in spec.inputs]
    model = keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs
    )
    for call in spec.calls:
        if call.shares is None:
            for variable, change in call.changes:
                _change(getattr(layers[call.writes], variable), change)
    return model


def _called(call: Call, reads: list[Any], layers: dict[int, Any]) -> Any:
    """Calls an operator, or a layer, which it keeps."""
    if call.kind in OPERATORS:
        return OPERATORS[call.kind][1](*reads, **call.arguments)
    if call.kind.startswith("activations."):
        return getattr(keras.activations, call.kind.partition(".")[2])(*reads)
    if call.shares is None:
        layers[call.writes] = layer_of(call.kind, call.arguments)
    else:
        layers[call.writes] = layers[call.shares]
    layer = layers[call.writes]
    if call.kind == "Model" and len(reads) > 1:
        names = [each.name for each in spec_from(call.arguments["spec"]).inputs]
        return layer(dict(reversed(list(zip(names, reads, strict=True)))))
    return layer(reads[0] if len(reads) == 1 else reads)


def _change(variable: Any, change: str) -> None:
    part, factor, shift = CHANGES[change]
    values = np.array(keras.ops.convert_to_numpy(variable))
    values[_PARTS[part]] = values[_PARTS[part]] * factor + shift
    variable.assign(values)


def output_shape(kind: str, arguments: dict[str, Any], shapes: list[Any]) -> tuple[int, ...]:
    """Returns the shape, without the batch, that a call writes; ValueError if it cannot."""
    if not is_layer(kind):
        if len({len(shape) for shape in shapes}) > 1:
            raise ValueError(f"ranks differ: {shapes}")
        return tuple(np.broadcast_shapes(*shapes))
    whole = [(None, *shape) for shape in shapes]
    found = layer_of(kind, arguments).compute_output_shape(whole[0] if len(whole) == 1 else whole)
    shape = tuple(found[1:])
    if any(size is None or size < 1 for size in shape):
        raise ValueError(f"no such shape: {found}")
    return shape


def data_of(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns what calibrates the model and what is compared, of every input, float32."""
    rng = np.random.default_rng(case.seed)
    drawn = [
        np.asarray(DATA[each.data][1](rng, (2 * EXAMPLES, *each.shape)), np.float32)
        for each in case.spec.inputs
    ]
    return [values[:EXAMPLES] for values in drawn], drawn


def config_of(case: Case) -> Any:
    """Returns the DDQConfig."""
    from ddq_tf import DDQConfig

    given: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in case.config.items()
    }
    return DDQConfig(**given)
