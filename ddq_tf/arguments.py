"""Checks of what users pass, by the types that dataclasses and functions declare (stdlib only)."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ddq_tf.errors import DDQError, raise_all


class _UnfitError(Exception):
    """A value is not of a type."""


def setting(default: Any, *, within: str = "", choices: Iterable[str] = (), shown: str = "") -> Any:
    """Returns a dataclass field with all that is known of its values; `check_types` enforces it.

    Args:
        default: its value unless told; `dataclasses.MISSING` if it must be given.
        within: the interval of its numbers, as in "[0, 1)" or "(0, inf)"; "" for any.
        choices: the words that it may be; a mapping adds what each stands for. Empty for any.
        shown: what stands for a value in the help of a command, as in SHARE; "" for what its type
            suggests.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     share: float = setting(0.5, within="[0, 1]", shown="SHARE")
    """
    known = {"within": within, "choices": choices, "shown": shown}
    return dataclasses.field(default=default, metadata=known)


def same_as(kind: type, name: str) -> Any:
    """Returns a dataclass field with the default, and all else, of another dataclass's field."""
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


def check_types(config: Any) -> None:
    """Refuses fields of a frozen dataclass that are not of their declared types.

    Nor may they lie outside what `setting` says of them. Numbers of numpy become Python's, and
    lists become tuples, so that a configuration can be compared, hashed and saved.

    Args:
        config: what has them.

    Raises:
        DDQError: naming all fields that do not fit, and what each must be.
    """
    kind = type(config)
    given = {name: getattr(config, name) for name in hints_of(kind)}
    raise_all(f"{kind.__name__} cannot be made:", problems_of(kind, given))
    for name, value in given.items():
        object.__setattr__(config, name, _taken(value, hints_of(kind)[name]))


def problems_of(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with values for fields of a dataclass, one line for each.

    Args:
        kind: the dataclass.
        values: by field; some of them.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = (
        _problem(name, value, hints_of(kind)[name], fields[name].metadata)
        for name, value in values.items()
    )
    return [words for words in found if words]


def _problem(name: str, value: Any, hint: Any, known: Mapping[str, Any]) -> str:
    """What is wrong with the value of a field; "" if nothing is."""
    received = f"Received: {name}={value!r}"
    try:
        taken = _taken(value, hint)
    except _UnfitError:
        return f"{name} must be {_words(hint)}. {received}"
    choices, interval = tuple(known.get("choices", ())), known.get("within", "")
    if taken is None:
        return ""
    if choices and taken not in choices:
        return f"{name} must be one of {list(choices)}. {received}"
    if interval and not _lies_in(taken, interval):
        return f"{name} must lie in {interval}. {received}"
    return ""


def check_is(name: str, value: Any, kind: Any, *, cure: str = "") -> None:
    """Refuses an argument of another type.

    Args:
        name: of the argument.
        value: received.
        kind: that is required: a class, or several joined by |.
        cure: what else to do, behind "must be a ...".
    """
    if not isinstance(value, kind):
        raise DDQError(f"{name} must be {_words(kind)}{cure}. Received: {type(value).__name__}")


def check_path(name: str, value: Any) -> None:
    """Refuses what is no path of a file."""
    if not isinstance(value, str | os.PathLike):
        raise DDQError(f"{name} must be the path of a file. Received: {value!r}")


def check_fields(config: object, interval: str, *names: str) -> None:
    """Refuses fields of a configuration that lie outside an interval.

    Args:
        config: what has them.
        interval: as in "[0, 1)" or "(0, inf)".
        names: of the fields; numbers.

    Raises:
        DDQError: naming the first field that does not fit, and what it must be.
    """
    for name in names:
        value = getattr(config, name)
        if not _lies_in(value, interval):
            raise DDQError(f"{name} must lie in {interval}. Received: {name}={value!r}")


def _lies_in(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


@functools.cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """Returns the declared types of a dataclass's fields, by name."""
    declared = typing.get_type_hints(kind)
    return {field.name: declared[field.name] for field in dataclasses.fields(kind)}


def _taken(value: Any, hint: Any) -> Any:
    """A value as its declared type has it; raises _UnfitError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _first_taken(value, typing.get_args(hint))
    if origin in (tuple, collections.abc.Sequence):
        return _several(value, typing.get_args(hint))
    if hint in _SCALARS:
        fits, convert = _SCALARS[hint]
        if not fits(value):
            raise _UnfitError
        return convert(value)
    if origin is collections.abc.Callable:
        if not callable(value):
            raise _UnfitError
    elif hint is not Any and not isinstance(value, hint):
        raise _UnfitError
    return value


def _first_taken(value: Any, hints: Iterable[Any]) -> Any:
    for hint in hints:
        try:
            return _taken(value, hint)
        except _UnfitError:
            continue
    raise _UnfitError


def _several(value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise _UnfitError
    values = tuple(value)
    if len(hints) == 1 or Ellipsis in hints:
        hints = hints[:1] * len(values)
    if len(hints) != len(values):
        raise _UnfitError
    return tuple(_taken(each, hint) for each, hint in zip(values, hints, strict=True))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # numpy's


def _is_number(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind) and not _is_bool(value)


def _same(value: Any) -> Any:
    return value


_SCALARS: dict[Any, tuple[Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: (_is_bool, bool),
    int: (_is_number(numbers.Integral), int),
    float: (
        _is_number(numbers.Real),
        lambda v: int(v) if _is_number(numbers.Integral)(v) else float(v),
    ),
    str: (lambda value: isinstance(value, str), _same),
    type(None): (lambda value: value is None, _same),
    type: (lambda value: isinstance(value, type), _same),
}
_SCALAR_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "None",
    type: "a class",
}


def _words(hint: Any) -> str:
    """A declared type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is collections.abc.Callable:
        return "a function"
    if origin in (tuple, collections.abc.Sequence):
        if Ellipsis in inner or len(inner) == 1:
            return f"a tuple of {_words(inner[0]).removeprefix('a ')}s"
        return f"a tuple of {', '.join(map(_words, inner))}"
    return _SCALAR_WORDS.get(hint) or f"a {hint.__name__}"
