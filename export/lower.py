"""From a DDQ Keras model to the integer graph: the one place that knows both.

Every operator writes the grid of the quantizer that follows it. BatchNorm folds into scale and
bias; activations need no operator: INT8 saturation at zero point -128 is the ReLU, and a range of
at most 6 the ReLU6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.lowering.builder import Lowering
from ddq_tf.export.one_step import one_step
from ddq_tf.export.stream import STATES
from ddq_tf.graph import FlatGraph, FlatNode, flatten
from ddq_tf.grids import grid_of
from ddq_tf.grids.affine import affine_chain, is_affine
from ddq_tf.grids.fold import fixed_grid_after, is_finite, quantizer_after
from ddq_tf.kinds import Output, find_rule, output_of, rule_of
from ddq_tf.targets import Target, get_target

IO_TYPES: Mapping[str, DType] = {
    "int8": DType.INT8,
    "uint8": DType.UINT8,
    "float32": DType.FLOAT32,
}


def lower(
    model: Any,
    target: Target | None = None,
    *,
    input_type: str = "int8",
    output_type: str = "int8",
    streaming: bool = False,
) -> Graph:
    """Returns the integer graph of a DDQ model; all weights still INT8.

    Args:
        model: as `quantize_model` returns it, or built from DDQ layers by hand.
        target: where the file will run; None for what the model was made for.
        input_type: "int8", "uint8" or "float32".
        output_type: likewise.
        streaming: whether the graph is of one time step, with the states as inputs and outputs,
            always INT8.

    Raises:
        DDQError: naming every layer that has no integer form, or cannot stream, if there are any.
    """
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in IO_TYPES:
            raise DDQError(f"{name} must be one of {sorted(IO_TYPES)}. Received: {value!r}")
    graph, states = flatten(model), ()
    labels = getattr(model, "float_outputs", ())
    if streaming:
        labels = tuple(labels or model.output_names)
        step = one_step(graph, model.name, labels)
        graph, states = step.graph, step.states
        labels += states
    raise_all(f"model {model.name!r} cannot be exported:", _problems(graph))
    lowering = Lowering(graph, (target or named_target(model)).float_islands)
    lowering.enter(IO_TYPES[input_type], states)
    for node in graph.nodes:
        write = rule_of(node.layer).lower
        if write is not None:  # as `_problems` has seen
            write(lowering, node)
    lowered = lowering.leave(IO_TYPES[output_type], labels, states)
    told = {STATES: "\n".join(states).encode()} if streaming else {}
    return dataclasses.replace(lowered, metadata=told)


def named_target(model: Any, name: str | None = None) -> Target:
    """Returns the target of a name, or the one that a model was made for.

    Args:
        model: a DDQ model.
        name: of the target; None for the model's own.

    Raises:
        DDQError: if there is no such target.
    """
    config = getattr(model, "ddq_config", None)
    return get_target(name or (config.target if config else "litert"))


def _problems(graph: FlatGraph) -> list[str]:
    """One line for each layer that has no integer form where it stands."""
    found = []
    for tensor, name in zip(graph.inputs, graph.input_names, strict=True):
        if not all(output_of(node) is Output.GRID for node in graph.consumers(tensor)):
            found.append(f"input {name!r}: needs a DDQActivation as its only reader")
    for node in graph.nodes:
        problem = _problem(graph, node)
        if problem:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def _problem(graph: FlatGraph, node: FlatNode) -> str | None:
    rule = find_rule(node.layer)
    if rule is None or rule.lower is None:
        return "has no integer form; quantize_model makes DDQ layers of Keras layers"
    if not is_finite(node.layer):
        return "holds NaN or infinite values: the training diverged"
    problem = rule.problem(graph, node)
    return problem or _NEEDS[output_of(node)](graph, node)


def _needs_nothing(graph: FlatGraph, node: FlatNode) -> str | None:
    """What keeps the grid of its input, or has one, may stand anywhere."""


def _needs_quantizer(graph: FlatGraph, node: FlatNode) -> str | None:
    if quantizer_after(graph, _end_of_block(graph, node)) is not None:
        return None
    return f"needs a DDQActivation as the only reader of its output{_end_cure(graph, node)}"


def _end_cure(graph: FlatGraph, node: FlatNode) -> str:
    """What to do where a model was cut off before a quantizer."""
    tensor = _end_of_block(graph, node)
    if tensor not in graph.outputs or graph.consumers(tensor):
        return ""
    return (
        ". Let the model end one layer later, at the output of the DDQActivation that stands "
        "behind in the model that this one is cut out of (its name ends in '_quant')"
    )


def _needs_fixed_grid(graph: FlatGraph, node: FlatNode) -> str | None:
    if fixed_grid_after(graph, node.outputs[0]) is not None:
        return None
    return "needs a DDQFixedGrid as the only reader of its output"


def _needs_one_grid(graph: FlatGraph, node: FlatNode) -> str | None:
    scales = {float(grid_of(graph, tensor).scale) for tensor in node.inputs}
    if len(scales) == 1:
        return None
    return f"needs all inputs from one shared DDQActivation. Received: scales {sorted(scales)}"


_NEEDS = {
    Output.OWN: _needs_quantizer,
    Output.KEEPS: _needs_nothing,
    Output.ROUNDS: _needs_nothing,
    Output.FIXED: _needs_fixed_grid,
    Output.SHARED: _needs_one_grid,
    Output.GRID: _needs_nothing,
}


def _end_of_block(graph: FlatGraph, node: FlatNode) -> int:
    """The output of an operator, or of what folds into it: a BatchNorm, a chain of scales."""
    before = graph.producer(node.inputs[0])
    if before is not None and graph.norm_of(before) is node:
        return node.outputs[0]
    if is_affine(graph, node):
        return affine_chain(graph, node)[-1].outputs[0]
    norm = graph.norm_of(node)
    return node.outputs[0] if norm is None else norm.outputs[0]
