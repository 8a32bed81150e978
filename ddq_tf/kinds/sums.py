"""Sums and products of tensors, written as layers or as operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds.rule import (
    Example,
    Family,
    LayerRule,
    Lower,
    Output,
    on_any_rank,
)

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers


# Rewriting


def _chain(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A op b op c op ... as a chain of pairs."""
    if len(node.inputs) <= 2:
        return [node]
    total, shape, nodes = node.inputs[0], node.shapes[0], []
    for number, tensor in enumerate(node.inputs[1:], 1):
        last = number == len(node.inputs) - 1
        name = node.name if last else f"{node.name}_{number}"
        written = node.outputs[0] if last else to.new_tensor()
        shapes = (shape, node.shapes[number])
        pair = to.layer(node.layer, name, lambda name=name: type(node.layer)(name=name))
        nodes.append(
            node.calling(pair, name=name, inputs=(total, tensor), outputs=(written,), shapes=shapes)
        )
        total, shape = written, tuple(pair.compute_output_shape(list(shapes)))
    return nodes


# Checks


def _two_inputs(graph: FlatGraph, node: FlatNode) -> str | None:
    if len(node.inputs) != 2:
        return f"needs exactly two inputs; chain several. Received: {len(node.inputs)}"
    return None


# Integer operators


def _lower(operator: str) -> Lower:
    def lower(into: Lowering, node: FlatNode) -> None:
        """ADD, SUB or MUL."""
        reads = tuple(into.names[tensor] for tensor in node.inputs)
        clamp = into.fused_activation(node.outputs[0])
        writes = into.result(node, node.outputs[0], fuses=True)
        into.emit(operator, reads, writes, source=node.name, fused_activation_function=clamp)

    return lower


def _twice(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layer([L.Conv2D(4, 1)(x), x])


FAMILY = Family(
    title="sums and products",
    rules=(
        LayerRule(
            layers=(L.Add,),
            words="Add",
            expand=_chain,
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            lower=_lower("ADD"),
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: _twice(L.Add())(x)),
                Example(build=lambda x: L.ReLU()(_twice(L.Add())(x))),
                Example(build=lambda x: L.Add()([x, L.Conv2D(4, 1)(x), L.Conv2D(4, 1)(x)])),
            ),
        ),
        LayerRule(
            layers=(L.Subtract,),
            words="Subtract",
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            lower=_lower("SUB"),
            is_homogeneous=True,
            examples=(Example(build=lambda x: _twice(L.Subtract())(x)),),
        ),
        LayerRule(
            layers=(L.Multiply,),
            words="Multiply (with broadcast)",
            expand=_chain,
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            lower=_lower("MUL"),
            factor=lambda node: 1.0,
            examples=(
                Example(build=lambda x: _twice(L.Multiply())(x)),
                Example(
                    build=lambda x: L.Multiply()([x, L.GlobalAveragePooling2D(keepdims=True)(x)])
                ),
            ),
        ),
    ),
)
