"""All that the exporter knows of TFLite's operators, one file per family.

A new operator is one entry in a family's `OPERATORS`, with its kernel beside it: reader, writer,
simulator and passes ask `operator_of`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import Op, Tensor
from ddq_tf.export.operators import (
    activations,
    elementwise,
    grids,
    movers,
    pooling,
    products,
    resizing,
    weighted,
)
from ddq_tf.export.operators.operator import Operator, Requantization
from ddq_tf.targets import OpKind

__all__ = [
    "OPERATORS",
    "Operator",
    "attributes",
    "completed",
    "operator_of",
    "requantizations",
    "takes_weights",
    "version",
    "weight_kind",
]

_FAMILIES = (activations, elementwise, grids, movers, pooling, products, resizing, weighted)
OPERATORS: Mapping[str, Operator] = {
    operator.kind: operator for family in _FAMILIES for operator in family.OPERATORS
}


def operator_of(kind: str) -> Operator:
    """Returns what is known of a kind of operator.

    Raises:
        DDQError: if nothing is.
    """
    if kind not in OPERATORS:
        raise DDQError(f"operators must be among {sorted(OPERATORS)}. Received: {kind!r}")
    return OPERATORS[kind]


def attributes(op: Op) -> dict[str, Any]:
    """Returns all attributes of an op, the ones it leaves out at their defaults.

    Raises:
        DDQError: if the kind is unknown or has no such attribute.
    """
    defaults = operator_of(op.kind).attrs
    unknown = sorted(set(op.attrs) - set(defaults))
    if unknown:
        raise DDQError(f"{op.kind} has the attributes {sorted(defaults)}. Received: {unknown}")
    return {**defaults, **op.attrs}


def completed(op: Op) -> Op:
    """Returns an op with all its attributes; see `attributes`."""
    return dataclasses.replace(op, attrs=attributes(op))


def weight_kind(op: Op) -> OpKind | None:
    """Returns how targets class an op whose input 1 is a weight, or None for other ops."""
    weights = operator_of(op.kind).weights
    return None if weights is None else weights(completed(op))


def takes_weights(op: Op, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether an op has weights, of a type with which XNNPACK runs it."""
    is_weighted = operator_of(op.kind).weights is not None
    return is_weighted and weighted.takes(completed(op), tensors[op.inputs[1]])


def version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """Returns the operator version to write for an op."""
    return operator_of(op.kind).version(completed(op), tensors)


def requantizations(op: Op, tensors: Mapping[str, Tensor]) -> list[Requantization]:
    """Returns what an op's kernel multiplies with, where XNNPACK takes only some of it."""
    return list(operator_of(op.kind).requantizations(completed(op), tensors))
