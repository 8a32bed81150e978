"""How a kernel is quantized, as one value that goes from the configuration to the quantizer."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from typing import Any

from ddq_tf.arguments import check_types, setting
from ddq_tf.errors import DDQError

MAX_BITS = 8
LEVELS = ("uniform", "free")
LEVEL_INITS = ("uniform", "power_of_two", "kmeans")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """The options of a weight quantizer.

    Attributes:
        precisions: to learn over, ascending, each 2..8.
        per_channel: one range per output channel; otherwise one for the tensor.
        channel_precision: one precision per output channel, of uniform levels; otherwise one for
            the tensor.
        narrow_range: whether uniform codes leave out the lowest of two's complement, as -8 of 4
            bits.
        levels: "uniform" or "free", learned ones.
        level_init: where free levels start: "uniform", "power_of_two" or "kmeans".
        correction: coefficient of the gradient correction of free levels, 0 or above.
        keep_zeros: whether weights that are exactly 0 stay so while the rest trains, as those of a
            pruned network; with uniform levels, which have a 0.

    Raises:
        DDQError: if options are unknown or contradict each other.

    Example:
        >>> WeightScheme(precisions=(2, 4)).precisions
        (2, 4)
    """

    precisions: Sequence[int] = (4, 8)
    per_channel: bool = True
    channel_precision: bool = False
    narrow_range: bool = True
    levels: str = setting("uniform", choices=LEVELS)
    level_init: str = setting("uniform", choices=LEVEL_INITS)
    correction: float = setting(1.0, within="[0, inf)", shown="SHARE")
    keep_zeros: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_precisions("precisions", self.precisions)
        if self.levels == "free" and not (self.narrow_range and not self.channel_precision):
            raise DDQError(
                "free levels are narrow and have one precision per layer; choose levels='uniform'. "
                f"Received: narrow_range={self.narrow_range}, "
                f"channel_precision={self.channel_precision}"
            )
        if self.keep_zeros and self.levels == "free":
            raise DDQError(
                "keep_zeros needs levels='uniform': free levels need not have a 0. "
                "Received: levels='free'"
            )
        if self.channel_precision and not self.per_channel:
            raise DDQError(
                "channel_precision needs a range per channel. Received: per_channel=False"
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Returns the names of all options."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def taken_from(cls, arguments: MutableMapping[str, Any]) -> WeightScheme:
        """Takes its options out of keyword arguments; those that are not there keep defaults."""
        return cls(**{name: arguments.pop(name) for name in cls.names() if name in arguments})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, as a layer's configuration holds them."""
        return {**dataclasses.asdict(self), "precisions": list(self.precisions)}


def as_precisions(bits: int | Sequence[int]) -> tuple[int, ...]:
    """Returns what is learned over, of one precision or several."""
    return (bits,) if isinstance(bits, int) else tuple(bits)


def check_precisions(name: str, precisions: Sequence[int]) -> None:
    """Raises DDQError unless precisions are distinct, ascending and within 2..8."""
    allowed = range(2, MAX_BITS + 1)
    ordered = tuple(sorted(set(precisions)))
    if not precisions or ordered != tuple(precisions) or any(b not in allowed for b in ordered):
        raise DDQError(
            f"{name} must be distinct, ascending and within 2..8. Received: {name}={precisions!r}"
        )
