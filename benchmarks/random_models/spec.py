"""Plain descriptions of Keras models, their quantization and their data; JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """An input of a model.

    Attributes:
        writes: number of its tensor.
        shape: without the batch.
        data: a name of `build.DATA`: what values it gets.
    """

    writes: int
    shape: Shape
    data: str = "normal"

    @property
    def name(self) -> str:
        """What Keras calls it."""
        return f"in{self.writes}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a layer, an operator or a model.

    Attributes:
        writes: number of the tensor that it writes.
        kind: a class of keras.layers, a key of `build.OPERATORS`, "activations.NAME", "example" (of
            a rule), "Model", or a user's own, of `build.OWN`.
        reads: numbers of the tensors that it reads.
        arguments: of the layer, plain; models and a user's own have their `Spec` as "spec".
        changes: pairs of a variable's attribute and a name of `build.CHANGES`.
        shares: the call whose layer this one calls again; None for a layer of its own.
        options: what the call itself is given beside tensors.
    """

    writes: int
    kind: str
    reads: tuple[int, ...]
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    changes: tuple[tuple[str, str], ...] = ()
    shares: int | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A model: calls in an order in which they can run."""

    inputs: tuple[Source, ...]
    calls: tuple[Call, ...]
    outputs: tuple[int, ...]

    @property
    def tensors(self) -> set[int]:
        """All tensor numbers."""
        return {each.writes for each in (*self.inputs, *self.calls)}

    def pruned(self, *, keep_inputs: bool = False) -> Spec:
        """Returns the spec without calls, and inputs, that no output needs."""
        needed, calls = set(self.outputs), []
        for call in reversed(self.calls):
            if call.writes in needed:
                needed.update(call.reads)
                calls.append(call)
        inputs = [each for each in self.inputs if keep_inputs or each.writes in needed]
        return dataclasses.replace(self, inputs=tuple(inputs), calls=with_owners(calls[::-1]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model, how it is quantized, and its data.

    Attributes:
        spec: the model.
        config: arguments of DDQConfig.
        epochs: of `fit`, each one step; 0 for none.
        eager: whether `fit` runs eagerly, which is faster for so few steps.
        seed: of the data.
    """

    spec: Spec
    config: dict[str, Any]
    epochs: int = 0
    eager: bool = True
    seed: int = 0


def with_owners(calls: list[Call]) -> tuple[Call, ...]:
    """Returns calls of which those that lost the call they share a layer with own it."""
    present = {call.writes for call in calls}
    heirs: dict[int, int] = {}
    found = []
    for call in calls:
        if call.shares is not None and call.shares not in present:
            heir = heirs.setdefault(call.shares, call.writes)
            call = dataclasses.replace(call, shares=None if heir == call.writes else heir)
        found.append(call)
    return tuple(found)


def to_json(case: Case) -> dict[str, Any]:
    """Returns plain values from which `from_json` makes the case again."""
    return dataclasses.asdict(case)


def from_json(values: dict[str, Any]) -> Case:
    """Makes a case from what `to_json` returned, also after a way through JSON."""
    return Case(**{**values, "spec": spec_from(values["spec"])})


def spec_from(values: dict[str, Any]) -> Spec:
    """Makes a spec from plain values."""
    return Spec(
        inputs=tuple(
            Source(**{**each, "shape": tuple(each["shape"])}) for each in values["inputs"]
        ),
        calls=tuple(_call_from(each) for each in values["calls"]),
        outputs=tuple(values["outputs"]),
    )


def _call_from(values: dict[str, Any]) -> Call:
    return Call(
        **{
            **values,
            "reads": tuple(values["reads"]),
            "changes": tuple((variable, change) for variable, change in values["changes"]),
        }
    )


def as_lists(spec: Spec) -> dict[str, Any]:
    """Returns a spec as plain values with lists for tuples, as JSON gives them back."""
    return _lists(dataclasses.asdict(spec))


def _lists(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _lists(value) for name, value in values.items()}
    return [_lists(value) for value in values] if isinstance(values, list | tuple) else values
