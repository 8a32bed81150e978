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


def check_types(config: Any) -> None:
    """Refuses fields of a frozen dataclass that are not of their declared types.

    Numbers of numpy become Python's, and lists become tuples, so that a configuration can be
    compared, hashed and saved.

    Args:
        config: what has them.

    Raises:
        DDQError: naming all fields that do not fit, and what each must be.
    """
    lines = []
    for name, hint in _hints(type(config)).items():
        value = getattr(config, name)
        try:
            object.__setattr__(config, name, _taken(value, hint))
        except _UnfitError:
            lines.append(f"{name} must be {_words(hint)}. Received: {name}={value!r}")
    raise_all(f"{type(config).__name__} cannot be made:", lines)


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
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        above = value >= low if interval[0] == "[" else value > low
        if not (above and (value <= high if interval[-1] == "]" else value < high)):
            raise DDQError(f"{name} must lie in {interval}. Received: {name}={value!r}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The declared types of a dataclass's fields."""
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
