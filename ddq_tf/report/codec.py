"""Frozen records to plain JSON values and back, checked against their type hints."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from ddq_tf.errors import DDQError

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_RecordT = TypeVar("_RecordT")


def plain(value: Any) -> Any:
    """Returns `value` with numpy scalars, arrays and lists as Python numbers and tuples."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def encode(value: Any) -> Any:
    """Returns `value` as what JSON holds; non-finite numbers become text, as JSON has none."""
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def decode(record: type[_RecordT], values: Any, where: str = "") -> _RecordT:
    """Builds a `record` from what `encode` made of one.

    Args:
        record: a dataclass type.
        values: a dictionary.
        where: the path to `values` in the file, for messages.

    Raises:
        DDQError: if a key is missing or unknown, or a value has the wrong type.
    """
    where = where or record.__name__
    if not isinstance(values, Mapping):
        raise _mismatch(where, "an object", values)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, record))}
    unknown = sorted(set(values) - set(fields))
    missing = [name for name, f in fields.items() if name not in values and _is_required(f)]
    if unknown or missing:
        raise DDQError(f"{where} has unknown keys {unknown} and lacks the keys {missing}.")
    hints = typing.get_type_hints(record)
    return record(
        **{name: _decode_value(hints[name], v, f"{where}.{name}") for name, v in values.items()}
    )


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _decode_value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _decode_value(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mismatch(where, "a list", value)
        return tuple(_decode_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _mismatch(where, "an object", value)
        return {str(k): _decode_value(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where)
    return _decode_scalar(hint, value, where)


def _decode_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, str) and value in _NON_FINITE:
            return _NON_FINITE[value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise _mismatch(where, f"of type {hint.__name__}", value)


def _mismatch(where: str, expected: str, value: Any) -> DDQError:
    return DDQError(f"{where} must be {expected}. Received: {value!r:.80}")
