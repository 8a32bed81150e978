"""What a user wants of some layers, against the rest of the configuration (stdlib only)."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ddq_tf.errors import DDQError, raise_all


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the kernels of some layers are quantized. Of several rules the first that fits counts.

        rules = (
            Rule("logits", bits=8),
            Rule("block_*_expand", precisions=(4,)),
            Rule(keras.layers.DepthwiseConv2D, bits=8),
            Rule(lambda layer: layer.units < 10, per_channel=False),
        )

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
        layers: the names of the layers that it took, once `quantize_model` has looked.

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
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.match, str | type) and not callable(self.match):
            raise DDQError(
                "a rule needs a name pattern, a layer class or a function of a layer. "
                f"Received: {self.match!r}"
            )
        if self.bits is not None and self.precisions is not None:
            raise DDQError(f"{self.words}: give bits or precisions, not both")
        if not self.options:
            raise DDQError(f"{self.words}: says nothing; give bits, levels or another option")

    @property
    def words(self) -> str:
        """What it is called in errors and reports."""
        if isinstance(self.match, str):
            return f"rule {self.match!r}"
        return f"rule {getattr(self.match, '__name__', 'of a function')}"

    @property
    def options(self) -> dict[str, Any]:
        """What it says, as options of `ddq_tf.scheme.WeightScheme`."""
        fields = (f.name for f in dataclasses.fields(self) if f.name not in ("match", "layers"))
        said = {name: getattr(self, name) for name in fields if getattr(self, name) is not None}
        bits = said.pop("bits", None)
        if bits is not None:
            said["precisions"] = (bits,)
        elif "precisions" in said:
            said["precisions"] = tuple(said["precisions"])
        return said

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

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as a saved model holds them."""
        named = self.match if isinstance(self.match, str) else self.words.removeprefix("rule ")
        return {"match": named, "layers": list(self.layers), **self.options}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Rule:
        """Restores a rule, which took its layers already."""
        fields = dict(values)
        return cls(fields.pop("match"), **{**fields, "layers": tuple(fields["layers"])})


def resolved(rules: Sequence[Rule], layers: Sequence[tuple[str, str, Any]]) -> tuple[Rule, ...]:
    """Returns the rules with the names of the layers that they take.

    Args:
        rules: the first that fits a layer takes it.
        layers: of each kernel: the layer's name, that of the layer it comes from in the float
            model, and this layer.

    Raises:
        DDQError: if a rule takes no layer.
    """
    taken: dict[int, list[str]] = {number: [] for number in range(len(rules))}
    for name, origin_name, origin in layers:
        for number, rule in enumerate(rules):
            if rule.fits(origin_name, origin) or rule.match == name:
                taken[number].append(name)
                break
    origins = ", ".join(dict.fromkeys(origin_name for _, origin_name, _ in layers))
    raise_all(
        f"each rule must take a layer with a kernel; there are {origins}:",
        [
            f"{rule.words} takes none"
            + (", since rules before it take all that it fits" if _fits_any(rule, layers) else "")
            for number, rule in enumerate(rules)
            if not taken[number]
        ],
    )
    return tuple(
        dataclasses.replace(rule, layers=tuple(taken[number])) for number, rule in enumerate(rules)
    )


def _fits_any(rule: Rule, layers: Sequence[tuple[str, str, Any]]) -> bool:
    return any(rule.fits(name, origin) for _, name, origin in layers)
