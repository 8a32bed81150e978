"""Normalizations of rows: of the values along the last axis.

XNNPACK has no integer kernel for any; in the file they are floats between two int8 tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output, Twin, config_of
from ddq_tf.layers import DDQLayerNormalization, DDQRMSNormalization, DDQUnitNormalization

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering

L = keras.layers
_RANKS = (2, 3, 4)


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
    size = node.shapes[0][-1] or 0
    into.island(node, lambda x: node.layer.steps(x, size, as_float64))


def _rules(layer: type, twin: type, *examples: Example) -> tuple[LayerRule, LayerRule]:
    return (
        LayerRule(
            layers=(layer,),
            words=layer.__name__,
            on_row=_of_rows,
            problem=_check,
            output=Output.OWN,
            twin=_twin(twin),
            examples=examples,
        ),
        LayerRule(layers=(twin,), problem=_check, output=Output.OWN, lower=_lower),
    )


FAMILY = Family(
    title="normalizations over the last axis",
    rules=(
        *_rules(
            L.LayerNormalization,
            DDQLayerNormalization,
            Example(build=lambda x: L.LayerNormalization()(x)),
            Example(build=lambda x: L.LayerNormalization(epsilon=1e-6, center=False)(x)),
            Example(build=lambda x: L.LayerNormalization([3], scale=False)(L.Conv2D(37, 1)(x))),
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
    ),
)
