"""An entry of the table of operations, and what entries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.flat_graph import Shape
from ddq_tf.kinds.rule import Example, LayerRule
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQRescaling

if TYPE_CHECKING:
    from ddq_tf.transform.canonical import Canonicalizer


L = keras.layers
Made = Value | Sequence[Value] | None
Make = Callable[[Steps, FlatNode], Made]

# The attributes of operations that say what they do.
_SHOWN = (
    "axis",
    "axes",
    "newshape",
    "keepdims",
    "dtype",
    "x_min",
    "x_max",
    "approximate",
    "alpha",
    "mode",
    "pad_width",
    "subscripts",
    "indices_or_sections",
    "strides",
    "padding",
    "dilation_rate",
    "data_format",
    "output_padding",
    "size",
    "interpolation",
    "antialias",
    "repeats",
    "shift",
    "is_causal",
    "attn_logits_soft_cap",
)


def table_entry(
    words: str, make: Make, *kinds: type, needs: str, examples: Sequence[Any]
) -> LayerRule:
    """An entry of the table.

    Args:
        words: the operations as users write them.
        make: from what a call reads to what it writes, by layers; None where it has no such form.
        *kinds: Keras's classes of these operations.
        needs: what calls without a form would need, in words.
        examples: uses, or `Example`s where they need other inputs.
    """

    def expand(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
        steps = Steps(to, node)
        made = make(steps, node)
        if made is None:
            return [node]
        return steps.writing(*([made] if isinstance(made, Value) else made))

    def problem(graph: FlatGraph, node: FlatNode) -> str | None:
        given = {k: v for k, v in vars(node.layer).items() if k in _SHOWN and v is not None}
        given |= {f"argument {i}": _shown(c) for i, c in enumerate(node.constants) if c is not None}
        parts = [f"shape {shape}" for shape in node.shapes]
        parts += [f"{name}={value!r}" for name, value in given.items()]
        return f"needs {needs}. Received: {', '.join(parts)}"

    found = tuple(e if isinstance(e, Example) else Example(build=e) for e in examples)
    return LayerRule(layers=kinds, words=words, expand=expand, problem=problem, examples=found)


class _Shown(str):
    """Words that stand for themselves."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown(constant: Any) -> Any:
    """A constant in words; arrays by their shapes."""
    shape = getattr(constant, "shape", None)
    if shape is None or shape == ():
        return constant
    return _Shown(f"{type(constant).__name__} of shape {tuple(shape)}")


def one_layer(layer: Callable[[Any, str], Any]) -> Make:
    """The case of an operation that is one layer, of itself and a name; or none."""

    def make(steps: Steps, node: FlatNode) -> Made:
        if len(steps.inputs) != 1 or layer(node.layer, node.name) is None:
            return None
        return steps.call("", lambda name: layer(node.layer, name), steps.inputs[0])

    return make


def given_constants(node: FlatNode) -> list[Any]:
    """The constants of a call."""
    return [constant for constant in node.constants if constant is not None]


def only_number(node: FlatNode) -> float | None:
    """The one number beside the one tensor of a call; None if it has others."""
    given = given_constants(node)
    alone = len(node.inputs) == len(given) == 1 and np.ndim(given[0]) == 0
    return float(given[0]) if alone else None


def axes_of(axis: Any, rank: int) -> tuple[int, ...]:
    """Axes as an operation has them, counted from the front; all of them for None."""
    given = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return tuple(sorted({each % rank for each in given}))


def is_known(shape: Shape) -> bool:
    """Whether all sizes but the batch's are fixed."""
    return None not in shape[1:]


def rescaled(steps: Steps, value: Value, gain: Any, shift: Any, role: str = "") -> Value:
    """Returns a value times a gain, plus a shift: numbers, or one for each channel."""
    gain, shift = np.broadcast_arrays(gain, shift)
    return steps.call(role, lambda name: DDQRescaling(gain, shift, name=name), value)


def pairs(value: Any, count: int) -> tuple[int, ...]:
    """Returns one whole number for each of `count` axes, from one for all or a list."""
    return tuple(int(v) for v in (value if isinstance(value, list | tuple) else [value] * count))


def is_channels_last(node: FlatNode) -> bool:
    """Whether an operation works on channels last."""
    return keras.config.image_data_format() == "channels_last" and node.layer.data_format in (
        None,
        "channels_last",
    )


ops: Any = keras.ops
A_TENSOR = "a tensor"
TWO = "two tensors, or a tensor and a number or one for each channel; to divide by, not 0"
A_KERNEL = "a tensor, channels last, and a kernel of fixed numbers or variables"
AXES = "other axes than the batch, of a fixed size"


SEQUENCE = (12, 4)


def example_numbers(*shape: int) -> Any:
    """Numbers for examples."""
    values = np.random.default_rng(len(shape)).normal(size=shape)
    return values.astype(np.float32)
