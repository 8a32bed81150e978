"""Fields of settings as flags: name, type, default, choices and help stand in the dataclass only.

The help is what the docstring's section "Attributes:" says of a field, as users of the command line
write it: another field as its flag, `none` for None, no quotes and no "see ..." of Python's names.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ddq_tf import arguments
from ddq_tf.command_line import flags
from ddq_tf.command_line.flags import Flag
from ddq_tf.pictures import Range

_NONE = "none"
_FIELD = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |^\S|\Z)", re.MULTILINE | re.DOTALL)
_SEE = re.compile(r"[;.,]? *\b[Ss]ee `[^`]+`")
_SHOWN = {int: "N", float: "NUMBER", str: "TEXT"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A dataclass whose fields are flags of a command.

    Attributes:
        kind: the dataclass.
        base: its values unless told; None for those of the dataclass itself.
        left_out: fields that are no flags, and why not.
        names: of flags that are not called like their field.
        follows: fields whose default depends on another choice: that field, and the default by its
            value.
        optional: fields without a default that need not be given, and what they are then.
    """

    kind: type
    base: Any = None
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    follows: Mapping[str, tuple[str, Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def flags(self) -> tuple[Flag, ...]:
        """The flags, in the order of the fields."""
        words = help_of(self.kind)
        return tuple(self._flag(field, words.get(field.name, "")) for field in self._fields)

    def name_of(self, field: str) -> str:
        """Returns the name of a field's flag."""
        return self.names.get(field, field)

    def default_of(self, field: str) -> Any:
        """Returns a field's value unless told; None where that is no value of its own."""
        default = next(f for f in dataclasses.fields(self.kind) if f.name == field).default
        if field in self.follows or default is dataclasses.MISSING:
            return None
        return default if self.base is None else getattr(self.base, field)

    def problems(self, values: Mapping[str, Any]) -> list[str]:
        """Returns what is wrong with the values of flags, which it names."""
        found = arguments.problems_of(self.kind, self._given(values))
        parts = (words.partition(" ") for words in found)
        return [f"--{self.name_of(field)} {words}" for field, _, words in parts]

    def made(self, values: Mapping[str, Any]) -> Any:
        """Returns the settings.

        Args:
            values: of flags, by name.

        Raises:
            DDQError: if they do not fit.
        """
        return self.kind(**self._given(values))

    @property
    def _fields(self) -> list[dataclasses.Field[Any]]:
        return [f for f in dataclasses.fields(self.kind) if f.name not in self.left_out]

    def _given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The value of every field that has one."""
        kept = {} if self.base is None else {n: getattr(self.base, n) for n in self.left_out}
        chosen = {f.name: values[self.name_of(f.name)] for f in self._fields}
        for name, (other, by_value) in self.follows.items():
            if chosen[name] is None:
                chosen[name] = by_value[chosen[other]]
        for name, value in self.optional.items():
            chosen[name] = value if chosen[name] is None else chosen[name]
        hints = arguments.hints_of(self.kind)
        for name, value in chosen.items():
            if value == _NONE and type(None) in _parts(hints[name]):
                chosen[name] = None
        return {**kept, **chosen}

    def _flag(self, field: dataclasses.Field[Any], words: str) -> Flag:
        default = self.default_of(field.name)
        flag = _flag_of(
            self.name_of(field.name),
            arguments.hints_of(self.kind)[field.name],
            field.metadata,
            words,
            default,
        )
        if field.name in self.follows:
            _, by_value = self.follows[field.name]
            rates = ", ".join(f"{name} {value:g}" for name, value in by_value.items())
            return dataclasses.replace(flag, help=f"{flag.help} (default: {rates})")
        required = field.default is dataclasses.MISSING and field.name not in self.optional
        return dataclasses.replace(flag, required=required)


def help_of(kind: type) -> dict[str, str]:
    """Returns what a dataclass's docstring says of each field, for the command line.

    Example:
        >>> from ddq_tf.recipes import TrainConfig
        >>> help_of(TrainConfig)["label_smoothing"]
        'probability spread over all classes'
    """
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    found = _FIELD.findall(section)
    return {name: _plain(words, [other for other, _ in found]) for name, words in found}


def choices_in_words(choices: Any) -> str:
    """Returns choices with what each stands for; "" where that is not known."""
    if not isinstance(choices, Mapping):
        return ""
    return ": " + "; ".join(f"{name} ({words})" for name, words in choices.items())


def _plain(words: str, fields: Iterable[str]) -> str:
    words = " ".join(words.split())
    for name in fields:
        words = words.replace(f"`{name}`", f"--{name}")
    words = _SEE.sub("", words)
    words = re.sub(r"\bNone\b", _NONE, words).replace("`", "").replace('"', "")
    return words.strip().rstrip(".")


def _flag_of(name: str, hint: Any, known: Mapping[str, Any], words: str, default: Any) -> Flag:
    """A flag for a field of a declared type."""
    choices, shown = known.get("choices", ()), known.get("shown", "")
    parts = _parts(hint)
    if choices:
        return flags.choice(name, words + choices_in_words(choices), tuple(choices), default)
    if bool in parts:
        return flags.switch(name, words, default)
    if hint in (Range, Range | None):
        return flags.pair(name, shown, words)
    inner = next((p for p in parts if typing.get_origin(p) is tuple), None)
    if inner is not None:
        many = flags.whole_numbers if int in typing.get_args(inner) else flags.numbers
        return many(name, shown or "N,N", words, *([] if default is None else [default]))
    if str in parts:
        return flags.text(name, shown or _SHOWN[str], words, default)
    if float in parts:
        return flags.number(name, shown or _SHOWN[float], words, default, low=None)
    return flags.integer(name, shown or _SHOWN[int], words, default, low=None)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types that a declared type is one of."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)
