"""Rooms ask the rules about layers: few places test a layer's type themselves."""

from __future__ import annotations

import ast
import importlib
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import ddq_tf
from ddq_tf.layers import FloatLayer
from ddq_tf.quantizers import ActivationQuantizer
from ddq_tf.quantizers.levels import FreeLevels

PACKAGE = Path(ddq_tf.__file__).parent
# Who may: the rules themselves, and the bridge from Keras 2, whose layers have no rules here.
FREE = ("kinds", "tfmot")
NOT_A_TYPE_OF_LAYER = {keras.layers.Layer, FloatLayer, ActivationQuantizer, FreeLevels}
# A new one is asked of `LayerRule`, unless it is worth more than one that goes.
MOST = 37


def is_type_of_layer(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, keras.layers.Layer)
        and not issubclass(kind, keras.Model)
        and kind not in NOT_A_TYPE_OF_LAYER
    )


def types_in(value: Any) -> Iterator[Any]:
    if isinstance(value, types.UnionType):
        value = typing.get_args(value)
    if isinstance(value, tuple | list | set | frozenset):
        for each in value:
            yield from types_in(each)
    else:
        yield value


def calls(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def asked_for(node: ast.AST) -> list[ast.expr]:
    """The types that an expression asks for."""
    if isinstance(node, ast.Call) and calls(node, "isinstance", "issubclass"):
        return [node.args[1]]
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return (
            [s for s in sides if not calls(s, "type")]
            if any(calls(s, "type") for s in sides)
            else []
        )
    return []


def type_tests(source: str, names: dict[str, Any]) -> list[int]:
    """The lines that ask for a type of layer, by the names that a module knows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for expression in asked_for(node):
            try:
                value = eval(compile(ast.Expression(expression), "", "eval"), names)
            except NameError:  # of the function's own, which names no type
                continue
            if any(map(is_type_of_layer, types_in(value))):
                found.append(expression.lineno)
    return found


def test_what_is_counted():
    names = {"L": keras.layers, "Any": Any, "BOTH": (keras.layers.Add, int)}
    source = "isinstance(x, L.Dense | L.Add)\ntype(x) is L.Add\ntype(x) in BOTH\n"
    assert type_tests(source, names) == [1, 2, 3]
    assert not type_tests("isinstance(x, L.Layer)\nisinstance(x, int)\nx is L.Add", names)


def test_few_places_outside_the_rules_test_the_type_of_a_layer():
    places = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in FREE or parts[-1] == "__main__":
            continue
        source = path.read_text("utf-8")
        if "isinstance(" in source or "type(" in source:
            module = importlib.import_module(".".join(("ddq_tf", *parts)).removesuffix(".__init__"))
            places += [f"{'/'.join(parts)}:{line}" for line in type_tests(source, vars(module))]
    assert len(places) <= MOST, "\n".join(places)
