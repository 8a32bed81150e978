"""Sums and products of tensors, written as layers or as operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.ops import numpy as operations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds.rule import (
    Example,
    Expand,
    Family,
    LayerRule,
    Lower,
    Output,
    on_any_rank,
)
from ddq_tf.layers import DDQRescaling

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


Affine = tuple[Any, Any]


def _operation(kind: type | None, rescale: Callable[[Any, int], Affine | None]) -> Expand:
    """The case of an operator between two tensors, or a tensor and numbers.

    Args:
        kind: the layer for two tensors; None if there is none.
        rescale: (gain, shift) for a number, or one for each channel, and the place at which it
            stands; None if there is no such.
    """

    def expand(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
        if len(node.inputs) == 2:
            return [node] if kind is None else [node.calling(_of_two(to, node, kind))]
        given = [(i, c) for i, c in enumerate(node.constants) if c is not None]
        if len(node.inputs) != 1 or len(given) != 1:
            return [node]
        place, numbers = given[0][0], _for_channels(given[0][1], node.shapes[0])
        affine = None if numbers is None else rescale(numbers, place)
        if affine is None:
            return [node]
        return [node.calling(to.layer(node.layer, "layer", lambda: _rescaling(affine, node.name)))]

    return expand


def _of_two(to: Canonicalizer, node: FlatNode, kind: type) -> Any:
    return to.layer(node.layer, "layer", lambda: kind(name=node.name))


def _rescaling(affine: Affine, name: str) -> Any:
    gain, shift = np.broadcast_arrays(*affine)
    return DDQRescaling(gain, shift, name=name)


def _for_channels(given: Any, shape: tuple[int | None, ...]) -> np.ndarray | None:
    """A number, or one for each channel, from what broadcasts so; None for anything else."""
    try:
        values = np.asarray(keras.ops.convert_to_numpy(given), np.float64)
    except (TypeError, ValueError):
        return None
    if values.size == 1 and values.ndim <= len(shape):
        return values.reshape(())
    fits = values.ndim <= len(shape) and values.shape[-1:] == (shape[-1],)
    return values.ravel() if fits and values.size == shape[-1] else None


def _divided(numbers: np.ndarray, place: int) -> Affine | None:
    """By numbers; a number by x has no integer form."""
    return (1 / numbers, 0.0) if place and numbers.all() else None


def _negated(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    return [node.calling(to.layer(node.layer, "layer", lambda: DDQRescaling(-1.0, name=node.name)))]


def _scaled_sum(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A + scale * b."""
    layer, scaled = node.layer, to.new_tensor()
    rescaling = to.layer(
        layer, "rescaling", lambda: DDQRescaling(layer.scale, name=f"{node.name}_scale")
    )
    total = to.layer(layer, "sum", lambda: L.Add(name=node.name))
    return [
        FlatNode(
            layer=rescaling,
            name=rescaling.name,
            inputs=node.inputs[1:],
            outputs=(scaled,),
            shapes=node.shapes[1:],
        ),
        node.calling(total, inputs=(node.inputs[0], scaled)),
    ]


# Checks


def _two_inputs(graph: FlatGraph, node: FlatNode) -> str | None:
    if len(node.inputs) != 2:
        return f"needs exactly two inputs; chain several. Received: {len(node.inputs)}"
    return None


def _two_operands(graph: FlatGraph, node: FlatNode) -> str | None:
    received = [
        f"{type(c).__name__} of shape {np.shape(c)}" for c in node.constants if c is not None
    ]
    return (
        "needs two tensors, or a tensor and a number or one for each channel; to divide by, not "
        f"0. Received: {', '.join(received) or f'{len(node.inputs)} tensors'}"
    )


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
        LayerRule(
            layers=(operations.Add,),
            words="`+`",
            expand=_operation(L.Add, lambda c, _: (1.0, c)),
            problem=_two_operands,
            examples=(
                Example(build=lambda x: x + 0.5),
                Example(build=lambda x: x + x),
                Example(build=lambda x: x + np.array([[[[1, 2, 3, 4]]]], np.float32)),
            ),
        ),
        LayerRule(
            layers=(operations.Subtract,),
            words="`-`",
            expand=_operation(L.Subtract, lambda c, place: (1.0, -c) if place else (-1.0, c)),
            problem=_two_operands,
            examples=(
                Example(build=lambda x: 1.0 - x),
                Example(build=lambda x: x - 0.5),
                Example(build=lambda x: x - np.array([1, 2, 3, 4], np.float32)),
            ),
        ),
        LayerRule(
            layers=(operations.Multiply,),
            words="`*` of tensors or with numbers",
            expand=_operation(L.Multiply, lambda c, _: (c, 0.0)),
            problem=_two_operands,
            examples=(Example(build=lambda x: x * 0.3), Example(build=lambda x: x * x)),
        ),
        LayerRule(
            layers=(operations.TrueDivide, operations.Divide),
            words="`/` by a number",
            expand=_operation(None, _divided),
            problem=_two_operands,
            examples=(
                Example(build=lambda x: x / 3.0),
                Example(build=lambda x: keras.ops.divide(x, np.array([1, 2, 3, 4], np.float32))),
            ),
        ),
        LayerRule(
            layers=(operations.Negative,),
            expand=_negated,
            examples=(Example(build=lambda x: -x),),
        ),
        LayerRule(layers=(CustomScaleLayer,), expand=_scaled_sum),
    ),
)
