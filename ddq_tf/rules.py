"""What a user wants of some layers, against the rest of the configuration (stdlib only)."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddq_tf.arguments import check_types
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.scheme import as_precisions

# Of a rule: what is no option of a kernel's `WeightScheme`.
_NO_OPTIONS = ("match", "in_float", "activation_bits", "layers", "activations")

# A layer's name, that of the layer it comes from in the float model, and this layer.
Place = tuple[str, str, Any]


@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """How some layers are quantized. Of several rules the first that fits counts.

        rules = (
            Rule("logits", bits=8),
            Rule("stem", in_float=True),
            Rule("block_*_expand", precisions=(4,)),
            Rule(keras.layers.DepthwiseConv2D, bits=8, activation_bits=8),
            Rule(lambda layer: layer.units < 10, per_channel=False),
        )

    For kernels the first rule counts that says something of kernels, for activations the first that
    gives `activation_bits`.

    Attributes:
        match: which layers of the float model: a name, perhaps with * and ?; a layer class; or a
            function that says so of a layer. What a layer is rewritten to, as a SeparableConv2D to
            two, goes with it.
        bits: of the kernel, instead of `precisions` of one value.
        precisions: to learn over; None as the configuration says, so for all that follow.
        per_channel: see `DDQConfig`.
        channel_precision: likewise.
        narrow_range: likewise.
        levels: likewise.
        level_init: likewise.
        correction: likewise.
        keep_zeros: likewise.
        in_float: whether the layer stays a float32 layer, in the file too: between DEQUANTIZE and
            QUANTIZE, from 8-bit inputs to a quantized output. Its kernel takes 4 bytes a weight,
            which no budget counts. Sums of floats depend on their order, so a code behind it may,
            rarely, differ by one between Keras and the file.
        activation_bits: see `DDQConfig`; of what the layer writes, with the BatchNorm and ReLU
            behind it. All that meet in a Concatenate share one precision.
        layers: the names of the layers whose kernels it took, once `quantize_model` has looked.
        activations: the names of the layers whose outputs it took, likewise.

    Raises:
        DDQError: if it says nothing, or twice how many bits.
    """

    match: str | type | Callable[[Any], bool]
    _: dataclasses.KW_ONLY
    bits: int | None = None
    precisions: Sequence[int] | None = None
    per_channel: bool | None = None
    channel_precision: bool | None = None
    narrow_range: bool | None = None
    levels: str | None = None
    level_init: str | None = None
    correction: float | None = None
    keep_zeros: bool | None = None
    in_float: bool = False
    activation_bits: int | Sequence[int] | None = None
    layers: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.match, str | type) and not callable(self.match):
            raise DDQError(
                "a rule needs a name pattern, a layer class or a function of a layer. "
                f"Received: {self.match!r}"
            )
        check_types(self)
        if self.bits is not None and self.precisions is not None:
            raise DDQError(f"{self.words}: give bits or precisions, not both")
        if not self.said:
            raise DDQError(f"{self.words}: says nothing; give bits, levels or another option")
        if self.in_float and self.options:
            raise DDQError(
                f"{self.words}: a layer in float has no quantized kernel; leave out in_float or "
                f"{', '.join(self.options)}"
            )

    def __repr__(self) -> str:
        said = (f"{name}={value!r}" for name, value in self.said.items())
        match = repr(self.match) if isinstance(self.match, str) else self._called
        return f"Rule({', '.join([match, *said])})"

    @property
    def _called(self) -> str:
        return getattr(self.match, "__name__", "of a function")

    @property
    def words(self) -> str:
        """What it is called in errors and reports."""
        if isinstance(self.match, str):
            return f"rule {self.match!r}"
        return f"rule {self._called}"

    @property
    def options(self) -> dict[str, Any]:
        """What it says of kernels, as options of `ddq_tf.scheme.WeightScheme`."""
        fields = (f.name for f in dataclasses.fields(self) if f.name not in _NO_OPTIONS)
        said = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        bits = said.pop("bits", None)
        if bits is not None:
            said["precisions"] = (bits,)
        return said

    @property
    def is_of_kernels(self) -> bool:
        """Whether it says something of kernels."""
        return self.in_float or bool(self.options)

    @property
    def activation_precisions(self) -> tuple[int, ...]:
        """What activations learn over; () if it says nothing of them."""
        return () if self.activation_bits is None else as_precisions(self.activation_bits)

    @property
    def said(self) -> dict[str, Any]:
        """All that it says."""
        more: dict[str, Any] = {"in_float": True} if self.in_float else {}
        if self.activation_bits is not None:
            more["activation_bits"] = self.activation_precisions
        return {**self.options, **more}

    @property
    def taken(self) -> tuple[str, ...]:
        """The names of all layers that it took."""
        return tuple(dict.fromkeys((*self.layers, *self.activations)))

    def fits(self, name: str, layer: Any) -> bool:
        """Whether it takes a layer of the float model."""
        if isinstance(self.match, str):
            return fnmatch.fnmatchcase(name, self.match)
        if isinstance(self.match, type):
            return isinstance(layer, self.match)
        try:
            return bool(self.match(layer))
        except AttributeError:
            return False  # as layer.units of a convolution

    def fits_one_of(self, places: Sequence[Place]) -> bool:
        """Whether it takes one of some layers, by its own name or where it comes from."""
        return any(
            self.fits(origin_name, origin) or self.match == name
            for name, origin_name, origin in places
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as a saved model holds them."""
        named = self.match if isinstance(self.match, str) else self.words.removeprefix("rule ")
        took = {"layers": list(self.layers), "activations": list(self.activations)}
        return {"match": named, **took, **self.said}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rule:
        """Restores a rule, which took its layers already."""
        fields = dict(values)
        return cls(fields.pop("match"), **fields)


def resolved(
    rules: Sequence[Rule], kernels: Sequence[Place], blocks: Sequence[Sequence[Place]]
) -> tuple[Rule, ...]:
    """Returns the rules with the names of the layers that they take.

    Args:
        rules: the first that fits a layer takes it.
        kernels: the layers with a kernel.
        blocks: for each activation of a precision of its own the layers that compute it, named by
            the first of them.

    Raises:
        DDQError: if a rule takes no layer.
    """
    of_kernels = _taken(rules, [[place] for place in kernels], lambda rule: rule.is_of_kernels)
    of_outputs = _taken(rules, blocks, lambda rule: bool(rule.activation_precisions))
    found = tuple(
        dataclasses.replace(rule, layers=layers, activations=activations)
        for rule, layers, activations in zip(rules, of_kernels, of_outputs, strict=True)
    )
    _refuse_idle(found, kernels, blocks)
    floats = {name for rule in found if rule.in_float for name in rule.layers}
    if floats and floats >= {name for name, *_ in kernels}:
        raise DDQError(
            "rules leave every layer with a kernel in float: nothing is left to quantize"
        )
    return found


def _taken(
    rules: Sequence[Rule], blocks: Sequence[Sequence[Place]], speaks: Callable[[Rule], bool]
) -> list[tuple[str, ...]]:
    """The names of the blocks that each rule takes, among those that speak of them."""
    taken: list[list[str]] = [[] for _ in rules]
    for block in blocks:
        for number, rule in enumerate(rules):
            if speaks(rule) and rule.fits_one_of(block):
                taken[number].append(block[0][0])
                break
    return [tuple(names) for names in taken]


def _refuse_idle(
    rules: Sequence[Rule], kernels: Sequence[Place], blocks: Sequence[Sequence[Place]]
) -> None:
    """Raises one error for all rules that say something of kernels or activations and take none."""
    lines = []
    for rule in rules:
        places = (
            [*kernels] if rule.is_of_kernels else [place for block in blocks for place in block]
        )
        idle = not rule.layers if rule.is_of_kernels else not rule.activations
        if idle:
            late = ", since rules before it take all that it fits"
            lines.append(f"{rule.words} takes none{late if rule.fits_one_of(places) else ''}")
        elif rule.activation_precisions and not rule.activations:
            lines.append(f"{rule.words} takes no activation of a precision of its own")
    names = ", ".join(dict.fromkeys(origin_name for _, origin_name, _ in kernels))
    outputs = ", ".join(
        dict.fromkeys(origin_name for block in blocks for _, origin_name, _ in block)
    )
    raise_all(
        f"each rule must take a layer with a kernel; there are {names}; or, for activation_bits, "
        f"an activation that may have other bits than 8, computed by {outputs or 'no layer'}:",
        lines,
    )
