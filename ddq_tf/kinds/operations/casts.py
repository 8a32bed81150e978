"""What changes no value."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.ops import core
from keras.src.ops import numpy as op

from ddq_tf.kinds.operations.entry import one_layer, ops, table_entry
from ddq_tf.kinds.rule import LayerRule

L = keras.layers


def _as_float(operation: Any, name: str) -> Any:
    """A change to another type of floats; activations have none in the integer graph."""
    dtype = getattr(operation, "dtype", None)
    is_float = dtype is None or keras.backend.is_float_dtype(dtype)
    return L.Identity(name=name) if is_float else None


RULES: tuple[LayerRule, ...] = (
    table_entry(
        "cast to floats, stop_gradient, convert_to_tensor, copy",
        one_layer(_as_float),
        core.Cast,
        core.SaturateCast,
        core.StopGradient,
        core.ConvertToTensor,
        op.Copy,
        needs="floats",
        examples=(
            lambda x: ops.cast(x, "float32"),
            lambda x: ops.stop_gradient(x),
            lambda x: ops.convert_to_tensor(x),
        ),
    ),
)
