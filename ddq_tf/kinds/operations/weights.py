"""Variables and constants of a call, as weights of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ddq_tf.graph import FlatNode, as_float64
from ddq_tf.kinds.steps import Steps, Value


def matrix(constant: Any) -> np.ndarray:
    """Returns a constant's or variable's values."""
    return as_float64(keras.ops.convert_to_tensor(constant))


def owner_of(constant: Any) -> Any:
    """What tells whose weights these are: a variable, which several calls may share."""
    return constant if isinstance(constant, keras.Variable) else None


def weighted(
    steps: Steps,
    value: Value,
    make: Callable[[str], Any],
    kernel: Any,
    role: str = "",
    shaped: Callable[[np.ndarray], np.ndarray] = lambda values: values,
) -> Value:
    """A layer whose kernel is a constant or a variable of the call."""

    def built(name: str) -> Any:
        layer = make(name)
        layer.build(value.shape)
        layer.kernel.assign(shaped(matrix(kernel)))
        return layer

    owner, known = owner_of(kernel), make("of")
    config = {k: v for k, v in known.get_config().items() if k != "name"}
    return steps.call(
        role if owner is None else f"{type(known).__name__} {config}",
        built,
        value,
        owner=owner,
        label=role,
    )


def kernel_at(node: FlatNode, place: int, rank: int) -> Any | None:
    """The constant that stands at a place among a call's arguments, if it has this rank."""
    if len(node.inputs) != 1 or len(node.constants) <= place:
        return None
    constant = node.constants[place]
    return constant if len(getattr(constant, "shape", ())) == rank else None
