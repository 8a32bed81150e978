"""The integer graph computed in numpy, element for element what LiteRT with XNNPACK computes.

Every op has one exact rule, which stands at its kernel in `operators`; XNNPACK keeps to it on x86
and ARM, except that MEAN's product and sum are rounded together on ARM: that shows only where a
mean lies on the middle of two codes to the last bit of a float32.

Floats between two integer tensors are float32; EXP, TANH and their like may differ from LiteRT's
in the last bits, which no code that follows from them shows (`ddq_tf.grids.tables`).

SOFTMAX and GELU on integers, AVERAGE_POOL_2D and some ops that move values run in LiteRT's built-in
kernels. Other ops that XNNPACK leaves to these, which round differently from machine to machine,
are refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import DType, Graph, Op, Tensor
from ddq_tf.export.operators import completed, operator_of
from ddq_tf.export.operators.operand import Operand, refuse


def simulate(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Computes a graph.

    Args:
        graph: well formed; see `ddq_tf.export.ir.check`.
        inputs: codes (real numbers for FLOAT32 inputs) under the signature's names, in the
            declared types and shapes; any batch where the batch is dynamic.
        given: values of tensors that are known from elsewhere, by their names; see `sums_floats`.

    Returns:
        The values of the graph's outputs, under the signature's names.

    Raises:
        DDQError: if the inputs do not fit, or naming an op whose exact rule is not known.
    """
    if set(inputs) != set(graph.inputs):
        raise DDQError(f"the inputs are {sorted(graph.inputs)}. Received: {sorted(inputs)}")
    values = {
        name: tensor.data for name, tensor in graph.tensors.items() if tensor.data is not None
    }
    for name, tensor_name in graph.inputs.items():
        values[tensor_name] = _checked(name, inputs[name], graph.tensors[tensor_name])
    known = given or {}
    for op in graph.ops:
        name = op.outputs[0]
        values[name] = known[name] if name in known else _run(op, graph, values)
    return {name: values[tensor_name] for name, tensor_name in graph.outputs.items()}


def sums_floats(op: Op, graph: Graph) -> bool:
    """Returns whether an op adds products of floats, in an order that each machine chooses."""
    made = graph.tensors[op.outputs[0]].dtype is DType.FLOAT32
    return made and operator_of(op.kind).weights is not None


def with_all_outputs(graph: Graph) -> Graph:
    """Returns the graph with the codes that every op writes as an output, under the tensor's name.

    The file of such a graph is still one XNNPACK partition and computes the same codes. Of floats,
    which machines may tell apart in their last bits, only sums are shown; see `sums_floats`.
    """
    results = {
        name: name
        for op in graph.ops
        for name in op.outputs
        if graph.tensors[name].dtype is not DType.FLOAT32 or sums_floats(op, graph)
    }
    return dataclasses.replace(graph, outputs=results)


def _checked(name: str, values: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns the values of an input."""
    fits = len(values.shape) == len(tensor.shape) and all(
        declared in (-1, size) for declared, size in zip(tensor.shape, values.shape, strict=True)
    )
    if values.dtype != tensor.dtype.numpy or not fits:
        raise DDQError(
            f"input {name!r} takes {tensor.dtype.numpy} of shape {tensor.shape}. "
            f"Received: {values.dtype} of shape {values.shape}"
        )
    return values


def _run(op: Op, graph: Graph, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the values that an op writes."""
    operator = operator_of(op.kind)
    if sums_floats(op, graph):
        raise refuse(op, "it adds floats, in an order that each machine chooses")
    tensors = [graph.tensors[name] for name in op.inputs if name]
    output = graph.tensors[op.outputs[0]]
    image = tensors[operator.image]
    if operator.floats is not None and image.dtype is output.dtype is DType.FLOAT32:
        return operator.floats(completed(op), [values[tensor.name] for tensor in tensors])
    if operator.kernel is None:
        raise refuse(op, operator.unknown)
    if not operator.changes_type and (image.dtype, output.dtype) != (DType.INT8,) * 2:
        received = f"{image.dtype.value} to {output.dtype.value}"
        raise refuse(op, f"activations must be INT8. Received: {received}")
    operands = [Operand(tensor=tensor, values=values[tensor.name]) for tensor in tensors]
    return operator.kernel(completed(op), operands, output)
