"""Sums and products of tensors, written as layers or as operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds.operations import largest, smallest
from ddq_tf.kinds.rule import (
    Example,
    Expand,
    Family,
    LayerRule,
    Lower,
    Output,
    anywhere,
    on_any_rank,
    plain_copy,
)
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQAdd, DDQRescaling

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
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


def _average(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """The sum, divided by the number of summands."""
    steps = Steps(to, node)
    total = steps.inputs[0]
    for number, value in enumerate(steps.inputs[1:]):
        total = steps.call(f"sum_{number}", lambda name: L.Add(name=name), total, value)
    share = 1 / len(steps.inputs)
    return steps.writing(steps.call("", lambda name: DDQRescaling(share, name=name), total))


def _chosen(
    choose: Callable[[Steps, Sequence[Value]], Value | None],
) -> Expand:
    """Element-wise, of tensors of one shape."""

    def expand(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
        steps = Steps(to, node)
        made = choose(steps, steps.inputs)
        return [node] if made is None else steps.writing(made)

    return expand


# Checks


def _one_shape(graph: FlatGraph, node: FlatNode) -> str | None:
    return f"needs tensors of one fixed shape. Received: {', '.join(map(str, node.shapes))}"


def _two_inputs(graph: FlatGraph, node: FlatNode) -> str | None:
    if len(node.inputs) != 2:
        return f"needs exactly two inputs; chain several. Received: {len(node.inputs)}"
    return None


# Copies


def _sum(config: DDQConfig, node: FlatNode, name: str) -> Any:
    broadcasts = len(set(node.shapes)) > 1
    return DDQAdd(name=name) if broadcasts else plain_copy(config, node, name)


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
            layers=(L.Add, DDQAdd),
            words="Add",
            expand=_chain,
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            twin=_sum,
            lower=_lower("ADD"),
            each_alone=anywhere,
            adds=True,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: _twice(L.Add())(x)),
                Example(build=lambda x: L.ReLU()(_twice(L.Add())(x))),
                Example(build=lambda x: L.Add()([x, L.Conv2D(4, 1)(x), L.Conv2D(4, 1)(x)])),
                Example(build=lambda x: L.Add()([x, L.Conv2D(1, 1)(x)])),
            ),
        ),
        LayerRule(
            layers=(L.Subtract,),
            words="Subtract",
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            lower=_lower("SUB"),
            each_alone=anywhere,
            adds=True,
            is_homogeneous=True,
            examples=(Example(build=lambda x: _twice(L.Subtract())(x)),),
        ),
        LayerRule(
            layers=(L.Average,),
            words="Average",
            expand=_average,
            examples=(
                Example(build=lambda x: _twice(L.Average())(x)),
                Example(build=lambda x: L.Average()([x, L.Conv2D(4, 1)(x), x]), shape=(8, 8, 4)),
                Example(build=lambda x: L.Average()([x, L.Dense(7)(x)]), shape=(7,)),
            ),
        ),
        LayerRule(
            layers=(L.Maximum,),
            words="Maximum",
            expand=_chosen(largest),
            problem=_one_shape,
            examples=(
                Example(build=lambda x: _twice(L.Maximum())(x)),
                Example(build=lambda x: L.Maximum()([x, L.Dense(7)(x), x]), shape=(7,)),
            ),
        ),
        LayerRule(
            layers=(L.Minimum,),
            words="Minimum",
            expand=_chosen(smallest),
            problem=_one_shape,
            examples=(Example(build=lambda x: _twice(L.Minimum())(x)),),
        ),
        LayerRule(
            layers=(L.Multiply,),
            words="Multiply (with broadcast)",
            expand=_chain,
            on_row=on_any_rank,
            problem=_two_inputs,
            output=Output.OWN,
            lower=_lower("MUL"),
            each_alone=anywhere,
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
