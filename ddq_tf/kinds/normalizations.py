"""Normalizations of rows: of the values along the last axis, or of groups of channels.

XNNPACK has no integer kernel for any; in the file they are floats between two int8 tensors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output, Twin, but_the_last, config_of
from ddq_tf.kinds.steps import Steps
from ddq_tf.layers import (
    DDQGroupNormalization,
    DDQLayerNormalization,
    DDQRMSNormalization,
    DDQUnitNormalization,
)

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers
_RANKS = (2, 3, 4)
_AXES: Any = [3]  # as Keras keeps it once a layer is built


def _check(graph: FlatGraph, node: FlatNode) -> str | None:
    shape, axis = node.shapes[0], node.layer.axis
    axes = [axis] if isinstance(axis, int) else list(axis)
    if axes not in ([-1], [len(shape) - 1]) or len(shape) not in _RANKS or shape[-1] is None:
        return f"needs axis=-1 and rank 2 to 4. Received: axis={axis}, shape {shape}"
    if getattr(node.layer, "rms_scaling", False):
        return "needs rms_scaling=False; keras.layers.RMSNormalization does it. Received: True"
    return None


def _of_rows(layer: Any, name: str) -> Any:
    """The layer on any rank: its axis counts from the end."""
    return type(layer).from_config({**layer.get_config(), "axis": -1, "name": name})


def _twin(made: type) -> Twin:
    def twin(config: DDQConfig, node: FlatNode, name: str) -> Any:
        return made.from_config({**config_of(node, name), "axis": -1})

    return twin


def _lower(into: Lowering, node: FlatNode) -> None:
    """Sums, products and quotients of floats."""
    into.island(node, lambda x: node.layer.steps(x, node.shapes[0], as_float64))


def _grouped(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Groups of channels that come last: the same behind a Permute that puts them first."""
    layer, shape = node.layer, node.shapes[0]
    rank = len(shape)
    if layer.axis not in (-1, rank - 1) or None in shape[1:]:
        return [node]
    channels, positions = shape[-1], math.prod(size or 1 for size in shape[1:-1])

    def build(name: str) -> Any:
        made = L.GroupNormalization.from_config({**layer.get_config(), "axis": 1, "name": name})
        made.build((None, channels, positions))
        for mine, theirs in zip(made.weights, layer.weights, strict=True):
            mine.assign(theirs)
        return made

    steps = Steps(to, node)
    rows = steps.reshaped("rows", steps.inputs[0], (positions, channels))
    first = steps.call("groups", build, steps.permuted("first", rows, (2, 1)), label="")
    last = steps.permuted("last", first, (2, 1))
    return steps.writing(steps.reshaped("back", last, shape[1:]))


def _group_twin(config: DDQConfig, node: FlatNode, name: str) -> Any:
    return DDQGroupNormalization.from_config(config_of(node, name))


def _check_groups(graph: FlatGraph, node: FlatNode) -> str | None:
    shape, axis = node.shapes[0], node.layer.axis
    if axis == 1 and len(shape) == 3 and None not in shape[1:]:
        return None
    return f"needs axis=-1 and a fixed size. Received: axis={axis}, shape {shape}"


def _rules(layer: type, twin: type, *examples: Example) -> tuple[LayerRule, LayerRule]:
    return (
        LayerRule(
            layers=(layer,),
            words=f"{layer.__name__} over the last axis",
            on_row=_of_rows,
            problem=_check,
            output=Output.OWN,
            twin=_twin(twin),
            examples=examples,
        ),
        LayerRule(
            layers=(twin,),
            problem=_check,
            output=Output.OWN,
            lower=_lower,
            each_alone=but_the_last,
        ),
    )


FAMILY = Family(
    title="normalizations",
    rules=(
        *_rules(
            L.LayerNormalization,
            DDQLayerNormalization,
            Example(build=lambda x: L.LayerNormalization()(x)),
            Example(build=lambda x: L.LayerNormalization(epsilon=1e-6, center=False)(x)),
            Example(build=lambda x: L.LayerNormalization(_AXES, scale=False)(L.Conv2D(37, 1)(x))),
            Example(build=lambda x: L.LayerNormalization()(x), shape=(12, 4)),
            Example(build=lambda x: L.LayerNormalization(2)(L.Dense(1500)(x)), shape=(3, 4)),
            Example(build=lambda x: L.LayerNormalization()(x), shape=(7,)),
        ),
        *_rules(
            L.RMSNormalization,
            DDQRMSNormalization,
            Example(build=lambda x: L.RMSNormalization()(x)),
            Example(build=lambda x: L.RMSNormalization()(x), shape=(12, 4)),
            Example(build=lambda x: L.RMSNormalization(1)(x), shape=(7,)),
        ),
        *_rules(
            L.UnitNormalization,
            DDQUnitNormalization,
            Example(build=lambda x: L.UnitNormalization()(x)),
            Example(build=lambda x: L.UnitNormalization()(x), shape=(7,)),
        ),
        LayerRule(
            layers=(L.GroupNormalization,),
            words="GroupNormalization",
            expand=_grouped,
            problem=_check_groups,
            output=Output.OWN,
            twin=_group_twin,
            examples=(
                Example(build=lambda x: L.GroupNormalization(2)(x)),
                Example(build=lambda x: L.GroupNormalization(-1, center=False)(x)),
                Example(build=lambda x: L.GroupNormalization(1, scale=False)(L.Dense(40)(x))),
                Example(build=lambda x: L.GroupNormalization(2)(x), shape=(12, 4)),
                Example(build=lambda x: L.GroupNormalization(3)(L.Dense(6)(x)), shape=(7,)),
            ),
        ),
        LayerRule(
            layers=(DDQGroupNormalization,),
            problem=_check_groups,
            output=Output.OWN,
            lower=_lower,
        ),
    ),
)
