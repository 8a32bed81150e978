"""Keras models, configurations and data from their descriptions."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from .examples import example, example_model
from .spec import Call, Case, Spec, spec_from

EXAMPLES = 16
ops: Any = keras.ops
# Of each, how it is written.
OPERATORS: dict[str, tuple[str, Callable[..., Any]]] = {
    "add_number": ("{0} + {number}", lambda x, number: x + number),
    "subtract_number": ("{0} - {number}", lambda x, number: x - number),
    "subtract_from_number": ("{number} - {0}", lambda x, number: number - x),
    "multiply_number": ("{0} * {number}", lambda x, number: x * number),
    "divide_by_number": ("{0} / {number}", lambda x, number: x / number),
    "add": ("{0} + {1}", lambda x, y: x + y),
    "subtract": ("{0} - {1}", lambda x, y: x - y),
    "multiply": ("{0} * {1}", lambda x, y: x * y),
    "clip": ("keras.ops.clip({0}, 0, {top})", lambda x, top: ops.clip(x, 0, top)),
    "negative": ("-{0}", lambda x: -x),
    "square": ("keras.ops.square({0})", lambda x: ops.square(x)),
    "maximum": ("keras.ops.maximum({0}, {1})", lambda x, y: ops.maximum(x, y)),
    "minimum": ("keras.ops.minimum({0}, {1})", lambda x, y: ops.minimum(x, y)),
    "matmul": ("{0} @ {1}", lambda x, y: x @ y),
    "stack": ("keras.ops.stack([{0}, {1}], {axis})", lambda x, y, axis: ops.stack([x, y], axis)),
    **{
        name: (
            f"keras.ops.{name}({{0}}, {{axis}}, keepdims={{keepdims}})",
            lambda x, axis, keepdims, name=name: getattr(ops, name)(x, axis, keepdims=keepdims),
        )
        for name in ("mean", "max", "sum")
    },
    "softmax": ("keras.ops.softmax({0}, {axis})", lambda x, axis: ops.softmax(x, axis)),
    "transpose": ("keras.ops.transpose({0}, {axes})", lambda x, axes: ops.transpose(x, axes)),
    "flip": ("keras.ops.flip({0}, {axis})", lambda x, axis: ops.flip(x, axis)),
    "roll": ("keras.ops.roll({0}, {by}, {axis})", lambda x, by, axis: ops.roll(x, by, axis)),
    "repeat": ("keras.ops.repeat({0}, {by}, {axis})", lambda x, by, axis: ops.repeat(x, by, axis)),
    "pad": ("keras.ops.pad({0}, {widths})", lambda x, widths: ops.pad(x, widths)),
    "part": (
        "keras.ops.moveaxis(keras.ops.moveaxis({0}, {axis}, 1)[:, {first}:{last}], 1, {axis})",
        lambda x, axis, first, last: ops.moveaxis(ops.moveaxis(x, axis, 1)[:, first:last], 1, axis),
    ),
}
# Which of them take tensors of other shapes than one.
FREE = ("matmul",)
# Layers that are called on tensors one by one, not on a list.
POSITIONAL = ("MultiHeadAttention", "GroupQueryAttention")
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
    if kind == "example":
        return example_model(arguments["rule"], arguments["number"], tuple(arguments["shape"]))
    if kind == "OwnLambda":
        operators = spec_from(arguments["spec"])
        return keras.layers.Lambda(lambda inputs: _computed(operators, {}, inputs))
    if kind in OWN:
        return OWN[kind](spec_from(arguments["spec"]))
    return getattr(keras.layers, kind)(**{n: _argument(n, v) for n, v in arguments.items()})


def _argument(name: str, value: Any) -> Any:
    """An argument of a layer from its description: initializers and layers are named in it."""
    if name.endswith("_initializer"):
        return INITIALIZERS[value[0]](*value[1:])
    if name == "layer":
        return layer_of(*value)
    return [layer_of(*each) for each in value] if name == "cell" else value


def is_layer(kind: str) -> bool:
    """Whether a call is one of a layer or model: of something that can be shared."""
    return kind not in OPERATORS and not kind.startswith("activations.") and kind != "use"


def model_of(spec: Spec) -> keras.Model:
    """Returns the Keras model."""
    inputs = [keras.Input(each.shape, name=each.name) for each in spec.inputs]
    layers: dict[int, Any] = {}
    outputs = keras.tree.flatten(_computed(spec, layers, inputs))
    model = keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs
    )
    change_weights(spec, layers)
    return model


def _computed(spec: Spec, layers: dict[int, Any], inputs: Any) -> Any:
    """The outputs of a spec; the layers that it lacks it makes."""
    given = inputs if isinstance(inputs, list | tuple) else [inputs]
    tensors = dict(zip([each.writes for each in spec.inputs], given, strict=True))
    for call in spec.calls:
        tensors[call.writes] = called(call, [tensors[number] for number in call.reads], layers)
    outputs = [tensors[number] for number in spec.outputs]
    return outputs[0] if len(outputs) == 1 else outputs


def change_weights(spec: Spec, layers: dict[int, Any]) -> None:
    """Makes weights extreme."""
    for call in spec.calls:
        if call.shares is None and call.kind in OWN:
            parts = getattr(layers[call.writes], "parts", {})
            change_weights(spec_from(call.arguments["spec"]), parts)
        for variable, change in call.changes if call.shares is None else ():
            _change(operator.attrgetter(variable)(layers[call.writes]), change)


def called(call: Call, reads: list[Any], layers: dict[int, Any]) -> Any:
    """Calls an operator, or a layer, which it keeps."""
    if call.kind in OPERATORS:
        return OPERATORS[call.kind][1](*reads, **call.arguments)
    if call.kind.startswith("activations."):
        return getattr(keras.activations, call.kind.partition(".")[2])(*reads)
    if call.kind == "use":
        return example(call.arguments["rule"], call.arguments["number"])(*reads)
    owner = call.writes if call.shares is None else call.shares
    if owner not in layers:
        layers[owner] = layer_of(call.kind, call.arguments)
    layer = layers[owner]
    if call.kind == "Model" and len(reads) > 1:
        names = [each.name for each in spec_from(call.arguments["spec"]).inputs]
        return layer(dict(reversed(list(zip(names, reads, strict=True)))))
    if call.kind in POSITIONAL:
        return layer(*reads, **call.options)
    return layer(reads[0] if len(reads) == 1 else reads, **call.options)


def _made(spec: Spec) -> dict[int, Any]:
    """The layers of a spec."""
    return {
        call.writes: layer_of(call.kind, call.arguments)
        for call in spec.calls
        if is_layer(call.kind) and call.shares is None
    }


class OwnLayer(keras.layers.Layer):
    """A user's layer whose call runs a spec."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.parts = spec, _made(spec)

    def call(self, inputs: Any) -> Any:
        """Runs the spec."""
        return _computed(self.spec, dict(self.parts), inputs)


class OwnModel(keras.Model):
    """A user's subclassed model whose call runs a spec."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec, self.parts = spec, _made(spec)

    def call(self, inputs: Any) -> Any:
        """Runs the spec."""
        return _computed(self.spec, dict(self.parts), inputs)


OWN: dict[str, Callable[[Spec], Any]] = {
    "OwnLayer": OwnLayer,
    "OwnModel": OwnModel,
}


def _change(variable: Any, change: str) -> None:
    part, factor, shift = CHANGES[change]
    values = np.array(keras.ops.convert_to_numpy(variable))
    values[_PARTS[part]] = values[_PARTS[part]] * factor + shift
    variable.assign(values)


def output_shape(
    kind: str, arguments: dict[str, Any], shapes: list[Any], options: dict[str, Any] | None = None
) -> tuple[int, ...]:
    """Returns the shape, without the batch, that a call writes; ValueError if it cannot."""
    if kind in OPERATORS and kind not in FREE and len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"ranks differ: {shapes}")
    whole = [keras.KerasTensor((None, *shape)) for shape in shapes]
    reads = tuple(range(len(shapes)))
    call = Call(writes=-1, kind=kind, reads=reads, arguments=arguments, options=options or {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = called(call, whole, {})
    except (AttributeError, IndexError, KeyError, TypeError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    if isinstance(found, list | tuple) or found.shape[0] is not None:
        raise ValueError("several results, or no batch")
    shape = tuple(found.shape[1:])
    if not shape or any(size is None or size < 1 for size in shape):
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
