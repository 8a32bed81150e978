"""Flags of a command, defined with absl."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

_WIDTH = 80
_INDENT = 26
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a command.

    Attributes:
        name: without dashes.
        shown: what stands for its value in the help; "" for on-off flags.
        help: a few sentences, without a full stop at the end.
        default: None for none.
        define: registers it, given (name, default, help, flag_values).
        required: whether it must be given.
    """

    name: str
    shown: str
    help: str
    default: Any = None
    define: Callable[[str, Any, str, flags.FlagValues], Any]
    required: bool = False

    @property
    def lines(self) -> str:
        """What the help of a command says of it."""
        words = self.help
        if isinstance(self.default, bool):
            name = f"--[no]{self.name}" if self.default else f"--{self.name}"
            words += " (default: on)" if self.default else ""
        else:
            name = f"--{self.name}={self.shown}"
            words += "" if self.default is None else f" (default: {self.default})"
        lines = textwrap.wrap(words, _WIDTH - _INDENT, break_on_hyphens=False)
        if len(name) + 4 <= _INDENT:
            first = f"  {name}".ljust(_INDENT) + lines[0]
            lines = lines[1:]
        else:
            first = f"  {name}"
        return "\n".join([first, *(" " * _INDENT + line for line in lines)])


def text(name: str, shown: str, help: str, default: str | None = None, **more: Any) -> Flag:
    """Returns a flag that takes any text."""
    define = _define(flags.DEFINE_string)
    return Flag(name=name, shown=shown, help=help, default=default, define=define, **more)


def switch(name: str, help: str, default: bool = False) -> Flag:
    """Returns an on-off flag."""
    define = _define(flags.DEFINE_boolean)
    return Flag(name=name, shown="", help=help, default=default, define=define)


def integer(
    name: str, shown: str, help: str, default: int | None = None, *, low: int | None = 1
) -> Flag:
    """Returns a flag for whole numbers from `low`; None for any."""
    define = _define(flags.DEFINE_integer, lower_bound=low, upper_bound=_MOST)
    return Flag(name=name, shown=shown, help=help, default=default, define=define)


def number(
    name: str,
    shown: str,
    help: str,
    default: float | None = None,
    *,
    low: float | None = 0.0,
    high: float | None = None,
) -> Flag:
    """Returns a flag for real numbers within [low, high]; None for any."""
    define = _define(flags.DEFINE_float, lower_bound=low, upper_bound=high)
    return Flag(name=name, shown=shown, help=help, default=default, define=define)


def choice(name: str, help: str, choices: Sequence[str], default: str | None = None) -> Flag:
    """Returns a flag that takes one of several words."""

    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        flags.DEFINE_enum(name, default, list(choices), help, flag_values=values)

    return Flag(name=name, shown="|".join(choices), help=help, default=default, define=define)


def pair(name: str, shown: str, help: str) -> Flag:
    """Returns a flag for two real numbers, as in -1,1."""
    return _parsed(name, shown, help, _pair_of)


def numbers(name: str, shown: str, help: str) -> Flag:
    """Returns a flag for real numbers with commas between."""
    return _parsed(name, shown, help, _numbers_of)


def whole_numbers(name: str, shown: str, help: str, default: Any = None) -> Flag:
    """Returns a flag for whole numbers with commas between."""
    return _parsed(name, shown, help, _whole_numbers_of, default)


def _define(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        function(name, default, help, flag_values=values, **more)

    return define


def _parsed(
    name: str, shown: str, help: str, parse: Callable[[str], Any], default: Any = None
) -> Flag:
    """Returns a flag whose text goes through `parse`, which raises ValueError."""

    class _Parser(flags.ArgumentParser):
        def parse(self, argument: Any) -> Any:
            return parse(argument) if isinstance(argument, str) else argument

    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        flags.DEFINE(_Parser(), name, default, help, flag_values=values)

    return Flag(name=name, shown=shown, help=help, default=default, define=define)


def _pair_of(words: str) -> tuple[float, float]:
    parts = words.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError("give two numbers, as in -1,1") from None
    return low, high


def _numbers_of(words: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in words.split(","))
    except ValueError:
        raise ValueError("give numbers, as in 123.7,116.3,103.5") from None


def _whole_numbers_of(words: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in words.split(","))
    except ValueError:
        raise ValueError("give whole numbers, as in 4,8") from None
