"""The rules' own examples, to be drawn as parts of random models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from ddq_tf.kinds import RULES, Example, LayerRule

Build = Callable[[Any], Any]


def name_of(rule: LayerRule) -> str:
    """A rule's first type; operations have namesakes among layers."""
    kind = rule.layers[0]
    return f"{'ops.' if '.ops.' in kind.__module__ else ''}{kind.__name__}"


EXAMPLES: dict[str, tuple[Example, ...]] = {
    name_of(rule): rule.examples for rule in RULES.rules if rule.examples
}


def example(rule: str, number: int) -> Build:
    """Returns the use of a layer that a rule gives as its example."""
    return EXAMPLES[rule][number].build


def example_model(rule: str, number: int, shape: tuple[int, ...]) -> keras.Model:
    """Returns an example as a model, which can be called again."""
    source = keras.Input(shape)
    return keras.Model(source, example(rule, number)(source))


@functools.cache
def is_operation(rule: str, number: int) -> bool:
    """Whether an example holds no layer, so that a Lambda may call it."""
    built = example_model(rule, number, EXAMPLES[rule][number].shape)
    inner = [each for each in built.operations if not isinstance(each, keras.layers.InputLayer)]
    return not any(isinstance(each, keras.Layer) for each in inner)
