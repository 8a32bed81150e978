"""A case as a few lines of Keras code."""

from __future__ import annotations

from typing import Any

from .build import CHANGES, DATA, EXAMPLES, OPERATORS, POSITIONAL
from .spec import Call, Case, Spec, spec_from

_NORMAL = "normal = lambda deviation, seed: keras.initializers.RandomNormal(0.0, deviation, seed)"
_HELPERS = {"layer_of": "build", "example": "examples"}
_UNIFORM = "uniform = keras.initializers.RandomUniform"


def keras_code(case: Case) -> str:
    """Returns Python code that builds, quantizes and exports a case."""
    body = [*_model(case.spec, "m"), *_data(case), _quantized(case)]
    if case.epochs:
        losses = ", ".join(['"mse"'] * len(case.spec.outputs))
        body += [
            "sgd = keras.optimizers.SGD(0.01, clipnorm=1.0)",
            f"q.compile(sgd, [{losses}], run_eagerly={case.eager}, jit_compile=False)",
            "y = [np.zeros(t.shape, np.float32) for t in keras.tree.flatten(m(x))]",
            f"q.fit(x, y, batch_size={EXAMPLES}, epochs={case.epochs}, verbose=0)",
        ]
    body.append('ddq_tf.export.export_tflite(q, "m.tflite")')
    text = "\n".join(body)
    made = [line for line in (_NORMAL, _UNIFORM) if f"{line.split(' ')[0]}(" in text]
    head = ["import keras, numpy as np, ddq_tf", "L = keras.layers", *made]
    used = [name for name in _HELPERS if f"{name}(" in text]
    head += [f"from random_models.{_HELPERS[name]} import {name}" for name in used]
    head.append(f"keras.utils.set_random_seed({case.seed})")
    return "\n".join([*head, *body])


def _model(spec: Spec, name: str) -> list[str]:
    lines = [
        f"x{each.writes} = keras.Input({each.shape}, name={each.name!r})" for each in spec.inputs
    ]
    shared = {call.shares for call in spec.calls if call.shares is not None}
    for call in spec.calls:
        lines += _call(call, call.writes in shared)
    inputs = ", ".join(f"x{each.writes}" for each in spec.inputs)
    outputs = ", ".join(f"x{number}" for number in spec.outputs)
    lines.append(f"{name} = keras.Model({_listed(inputs)}, {_listed(outputs)})")
    for call in spec.calls:
        if call.shares is None:
            lines += [_change(call.writes, *change) for change in call.changes]
    return lines


def _listed(text: str) -> str:
    return f"[{text}]" if "," in text else text


def _call(call: Call, shared: bool) -> list[str]:
    reads, written = [f"x{number}" for number in call.reads], f"x{call.writes}"
    if call.kind in OPERATORS:
        return [f"{written} = {OPERATORS[call.kind][0].format(*reads, **call.arguments)}"]
    if call.kind.startswith("activations."):
        return [f"{written} = keras.{call.kind}({reads[0]})"]
    if call.kind == "Model":
        inner = spec_from(call.arguments["spec"])
        lines = [] if call.shares is not None else _model(inner, f"l{call.writes}")
        layer = f"l{call.writes if call.shares is None else call.shares}"
        names = [repr(each.name) for each in inner.inputs]
        if len(names) == 1:
            return [*lines, f"{written} = {layer}({reads[0]})"]
        named = ", ".join(f"{n}: {r}" for n, r in reversed(list(zip(names, reads, strict=True))))
        return [*lines, f"{written} = {layer}({{{named}}})"]
    if call.kind == "use":
        given = call.arguments
        return [f"{written} = example({given['rule']!r}, {given['number']})({reads[0]})"]
    lines = []
    layer = f"L.{call.kind}({_arguments(call.arguments)})"
    if call.kind == "example" or call.kind.startswith("Own"):
        layer = f"layer_of({call.kind!r}, {call.arguments!r})"
    if call.shares is not None:
        layer = f"l{call.shares}"
    elif shared or call.changes:
        lines.append(f"l{call.writes} = {layer}")
        layer = f"l{call.writes}"
    given = ", ".join(reads)
    given = given if call.kind in POSITIONAL else _listed(given)
    options = [f"{name}={value!r}" for name, value in call.options.items()]
    return [*lines, f"{written} = {layer}({', '.join([given, *options])})"]


def _arguments(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_value(name, value)}" for name, value in arguments.items())


def _value(name: str, value: Any) -> str:
    if name.endswith("_initializer"):
        return f"{value[0]}({', '.join(map(repr, value[1:]))})"
    if name == "layer":
        return f"L.{value[0]}({_arguments(value[1])})"
    if name == "cell":
        return f"[{', '.join(_value('layer', each) for each in value)}]"
    return repr(value)


def _change(number: int, variable: str, change: str) -> str:
    part, factor, shift = CHANGES[change]
    name = f"l{number}.{variable}"
    return f"v = np.array({name}); v[{part}] = v[{part}] * {factor:g} + {shift:g}; {name}.assign(v)"


def _data(case: Case) -> list[str]:
    values = [
        f"np.float32({DATA[each.data][0].format((2 * EXAMPLES, *each.shape))})"
        for each in case.spec.inputs
    ]
    first = f"rng = np.random.default_rng({case.seed})"
    if len(values) == 1:
        return [first, f"x = {values[0]}", f"c = x[:{EXAMPLES}]"]
    return [first, f"x = [{', '.join(values)}]", f"c = [[v[:{EXAMPLES}] for v in x]]"]


def _quantized(case: Case) -> str:
    config = ", ".join(
        f"{name}={tuple(value) if isinstance(value, list) else value!r}"
        for name, value in case.config.items()
    )
    return f"q = ddq_tf.quantize_model(m, ddq_tf.DDQConfig({config}), calibration=c)"
