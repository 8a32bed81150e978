"""Activation layers; what each function is stands in `ddq_tf.kinds.functions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.ops.nn import Softmax

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds import checks
from ddq_tf.kinds.functions import (
    FUNCTIONS,
    activation_name,
    ceiling_of,
    function_of,
    known_names,
)
from ddq_tf.kinds.rule import (
    Example,
    Family,
    LayerRule,
    Output,
    anywhere,
    but_the_last,
    on_any_rank,
    plain_copy,
)
from ddq_tf.kinds.steps import Steps
from ddq_tf.layers import DDQFunction, DDQSoftmax, elu
from ddq_tf.layers.formulas import ROWS
from ddq_tf.targets import get_target

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers
_HIGHEST_RANK = 5  # of TensorFlow's softmax
_ACTIVATIONS = (L.Activation, L.ReLU, L.Softmax, DDQFunction)


def is_activation(node: FlatNode) -> bool:
    """Returns whether a node of a canonical graph is an activation that stands alone."""
    return isinstance(node.layer, _ACTIVATIONS)


# Rewriting


def _expand(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """silu, hard_silu: a gate and a product. Leaky ReLU: the layer. ELU(1): the activation.

    What XNNPACK has no integer operator for: a DDQFunction.
    """
    function = function_of(node.layer)
    if function is None:
        arguments = _arguments(node.layer)
        return [node] if arguments is None else [_function(to, node, *arguments)]
    if function.name == "leaky_relu":
        return _leaky(to, node, float(getattr(node.layer, "negative_slope", 0.2)))
    if isinstance(node.layer, L.ELU):
        return [node.calling(_activation(to, node, "elu", "elu", node.name))]
    of_vectors = function.name == "hard_sigmoid" and len(node.shapes[0]) != 4
    if of_vectors or (function.formula is not None and function.output is None):
        return [_function(to, node, function.name, {})]
    return _gated(to, node, function.gate) if function.gate else [node]


def _arguments(layer: Any) -> tuple[str, dict[str, Any]] | None:
    """The function of an ELU or ReLU layer whose arguments no integer operator has."""
    if isinstance(layer, L.ELU):
        return "elu", {"alpha": float(layer.alpha)}
    if not isinstance(layer, L.ReLU) or layer.max_value == 0:
        return None
    return "relu", _arguments_of_relu(layer)


def _arguments_of_relu(layer: Any) -> dict[str, Any]:
    given = ("negative_slope", "max_value", "threshold")
    return {name: v and float(v) for name in given for v in (getattr(layer, name),)}


def _function(
    to: Canonicalizer, node: FlatNode, function: str, arguments: dict[str, Any]
) -> FlatNode:
    layer = to.layer(
        node.layer, "function", lambda: DDQFunction(function, arguments, name=node.name)
    )
    return node.calling(layer)


def _activation(to: Canonicalizer, node: FlatNode, role: str, function: str, name: str) -> Any:
    return to.layer(node.layer, role, lambda: L.Activation(function, name=name))


def _gated(to: Canonicalizer, node: FlatNode, gate: str) -> list[FlatNode]:
    """X * gate(x)."""
    middle, name = to.new_tensor(), f"{node.name}_gate"
    product = to.layer(node.layer, "product", lambda: L.Multiply(name=node.name))
    return [
        node.calling(_activation(to, node, "gate", gate, name), name=name, outputs=(middle,)),
        node.calling(product, inputs=(*node.inputs, middle), shapes=node.shapes * 2),
    ]


def _leaky(to: Canonicalizer, node: FlatNode, slope: float) -> list[FlatNode]:
    """LeakyReLU with a slope that is an odd multiple of 1/256."""
    odd = float(2 * np.rint((slope * 256 - 1) / 2) + 1) / 256
    if isinstance(node.layer, L.LeakyReLU) and node.layer.negative_slope == odd:
        return [node]
    return [node.calling(to.layer(node.layer, "leaky", lambda: L.LeakyReLU(odd, name=node.name)))]


# Checks


def _check(graph: FlatGraph, node: FlatNode) -> str | None:
    function = function_of(node.layer)
    if function is None:
        return (
            f"needs to be one of {known_names()}, a softmax over other axes than the batch. "
            f"Received: {checks.short_config(node.layer)}"
        )
    return None


def _along_axes(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Softmax over other axes than the last, or several, or of more than five."""
    shape = node.shapes[0]
    is_plain = len(shape) <= _HIGHEST_RANK or None in shape[1:]
    if node.layer.axis == -1 and is_plain:
        return [node]
    steps = Steps(to, node)
    made = steps.of_rows(steps.inputs[0], node.layer.axis, lambda name: L.Softmax(name=name))
    return [node] if made is None else steps.writing(made)


# The DDQ twin


def _output(node: FlatNode) -> Output:
    function = function_of(node.layer)
    if function is None or function.output is None:
        raise ValueError(f"layer {node.name!r} has no integer form")
    return function.output


def _twin(config: DDQConfig, node: FlatNode, name: str) -> Any:
    """ReLUs become ReLU layers, softmax DDQSoftmax, ELU an exact one; the others stay."""
    function = activation_name(node.layer)
    if function == "softmax":
        return DDQSoftmax(get_target(config.target).float_islands, name=name)
    if function in ("relu", "relu6", "clipped_relu"):
        return L.ReLU(ceiling_of(node.layer), name=name)
    if function == "elu":
        return L.Activation(elu, name=name)
    return plain_copy(config, node, name)


# Integer operators


def _lower(into: Lowering, node: FlatNode) -> None:
    """One operator, an island, or a hard sigmoid; what keeps its grid is none."""
    function = function_of(node.layer)
    if function is None or function.output is Output.KEEPS:
        into.names[node.outputs[0]] = into.names[node.inputs[0]]
    elif function.formula is not None and (into.float_islands or not function.operator):
        into.island(node, function.formula)
    elif function.name == "hard_sigmoid":
        _lower_hard_sigmoid(into, node)
    else:
        is_fixed = function.output is Output.FIXED
        reads = into.names[node.inputs[0]]
        writes = into.fixed(node) if is_fixed else into.result(node, node.outputs[0])
        into.emit(function.operator, (reads,), writes, source=node.name)


_HARD_SIGMOID_CODE = 64


def _lower_hard_sigmoid(into: Lowering, node: FlatNode) -> None:
    """X / 6 + 1/2 within [0, 1]: DEPTHWISE_CONV_2D 1x1, clamped by RELU_N1_TO_1 and code -128."""
    codes = np.full((1, 1, node.shapes[0][-1] or 0, 1), _HARD_SIGMOID_CODE, np.int8)
    scale = 1 / (6 * _HARD_SIGMOID_CODE)
    into.depthwise(
        node, codes, scale, 0.5, into.fixed(node), fused_activation_function="RELU_N1_TO_1"
    )


def _lower_relu(into: Lowering, node: FlatNode) -> None:
    """Nothing where a quantizer's saturation does it; else a QUANTIZE from which codes saturate."""
    into.clip(node)


def _lower_leaky(into: Lowering, node: FlatNode) -> None:
    """LEAKY_RELU on its input's grid; its slope is a multiple of 1/256."""
    reads, writes = into.moved(node, rounds=True)
    alpha = float(node.layer.negative_slope)
    into.emit("LEAKY_RELU", (reads,), writes, source=node.name, alpha=alpha)


def _prelu_row(layer: Any, name: str) -> Any:
    axes = None if layer.shared_axes is None else [1, *(axis + 1 for axis in layer.shared_axes)]
    return L.PReLU(shared_axes=axes, name=name)


def _shares_slopes(node: FlatNode, axis: int) -> bool:
    """Whether all positions along an axis have one slope."""
    return int(node.layer.alpha.shape[axis - 1]) == 1


def _lower_prelu(into: Lowering, node: FlatNode) -> None:
    """PRELU on floats, which XNNPACK takes beside integer operators."""
    slopes = as_float64(node.layer.alpha)
    into.island(node, lambda x: x.of("PRELU", slopes))


def _examples(*names: str) -> tuple[Example, ...]:
    return tuple(Example(build=lambda x, name=name: L.Activation(name)(x)) for name in names)


def _softmax(axis: Any) -> Any:
    """Keras's types know one axis alone."""
    return L.Softmax(axis)


_NOT_BY_NAME = ("clipped_relu", "exponential")  # no function of Keras's; beyond floats at 1e6
_OTHERS = ", ".join(
    [*(name for name, each in FUNCTIONS.items() if each.formula and not each.output), "glu"]
)

FAMILY = Family(
    title="activations",
    rules=(
        LayerRule(
            layers=(L.ReLU,),
            words="ReLU (with a ceiling, threshold or slope, ReLU6, `ops.clip(x, 0, k)`)",
            expand=_expand,
            on_row=on_any_rank,
            problem=_check,
            output=_output,
            twin=_twin,
            lower=_lower_relu,
            each_alone=anywhere,
            cuts=True,
            examples=(
                Example(build=lambda x: L.ReLU()(x)),
                Example(build=lambda x: L.ReLU(6.0)(L.MaxPooling2D()(x))),
                Example(build=lambda x: L.ReLU(1.5)(L.Conv2D(4, 1)(x))),
                Example(build=lambda x: L.ReLU(0.7)(x)),
                Example(build=lambda x: L.ReLU(2.0, negative_slope=0.1)(x)),
                Example(build=lambda x: L.ReLU(threshold=0.3)(x)),
                Example(build=lambda x: L.ReLU(1.0, 0.2, 0.5)(x)),
            ),
        ),
        LayerRule(
            layers=(L.LeakyReLU,),
            words="LeakyReLU",
            expand=_expand,
            on_row=on_any_rank,
            output=Output.ROUNDS,
            lift=lambda node: 0.5 / 256,
            lower=_lower_leaky,
            each_alone=anywhere,
            is_homogeneous=True,
            examples=(Example(build=lambda x: L.LeakyReLU(0.1)(x)),),
        ),
        LayerRule(
            layers=(L.PReLU,),
            words="PReLU",
            on_row=_prelu_row,
            output=Output.OWN,
            lower=_lower_prelu,
            each_alone=_shares_slopes,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.PReLU("random_normal", shared_axes=[1, 2])(x)),
                Example(build=lambda x: L.PReLU("random_normal")(x)),
                Example(build=lambda x: L.ReLU(6.0)(L.PReLU("random_normal")(x))),
                Example(build=lambda x: L.PReLU("random_normal")(x), shape=(7,)),
                Example(
                    build=lambda x: L.PReLU("random_normal", shared_axes=[1])(x), shape=(12, 4)
                ),
            ),
        ),
        LayerRule(
            layers=(L.ELU,),
            words="ELU",
            expand=_expand,
            on_row=on_any_rank,
            examples=(
                Example(build=lambda x: L.ELU()(x)),
                Example(build=lambda x: L.ELU(0.5)(x)),
            ),
        ),
        LayerRule(
            layers=(L.Activation,),
            words=f"GELU, sigmoid, tanh, swish, hard-sigmoid, hard-swish, {_OTHERS}, threshold",
            expand=_expand,
            on_row=on_any_rank,
            problem=_check,
            output=_output,
            twin=_twin,
            lower=_lower,
            each_alone=but_the_last,
            examples=(
                *_examples(*(name for name in FUNCTIONS if name not in _NOT_BY_NAME)),
                Example(build=lambda x: L.Activation("exponential")(L.Activation("tanh")(x))),
                Example(build=lambda x: L.Activation("hard_sigmoid")(x), shape=(7,)),
                Example(build=lambda x: L.Activation("mish")(x), shape=(12, 4)),
            ),
        ),
        LayerRule(
            layers=(L.Softmax,),
            words="softmax over any axes",
            expand=_along_axes,
            on_row=on_any_rank,
            operation=lambda layer, shape: Softmax(layer.axis),
            problem=_check,
            output=_output,
            twin=_twin,
            examples=(
                Example(build=lambda x: L.Softmax()(x)),
                Example(build=lambda x: L.Softmax()(L.Dense(5)(L.Flatten()(x)))),
                Example(build=lambda x: L.Softmax(3)(x)),
                Example(build=lambda x: _softmax((1, 2))(x)),
                Example(build=lambda x: L.Softmax(1)(x), shape=(12, 4)),
            ),
        ),
        LayerRule(
            layers=(DDQFunction,),
            on_row=on_any_rank,
            output=Output.OWN,
            lower=_lower,
            each_alone=but_the_last,
            rounds_powers=lambda node: node.layer.function in ROWS,
        ),
    ),
)
