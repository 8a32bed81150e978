"""The smallest case with the same fault, by removing and simplifying one thing at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from .build import output_shape
from .spec import Call, Case, Source, Spec, spec_from, with_owners

Fails = Callable[[Case], bool]
_REQUIRED = {
    *("filters", "kernel_size", "units", "spec", "number", "top", "rate", "stddev", "dims"),
    *("target_shape", "mean", "variance", "activation", "l2", "axes", "by", "widths", "first"),
    *("last", "rule", "shape", "equation", "output_shape", "num_heads", "key_dim", "head_dim"),
    *("num_query_heads", "num_key_value_heads", "layer", "cell", "keepdims"),
}
_SMALLER: dict[str, tuple[Any, ...]] = {
    "filters": (1, 2, 4),
    "units": (1, 2, 4),
    "kernel_size": (1, 2, 3),
    "activation": ("relu",),
}


def shrink(case: Case, fails: Fails, *, seconds: float = 300.0, tries: int = 400) -> Case:
    """Returns a smaller case that fails alike.

    Args:
        case: that fails.
        fails: whether another case has the same fault.
        seconds: after which it returns what it has.
        tries: how many cases it runs at most.
    """
    until, left = time.monotonic() + seconds, tries
    seen = {repr(case)}
    progress = True
    while progress:
        progress = False
        for smaller in _candidates(case):
            if repr(smaller) in seen:
                continue
            if left <= 0 or time.monotonic() > until:
                return case
            seen.add(repr(smaller))
            left -= 1
            if fails(smaller):
                case, progress = smaller, True
                break
    return case


def size(case: Case) -> tuple[int, int]:
    """How large a case is: calls, then the length of its description."""
    return len(case.spec.calls), len(repr(case))


def _candidates(case: Case) -> Iterator[Case]:
    """Smaller cases, those that remove most first."""
    if case.epochs:
        yield dataclasses.replace(case, epochs=0)
    for spec in _smaller_graphs(case.spec):
        yield dataclasses.replace(case, spec=spec)
    for name in case.config:
        if name not in ("target", "budget"):
            rest = {key: value for key, value in case.config.items() if key != name}
            yield dataclasses.replace(case, config=rest)
    if case.config.get("budget") is not None:
        yield dataclasses.replace(case, config={**case.config, "budget": None})
    if case.config["target"] != "litert":
        yield dataclasses.replace(case, config={**case.config, "target": "litert"})
    for spec in _simpler_calls(case.spec):
        yield dataclasses.replace(case, spec=spec)
    if case.epochs > 1:
        yield dataclasses.replace(case, epochs=1)
    if not case.eager:
        yield dataclasses.replace(case, eager=True)


def _smaller_graphs(spec: Spec) -> Iterator[Spec]:
    """Fewer outputs, calls and inputs."""
    if len(spec.outputs) > 1:
        for place in range(len(spec.outputs)):
            yield dataclasses.replace(spec, outputs=(spec.outputs[place],)).pruned()
        for place in range(len(spec.outputs)):
            rest = (*spec.outputs[:place], *spec.outputs[place + 1 :])
            yield dataclasses.replace(spec, outputs=rest).pruned()
    pruned = spec.pruned()
    if pruned != spec:
        yield pruned
    shapes = shapes_of(spec)
    for number in _halfway([call.writes for call in spec.calls]):
        yield from _cut(spec, number, shapes)
    for call in spec.calls:
        if "spec" in call.arguments:
            yield _inlined(spec, call)
        for read in dict.fromkeys(call.reads):
            yield _bypassed(spec, call, read)
        if call.shares is not None:
            yield _replaced(spec, call, dataclasses.replace(call, shares=None))
    for each in spec.inputs[1:]:
        for first in spec.inputs:
            if first.writes < each.writes and first.shape == each.shape:
                yield _redirected(spec, {each.writes: first.writes}).pruned()


def _halfway(numbers: list[int]) -> list[int]:
    """The middle first, then outwards."""
    middle = len(numbers) / 2
    return [n for _, n in sorted((abs(place - middle), n) for place, n in enumerate(numbers))]


def shapes_of(spec: Spec) -> dict[int, tuple[int, ...]]:
    """The shapes of all tensors, as far as they have any."""
    shapes: dict[int, tuple[int, ...]] = {each.writes: each.shape for each in spec.inputs}
    for call in spec.calls:
        try:
            shapes[call.writes] = output_shape(
                call.kind,
                call.arguments,
                [shapes[number] for number in call.reads],
                call.options,
            )
        except Exception:
            return shapes
    return shapes


def _cut(spec: Spec, number: int, shapes: dict[int, tuple[int, ...]]) -> Iterator[Spec]:
    """The model up to a tensor, and the model from it on."""
    if spec.outputs != (number,):
        yield dataclasses.replace(spec, outputs=(number,)).pruned()
    if number in shapes and number not in spec.outputs:
        source = Source(writes=number, shape=shapes[number])
        calls = tuple(call for call in spec.calls if call.writes != number)
        inputs = (*spec.inputs, source)
        yield dataclasses.replace(spec, inputs=inputs, calls=with_owners(list(calls))).pruned()


def _redirected(spec: Spec, new: dict[int, int]) -> Spec:
    """The spec with what reads some tensors reading others."""
    calls = tuple(
        dataclasses.replace(call, reads=tuple(new.get(n, n) for n in call.reads))
        for call in spec.calls
    )
    outputs = tuple(new.get(number, number) for number in spec.outputs)
    return dataclasses.replace(spec, calls=calls, outputs=outputs)


def _bypassed(spec: Spec, call: Call, read: int) -> Spec:
    """The spec without a call; what read its result reads what it read."""
    rest = tuple(each for each in spec.calls if each is not call)
    moved = _redirected(dataclasses.replace(spec, calls=rest), {call.writes: read})
    return dataclasses.replace(moved, calls=with_owners(list(moved.calls))).pruned()


def _inlined(spec: Spec, call: Call) -> Spec:
    """The spec with the calls of a nested model in its place, each with layers of its own."""
    inner = spec_from(call.arguments["spec"])
    start = max(spec.tensors | inner.tensors) + 1
    new = {each.writes: read for each, read in zip(inner.inputs, call.reads, strict=True)}
    for place, each in enumerate(inner.calls):
        new[each.writes] = start + place
    new[inner.outputs[0]] = call.writes
    calls = [
        dataclasses.replace(
            each,
            writes=new[each.writes],
            reads=tuple(new[number] for number in each.reads),
            shares=None if each.shares is None else new[each.shares],
        )
        for each in inner.calls
    ]
    place = spec.calls.index(call)
    every = [*spec.calls[:place], *calls, *spec.calls[place + 1 :]]
    every = [
        dataclasses.replace(each, shares=None) if each.shares == call.writes else each
        for each in every
    ]
    return dataclasses.replace(spec, calls=tuple(every)).pruned()


def _replaced(spec: Spec, call: Call, new: Call) -> Spec:
    """The spec with another call, also where its layer is called again."""
    calls = []
    for each in spec.calls:
        if each is call:
            calls.append(new)
        elif each.shares == call.writes:
            alike = {"arguments": new.arguments, "changes": new.changes, "options": new.options}
            calls.append(dataclasses.replace(each, **alike))
        else:
            calls.append(each)
    return dataclasses.replace(spec, calls=tuple(calls))


def _simpler_calls(spec: Spec) -> Iterator[Spec]:
    """Simpler arguments, weights, data and shapes."""
    for place, each in enumerate(spec.inputs):
        for changed in _simpler_inputs(each):
            inputs = (*spec.inputs[:place], changed, *spec.inputs[place + 1 :])
            yield dataclasses.replace(spec, inputs=inputs)
    for call in spec.calls:
        if call.shares is not None:
            continue
        for place in range(len(call.changes)):
            rest = (*call.changes[:place], *call.changes[place + 1 :])
            yield _replaced(spec, call, dataclasses.replace(call, changes=rest))
        for name in call.options:
            rest = {key: value for key, value in call.options.items() if key != name}
            yield _replaced(spec, call, dataclasses.replace(call, options=rest))
        for arguments in _simpler_arguments(call):
            yield _replaced(spec, call, dataclasses.replace(call, arguments=arguments))


def _simpler_inputs(source: Source) -> Iterator[Source]:
    if source.data != "normal":
        yield dataclasses.replace(source, data="normal")
    for place, length in enumerate(source.shape):
        for shorter in (1, 2, 4):
            if shorter < length:
                shape = (*source.shape[:place], shorter, *source.shape[place + 1 :])
                yield dataclasses.replace(source, shape=shape)


def _simpler_arguments(call: Call) -> Iterator[dict[str, Any]]:
    given = call.arguments
    if "spec" in given:
        for inner in _smaller_graphs(spec_from(given["spec"])):
            if len(inner.inputs) == len(given["spec"]["inputs"]):
                yield {"spec": dataclasses.asdict(inner)}
        return
    for name in given:
        optional = name not in _REQUIRED or (name == "activation" and call.kind != "Activation")
        if optional:
            yield {key: value for key, value in given.items() if key != name}
    for name, values in _SMALLER.items():
        for value in values if name in given else ():
            numeric = isinstance(value, int) and isinstance(given[name], int)
            if value != given[name] and not (numeric and value >= given[name]):
                yield {**given, name: value}
