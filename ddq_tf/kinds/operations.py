"""Operations of `keras.ops`: of which layers each consists.

One table: an entry says what an operation is in layers, so that the rest of the package knows
layers only. Variables and constants that an operation multiplies with become weights of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras.src.activations.activations import ReLU as ReluFunction
from keras.src.ops import core, image, nn
from keras.src.ops import numpy as op

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.graph.flatten import Shape
from ddq_tf.kinds.products import Letters, attention, dense, einsum, matrix_product
from ddq_tf.kinds.rule import Example, Family, LayerRule
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQFunction, DDQRescaling, DDQSlice

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
_MOST_PARTS = 16  # of a reversed axis, which is cut and joined


def _rule(words: str, make: Make, *kinds: type, needs: str, examples: Sequence[Any]) -> LayerRule:
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


def _is(layer: Callable[[Any, str], Any]) -> Make:
    """The case of an operation that is one layer, of itself and a name; or none."""

    def make(steps: Steps, node: FlatNode) -> Made:
        if len(steps.inputs) != 1 or layer(node.layer, node.name) is None:
            return None
        return steps.call("", lambda name: layer(node.layer, name), steps.inputs[0])

    return make


def _given(node: FlatNode) -> list[Any]:
    """The constants of a call."""
    return [constant for constant in node.constants if constant is not None]


def _number(node: FlatNode) -> float | None:
    """The one number beside the one tensor of a call; None if it has others."""
    given = _given(node)
    alone = len(node.inputs) == len(given) == 1 and np.ndim(given[0]) == 0
    return float(given[0]) if alone else None


def _axes(axis: Any, rank: int) -> tuple[int, ...]:
    """Axes as an operation has them, counted from the front; all of them for None."""
    given = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return tuple(sorted({each % rank for each in given}))


def _is_known(shape: Shape) -> bool:
    return None not in shape[1:]


# Activations


def _rescaled(steps: Steps, value: Value, gain: Any, shift: Any, role: str = "") -> Value:
    gain, shift = np.broadcast_arrays(gain, shift)
    return steps.call(role, lambda name: DDQRescaling(gain, shift, name=name), value)


def _clip(operation: Any, name: str) -> Any:
    low, high = operation.x_min, operation.x_max
    known = np.ndim(low) == np.ndim(high) == 0 and low == 0 and 0 < high < math.inf
    return L.ReLU(float(high), name=name) if known else None


def _relu_function(operation: Any, name: str) -> Any:
    """Keras's layer takes no arguments below 0."""
    kept = ("negative_slope", "max_value", "threshold")
    arguments = {n: v and float(v) for n in kept for v in (getattr(operation, n),)}
    if min(v or 0.0 for v in arguments.values()) < 0:
        return DDQFunction("relu", arguments, name=name)
    return L.ReLU(**arguments, name=name)


def _gelu(operation: Any, name: str) -> Any:
    if operation.approximate:
        return DDQFunction("gelu", {"approximate": True}, name=name)
    return L.Activation("gelu", name=name)


def _log_softmax(steps: Steps, node: FlatNode) -> Made:
    if node.layer.axis not in (-1, len(node.shapes[0]) - 1):
        return None
    return steps.call("", lambda name: DDQFunction("log_softmax", name=name), *steps.inputs)


def _glu(steps: Steps, node: FlatNode) -> Made:
    """Half of it, times the sigmoid of the other half."""
    (value,) = steps.inputs
    axis = node.layer.axis % len(value.shape)
    size = value.shape[axis]
    if axis == 0 or not _is_known(value.shape) or (size or 1) % 2:
        return None
    half, gate = (
        steps.cut(value, axis, start, (size or 0) // 2, role)
        for role, start in (("half", 0), ("gated", (size or 0) // 2))
    )
    gate = steps.call("gate", lambda name: L.Activation("sigmoid", name=name), gate)
    return steps.call("", lambda name: L.Multiply(name=name), half, gate)


# Sums and products


Affine = tuple[Any, Any]


def _pair(kind: type | None, affine: Callable[[Any, int], Affine | None]) -> Make:
    """The case of an operator between two tensors, or a tensor and numbers.

    Args:
        kind: the layer for two tensors; None if there is none.
        affine: (gain, shift) for a number, or one for each channel, and the place at which it
            stands; None if there is no such.
    """

    def make(steps: Steps, node: FlatNode) -> Made:
        if len(steps.inputs) == 2:
            return _of_two(steps, kind)
        given = [(i, c) for i, c in enumerate(node.constants) if c is not None]
        if len(steps.inputs) != 1 or len(given) != 1:
            return None
        place, numbers = given[0][0], _for_channels(given[0][1], node.shapes[0])
        found = None if numbers is None else affine(numbers, place)
        return None if found is None else _rescaled(steps, steps.inputs[0], *found)

    return make


def _of_two(steps: Steps, kind: Any) -> Made:
    return kind and steps.call("", lambda name: kind(name=name), *steps.inputs)


def _for_channels(given: Any, shape: Shape) -> np.ndarray | None:
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


def _negated(steps: Steps, node: FlatNode) -> Made:
    return _rescaled(steps, steps.inputs[0], -1.0, 0.0)


def _squared(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    return steps.call("", lambda name: L.Multiply(name=name), value, value)


def _power(steps: Steps, node: FlatNode) -> Made:
    is_square = _number(node) == 2 and node.constants[0] is None
    return _squared(steps, node) if is_square else None


def largest(steps: Steps, values: Sequence[Value], role: str = "") -> Value | None:
    """Returns the element-wise maximum of tensors of one shape: as rows of an image, pooled.

    They share a grid, as the inputs of a Concatenate do, so nothing is rounded.
    """
    shape = values[0].shape
    if any(value.shape != shape for value in values) or not _is_known(shape):
        return None
    size = math.prod(shape[1:])  # type: ignore[arg-type]
    rows = [
        steps.reshaped(f"{role}row_{number}", value, (1, 1, size))
        for number, value in enumerate(values)
    ]
    joined = steps.call(f"{role}rows", lambda name: L.Concatenate(1, name=name), *rows)
    pooled = steps.call(f"{role}max", lambda name: L.GlobalMaxPooling2D(name=name), joined)
    return steps.reshaped(role, pooled, shape[1:])


def smallest(steps: Steps, values: Sequence[Value]) -> Value | None:
    """Returns the element-wise minimum of tensors of one shape: -max(-a, -b)."""
    minus = [
        _rescaled(steps, value, -1.0, 0.0, f"minus_{number}") for number, value in enumerate(values)
    ]
    found = largest(steps, minus, "of_minus")
    return None if found is None else _rescaled(steps, found, -1.0, 0.0)


def _maximum(steps: Steps, node: FlatNode) -> Made:
    """Of a number k: relu(x - k) + k. Below 0 the difference of like numbers would be left."""
    if len(steps.inputs) == 2:
        return largest(steps, steps.inputs)
    number = _number(node)
    if number is None or number < 0:
        return None
    (value,) = steps.inputs
    value = _rescaled(steps, value, 1.0, -number, "above") if number else value
    value = steps.call("relu" if number else "", lambda name: L.ReLU(name=name), value)
    return _rescaled(steps, value, 1.0, number) if number else value


def _minimum(steps: Steps, node: FlatNode) -> Made:
    """Of a number: the ceiling of the ReLU before it."""
    if len(steps.inputs) == 2:
        return smallest(steps, steps.inputs)
    number = _number(node)
    if number is None or number <= 0 or not steps.is_behind(_RELUS):
        return None
    return steps.call("", lambda name: L.ReLU(number, name=name), steps.inputs[0])


_RELUS = (nn.Relu, nn.Relu6, L.ReLU)


# Weights


def _matrix(constant: Any) -> np.ndarray:
    return as_float64(keras.ops.convert_to_tensor(constant))


def _owner(constant: Any) -> Any:
    """What tells whose weights these are: a variable, which several calls may share."""
    return constant if isinstance(constant, keras.Variable) else None


def _weighted(
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
        layer.kernel.assign(shaped(_matrix(kernel)))
        return layer

    owner, known = _owner(kernel), make("of")
    config = {k: v for k, v in known.get_config().items() if k != "name"}
    return steps.call(
        role if owner is None else f"{type(known).__name__} {config}",
        built,
        value,
        owner=owner,
        label=role,
    )


def _kernel(node: FlatNode, place: int, rank: int) -> Any | None:
    """The constant that stands at a place among a call's arguments, if it has this rank."""
    if len(node.inputs) != 1 or len(node.constants) <= place:
        return None
    constant = node.constants[place]
    return constant if len(getattr(constant, "shape", ())) == rank else None


def _product(steps: Steps, node: FlatNode) -> Made:
    """Of a tensor and a matrix: a dense layer without bias."""
    kernel = _kernel(node, 1, 2)
    if kernel is None or not _contracts_one(node):
        return None
    return _dense(steps, steps.inputs[0], kernel)


def _contracts_one(node: FlatNode) -> bool:
    axes = getattr(node.layer, "axes", 1)
    last = len(node.shapes[0]) - 1
    return axes == 1 or axes in ([[last], [0]], ([last], [0]), ((last,), (0,)), ([-1], [0]))


def _dense(steps: Steps, value: Value, kernel: Any) -> Value:
    units = int(kernel.shape[1])
    return _weighted(steps, value, lambda name: L.Dense(units, use_bias=False, name=name), kernel)


def _matmul(steps: Steps, node: FlatNode) -> Made:
    """Of two tensors, or a tensor and a matrix."""
    if len(steps.inputs) == 2:
        left, right = steps.inputs
        return matrix_product(steps, left, right)
    return _product(steps, node)


def _einsum(steps: Steps, node: FlatNode) -> Made:
    """Of two tensors, or a tensor and a kernel."""
    letters = Letters.of(node.layer.subscripts, len(node.shapes[0]))
    if letters is None or len(letters.writes) < 2:
        return None
    if len(steps.inputs) == 2:
        left, right = steps.inputs
        return einsum(steps, left, right, letters)
    kernel = _kernel(node, 1, len(letters.right))
    if kernel is None:
        return None
    return dense(steps, steps.inputs[0], letters, kernel, owner=_owner(kernel))


def _attention(steps: Steps, node: FlatNode) -> Made:
    """Without bias and mask, which stand behind the three tensors."""
    plain = not (node.layer.is_causal or node.layer.attn_logits_soft_cap)
    bias, mask, scale = (*node.constants[3:], None, None, None)[:3]
    if len(steps.inputs) != 3 or not plain or bias is not None or mask is not None:
        return None
    return attention(steps, scale)


def _pairs(value: Any, count: int) -> tuple[int, ...]:
    return tuple(int(v) for v in (value if isinstance(value, list | tuple) else [value] * count))


def _is_last(node: FlatNode) -> bool:
    return keras.config.image_data_format() == "channels_last" and node.layer.data_format in (
        None,
        "channels_last",
    )


def _window(node: FlatNode, rank: int) -> dict[str, Any]:
    operation = node.layer
    return {
        "strides": _pairs(operation.strides, rank),
        "padding": operation.padding,
        "dilation_rate": _pairs(operation.dilation_rate, rank),
        "use_bias": False,
    }


def _convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    kernel = _kernel(node, 1, rank + 2)
    if rank not in (1, 2) or kernel is None or not _is_last(node):
        return None
    *size, _, filters = (int(n) for n in kernel.shape)
    kind, options = getattr(L, f"Conv{rank}D"), _window(node, rank)
    return _weighted(
        steps, steps.inputs[0], lambda name: kind(filters, size, name=name, **options), kernel
    )


def _depthwise(steps: Steps, node: FlatNode, value: Value, kernel: Any, role: str = "") -> Value:
    rank = len(value.shape) - 2
    *size, _, multiplier = (int(n) for n in kernel.shape)
    kind, options = getattr(L, f"DepthwiseConv{rank}D"), _window(node, rank)
    if rank == 1:
        options["strides"], options["dilation_rate"] = (
            options["strides"][0],
            options["dilation_rate"][0],
        )
    return _weighted(
        steps,
        value,
        lambda name: kind(size, depth_multiplier=multiplier, name=name, **options),
        kernel,
        role,
    )


def _depthwise_convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    kernel = _kernel(node, 1, rank + 2)
    if rank not in (1, 2) or kernel is None or not _is_last(node):
        return None
    return _depthwise(steps, node, steps.inputs[0], kernel)


def _separable_convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    first, second = _kernel(node, 1, rank + 2), _kernel(node, 2, rank + 2)
    if rank not in (1, 2) or first is None or second is None or not _is_last(node):
        return None
    value = _depthwise(steps, node, steps.inputs[0], first, "depthwise")
    kind, filters = getattr(L, f"Conv{rank}D"), int(second.shape[-1])
    return _weighted(steps, value, lambda name: kind(filters, 1, use_bias=False, name=name), second)


def _transposed_convolution(steps: Steps, node: FlatNode) -> Made:
    rank = len(node.shapes[0]) - 2
    kernel = _kernel(node, 1, rank + 2)
    if rank not in (1, 2) or kernel is None or not _is_last(node):
        return None
    *size, filters, _ = (int(n) for n in kernel.shape)
    kind, options = getattr(L, f"Conv{rank}DTranspose"), _window(node, rank)
    options["output_padding"] = node.layer.output_padding
    return _weighted(
        steps, steps.inputs[0], lambda name: kind(filters, size, name=name, **options), kernel
    )


def _batch_norm(steps: Steps, node: FlatNode) -> Made:
    """With fixed statistics, as constants or variables."""
    (value,) = steps.inputs[:1]
    mean, variance, offset, scale = (*node.constants[1:], None, None)[:4]
    if len(steps.inputs) > 1 or node.layer.axis not in (-1, len(value.shape) - 1):
        return None

    def built(name: str) -> Any:
        layer: Any = L.BatchNormalization(
            epsilon=node.layer.epsilon,
            center=offset is not None,
            scale=scale is not None,
            name=name,
        )
        layer.build(value.shape)
        rows = (
            (layer.moving_mean, mean),
            (layer.moving_variance, variance),
            (layer.beta, offset),
            (layer.gamma, scale),
        )
        for variable, given in rows:
            if given is not None:
                variable.assign(_matrix(given))
        return layer

    return steps.call("norm", built, value, owner=_owner(mean), label="")


# Windows


def _pool(kind: str) -> Make:
    def make(steps: Steps, node: FlatNode) -> Made:
        rank, operation = len(node.shapes[0]) - 2, node.layer
        if rank not in (1, 2) or not _is_last(node):
            return None
        size = _pairs(operation.pool_size, rank)
        strides = size if operation.strides is None else _pairs(operation.strides, rank)
        layer = getattr(L, f"{kind}Pooling{rank}D")
        return steps.call(
            "",
            lambda name: layer(
                size if rank == 2 else size[0],
                strides if rank == 2 else strides[0],
                operation.padding,
                name=name,
            ),
            steps.inputs[0],
        )

    return make


def _reduced(steps: Steps, node: FlatNode, kind: str, role: str = "") -> Value | None:
    """The mean or the maximum over any axes but the batch, as global pooling of an image."""
    (value,) = steps.inputs
    rank = len(value.shape)
    axes = _axes(node.layer.axis, rank)
    if 0 in axes or not axes:
        return None
    keepdims = bool(node.layer.keepdims)
    if rank in (3, 4) and axes == tuple(range(1, rank - 1)):
        layer = getattr(L, f"Global{kind}Pooling{rank - 2}D")
        return steps.call(role, lambda name: layer(keepdims=keepdims, name=name), value)
    if not _is_known(value.shape):
        return None
    kept = tuple(axis for axis in range(1, rank) if axis not in axes)
    sizes = [size or 1 for size in value.shape]
    value = steps.permuted("permute", value, (*axes, *kept))
    folded = (math.prod(sizes[a] for a in axes), 1, math.prod(sizes[a] for a in kept))
    value = steps.reshaped("image", value, folded)
    layer = getattr(L, f"Global{kind}Pooling2D")
    value = steps.call("pool", lambda name: layer(name=name), value)
    target = [1 if axis in axes else sizes[axis] for axis in range(1, rank)]
    if not keepdims:
        target = [sizes[axis] for axis in kept]
    return steps.reshaped(role, value, tuple(target)) if target else None


def _mean(steps: Steps, node: FlatNode) -> Made:
    return _reduced(steps, node, "Average")


def _max(steps: Steps, node: FlatNode) -> Made:
    return None if getattr(node.layer, "initial", None) else _reduced(steps, node, "Max")


def _sum(steps: Steps, node: FlatNode) -> Made:
    """The mean, times their number."""
    mean = _reduced(steps, node, "Average", "mean")
    if mean is None or not _is_known(node.shapes[0]):
        return None
    sizes = [node.shapes[0][axis] or 1 for axis in _axes(node.layer.axis, len(node.shapes[0]))]
    return _rescaled(steps, mean, float(math.prod(sizes)), 0.0)


def _repeat(steps: Steps, node: FlatNode) -> Made:
    (value,), times = steps.inputs, node.layer.repeats
    rank, axis = len(value.shape), node.layer.axis
    if not isinstance(times, int) or axis is None or rank not in (3, 4):
        return None
    axis %= rank
    if axis in (0, rank - 1):
        return None
    if rank == 3:
        return steps.call("", lambda name: L.UpSampling1D(times, name=name), value)
    size = (times, 1) if axis == 1 else (1, times)
    return steps.call("", lambda name: L.UpSampling2D(size, name=name), value)


def _resize(steps: Steps, node: FlatNode) -> Made:
    """To whole multiples."""
    (value,), operation = steps.inputs, node.layer
    plain = not (
        operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio or operation.antialias
    )
    known = len(value.shape) == 4 and _is_known(value.shape) and _is_last(node)
    if not plain or not known or operation.interpolation not in ("nearest", "bilinear"):
        return None
    rows = list(zip(operation.size, value.shape[1:3], strict=True))
    if any(new % (old or 1) for new, old in rows):
        return None
    factors = tuple(new // (old or 1) for new, old in rows)
    kind = operation.interpolation
    return steps.call(
        "", lambda name: L.UpSampling2D(factors, interpolation=kind, name=name), value
    )


# Shapes


def _reshape(steps: Steps, node: FlatNode) -> Made:
    """A Reshape that leaves the batch as it is."""
    (value,) = steps.inputs
    first, *target = node.layer.newshape
    known = _is_known(value.shape) and all(isinstance(n, int) for n in target)
    if not known or first not in (-1, None):
        return None
    sizes = [size or 0 for size in value.shape[1:]]
    same = first is None if -1 in target else math.prod(sizes) == math.prod(target)
    return steps.call("", lambda name: L.Reshape(target, name=name), value) if same else None


def _joined(steps: Steps, node: FlatNode) -> Made:
    axis = node.layer.axis
    if axis is None or axis % len(node.shapes[0]) == 0 or _given(node):
        return None
    return steps.call("", lambda name: L.Concatenate(axis, name=name), *steps.inputs)


def _stacked(steps: Steps, node: FlatNode) -> Made:
    shape = node.shapes[0]
    axis = node.layer.axis % (len(shape) + 1)
    if axis == 0 or not _is_known(shape) or _given(node):
        return None
    target = (*shape[1:axis], 1, *shape[axis:])
    parts = [
        steps.reshaped(f"part_{number}", value, target) for number, value in enumerate(steps.inputs)
    ]
    if len(parts) == 1:
        return parts[0]
    return steps.call("", lambda name: L.Concatenate(axis, name=name), *parts)


def _moved(order: Callable[[Any, int], Sequence[int] | None]) -> Make:
    """The case of an operation that puts axes in another order."""

    def make(steps: Steps, node: FlatNode) -> Made:
        (value,) = steps.inputs
        axes = order(node.layer, len(value.shape))
        if axes is None or axes[0] != 0:
            return None
        last = tuple(axes[1:])
        return steps.call("", lambda name: L.Permute(last, name=name), value)

    return make


def _transposed(operation: Any, rank: int) -> Sequence[int]:
    return operation.axes or tuple(reversed(range(rank)))


def _swapped(operation: Any, rank: int) -> Sequence[int]:
    axes = list(range(rank))
    first, second = operation.axis1 % rank, operation.axis2 % rank
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _displaced(operation: Any, rank: int) -> Sequence[int]:
    taken = [axis % rank for axis in operation.source]
    axes = [axis for axis in range(rank) if axis not in taken]
    rows = zip(operation.destination, taken, strict=True)
    for place, axis in sorted((place % rank, axis) for place, axis in rows):
        axes.insert(place, axis)
    return axes


def _other_rank(steps: Steps, node: FlatNode) -> Made:
    """A Reshape that adds or drops axes of one value."""
    (value,) = steps.inputs
    spec = node.layer.compute_output_spec(keras.KerasTensor(value.shape))
    written = tuple(spec.shape)
    if not _is_known(written) or written[:1] != value.shape[:1]:
        return None
    return steps.call("", lambda name: L.Reshape(written[1:], name=name), value)


def _blocks(steps: Steps, node: FlatNode, *, to_depth: bool) -> Made:
    """Blocks of pixels as channels, or the other way."""
    (value,), b = steps.inputs, node.layer.block_size
    if not _is_known(value.shape) or node.layer.data_format != "channels_last":
        return None
    height, width, depth = (size or 0 for size in value.shape[1:])
    if to_depth:
        inner = (height // b, b, width // b, b, depth)
        target = (height // b, width // b, b * b * depth)
        axes = (1, 3, 2, 4, 5)
    else:
        inner = (height, width, b, b, depth // (b * b))
        target = (height * b, width * b, depth // (b * b))
        axes = (1, 3, 2, 4, 5)
    value = steps.reshaped("blocks", value, inner)
    value = steps.permuted("permute", value, axes)
    return steps.reshaped("", value, target)


def _padded(steps: Steps, node: FlatNode) -> Made:
    """With zeros: height and width of images, the length of sequences, or channels of either."""
    (value,) = steps.inputs[:1]
    with_zeros = node.layer.mode == "constant" and not any(np.any(c) for c in _given(node))
    if not with_zeros or len(steps.inputs) > 1:
        return None
    rows = [tuple(int(n) for n in row) for row in node.layer.pad_width]
    rank = len(value.shape)
    rows = rows * rank if len(rows) == 1 else rows
    if any(rows[0]) or rank not in (3, 4) or (rank == 3 and not _is_known(value.shape)):
        return None
    inner, channels = rows[1:-1], rows[-1]
    is_last = not any(channels)
    if any(map(any, inner)) or is_last:
        role = "" if is_last else "pixels"
        value = steps.call(role, lambda name: _zeros(inner, name), value)
    if is_last:
        return value
    # Channels in the place of rows.
    value = steps.permuted("first", value, (rank - 1, *range(1, rank - 1)))
    border = [channels, *([(0, 0)] * (rank - 3))]
    value = steps.call("channels", lambda name: _zeros(border, name), value)
    return steps.permuted("", value, (*range(2, rank), 1))


def _zeros(border: Sequence[Any], name: str) -> Any:
    if len(border) == 1:
        return L.ZeroPadding1D(border[0], name=name)
    return L.ZeroPadding2D(tuple(border), name=name)


# Parts


def _split(steps: Steps, node: FlatNode) -> Made:
    (value,), sections = steps.inputs, node.layer.indices_or_sections
    axis = node.layer.axis % len(value.shape)
    if axis == 0 or not _is_known(value.shape):
        return None
    size = value.shape[axis] or 0
    if isinstance(sections, int):
        ends = [size // sections * (n + 1) for n in range(sections)]
    else:
        ends = [*(int(n) for n in sections), size]
    starts = [0, *ends[:-1]]
    return [
        steps.cut(value, axis, start, end - start, f"part_{number}")
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _unstacked(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    axis = node.layer.axis % len(value.shape)
    if axis == 0 or not _is_known(value.shape):
        return None
    target = value.shape[1:axis] + value.shape[axis + 1 :]
    return [
        steps.reshaped(f"at_{n}", steps.cut(value, axis, n, 1, f"cut_{n}"), target)
        for n in range(value.shape[axis] or 0)
    ]


def _item(steps: Steps, node: FlatNode) -> Made:
    """`x[:, 1:5, ::2, -1]`, with `...` and None."""
    (value,), key = steps.inputs, node.constants[-1]
    entries = _entries(key, len(value.shape))
    if entries is None or not _is_known(value.shape):
        return None
    target: list[int] = []
    axis = 0
    for entry in entries:
        if entry is None:
            target.append(1)
            continue
        if axis == 0:
            if entry != slice(None):
                return None
        elif isinstance(entry, slice):
            found = _ranged(steps, value, axis, entry)
            if found is None:
                return None
            value = found
            target.append(value.shape[axis] or 0)
        else:
            place = int(entry) % (value.shape[axis] or 1)
            value = steps.cut(value, axis, place, 1, f"at_{axis}_{place}")
        axis += 1
    if entries[0] is None:  # before the batch
        return None
    return steps.reshaped("", value, tuple(target))


def _entries(key: Any, rank: int) -> list[Any] | None:
    """One entry for each axis, and None for new ones; None if there are others, as arrays."""
    given = list(key) if isinstance(key, tuple | list) else [key]
    known = (slice, int, np.integer, type(None), type(Ellipsis))
    if not all(isinstance(entry, known) for entry in given) or isinstance(key, list):
        return None
    taken = sum(entry is not None and entry is not Ellipsis for entry in given)
    rest = [slice(None)] * (rank - taken)
    place = next((n for n, entry in enumerate(given) if entry is Ellipsis), None)
    if place is None:
        return [*given, *rest]
    return [*given[:place], *rest, *given[place + 1 :]]


def _ranged(steps: Steps, value: Value, axis: int, entry: slice) -> Value | None:
    """A slice of one axis, also with a step or backwards."""
    size = value.shape[axis] or 0
    places = range(*entry.indices(size))
    if not places:
        return None
    if places.step == 1:
        return steps.cut(value, axis, places[0], len(places), f"cut_{axis}")
    if places.step < 0:
        return _picked(steps, value, axis, list(places), f"turned_{axis}")
    rank = len(value.shape)
    if rank != 4 or axis == rank - 1:
        return _picked(steps, value, axis, list(places), f"picked_{axis}")
    value = steps.cut(value, axis, places[0], places[-1] + 1 - places[0], f"cut_{axis}")
    strides = (places.step, 1) if axis == 1 else (1, places.step)
    return steps.call(f"each_{axis}", lambda name: L.MaxPooling2D(1, strides, name=name), value)


def _picked(
    steps: Steps, value: Value, axis: int, places: Sequence[int], role: str = ""
) -> Value | None:
    """Single values of an axis, in any order, cut and joined."""
    if len(places) > _MOST_PARTS:
        return None
    parts = [steps.cut(value, axis, place, 1, f"one_{axis}_{place}") for place in places]
    if len(parts) == 1:
        return parts[0]
    return steps.call(role, lambda name: L.Concatenate(axis, name=name), *parts)


def _turned(steps: Steps, node: FlatNode) -> Made:
    (value,) = steps.inputs
    axes = _axes(node.layer.axis, len(value.shape))
    if 0 in axes or not _is_known(value.shape):
        return None
    found: Value | None = value
    for axis in axes:
        if found is not None:
            places = list(reversed(range(value.shape[axis] or 0)))
            found = _picked(steps, found, axis, places, f"turned_{axis}")
    return found


def _rolled(steps: Steps, node: FlatNode) -> Made:
    """Two parts of each axis in the other order."""
    (value,), shifts, axes = steps.inputs, node.layer.shift, node.layer.axis
    if axes is None or not _is_known(value.shape):
        return None
    rows = zip(_pairs(shifts, 1), _pairs(axes, 1), strict=True)
    for shift, given in rows:
        axis = given % len(value.shape)
        size = value.shape[axis] or 1
        if axis == 0:
            return None
        if shift % size:
            value = _around(steps, value, axis, size - shift % size)
    return value


def _around(steps: Steps, value: Value, axis: int, start: int) -> Value:
    size = value.shape[axis] or 1
    tail = steps.cut(value, axis, start, size - start, f"tail_{axis}")
    head = steps.cut(value, axis, 0, start, f"head_{axis}")
    return steps.call(f"roll_{axis}", lambda name: L.Concatenate(axis, name=name), tail, head)


def _window_of(steps: Steps, node: FlatNode) -> Made:
    """`keras.ops.slice`, of all the batch."""
    (value,) = steps.inputs[:1]
    start = node.constants[1] if len(node.constants) > 1 else None
    if start is None or len(steps.inputs) > 1 or not _is_known(value.shape):
        return None
    begin = [int(n) for n in np.asarray(keras.ops.convert_to_numpy(start)).ravel()]
    sizes = [int(n) for n in node.layer.shape]
    if begin[0] != 0 or sizes[0] != -1:
        return None
    rows = zip(sizes[1:], begin[1:], value.shape[1:], strict=True)
    kept = [(full or 0) - first if size == -1 else size for size, first, full in rows]
    return steps.call("", lambda name: DDQSlice(begin[1:], kept, name=name), value)


# Nothing


def _as_float(operation: Any, name: str) -> Any:
    """A change to another type of floats; activations have none in the integer graph."""
    dtype = getattr(operation, "dtype", None)
    is_float = dtype is None or keras.backend.is_float_dtype(dtype)
    return L.Identity(name=name) if is_float else None


_ops: Any = keras.ops
_A_TENSOR = "a tensor"
_TWO = "two tensors, or a tensor and a number or one for each channel; to divide by, not 0"
_A_KERNEL = "a tensor, channels last, and a kernel of fixed numbers or variables"
_AXES = "other axes than the batch, of a fixed size"
_PARTS = (
    f"all of the batch, a fixed size, no arrays, and no more than {_MOST_PARTS} parts of an axis"
)
_SEQUENCE = (12, 4)


def _constant(*shape: int) -> Any:
    """Numbers for examples."""
    values = np.random.default_rng(len(shape)).normal(size=shape)
    return values.astype(np.float32)


def _activation(word: str, kind: type, layer: Callable[[Any, str], Any], *uses: Any) -> LayerRule:
    return _rule(word, _is(layer), kind, needs=_A_TENSOR, examples=uses)


def _formula(
    function: str, kind: type, *uses: Any, names: tuple[str, ...] = (), words: str = ""
) -> LayerRule:
    """An operation that is one formula.

    Args:
        function: of `ddq_tf.layers.DDQFunction`.
        kind: of Keras.
        *uses: examples.
        names: of its attributes that are arguments of the formula.
        words: the operation as users write it, if not as the function.
    """

    def layer(operation: Any, name: str) -> Any:
        arguments = {each: float(getattr(operation, each)) for each in names}
        return DDQFunction(function, arguments, name=name)

    return _activation(words or function, kind, layer, *uses)


def _named(word: str, kind: type) -> LayerRule:
    def layer(operation: Any, name: str) -> Any:
        return L.Activation(word, name=name)

    return _activation(word, kind, layer, getattr(_ops, word))


FAMILY = Family(
    title="keras.ops",
    rules=(
        # Activations
        _activation(
            "keras.activations.relu",
            ReluFunction,
            _relu_function,
            lambda x: keras.activations.relu(x),
            lambda x: keras.activations.relu(x, max_value=2.0),
            lambda x: keras.activations.relu(x, negative_slope=0.1),
            lambda x: keras.activations.relu(x, 0.2, 1.0, threshold=-0.5),
        ),
        _activation("relu", nn.Relu, lambda _, name: L.ReLU(name=name), _ops.relu),
        _activation("relu6", nn.Relu6, lambda _, name: L.ReLU(6.0, name=name), _ops.relu6),
        _activation(
            "leaky_relu",
            nn.LeakyRelu,
            lambda op, name: L.LeakyReLU(op.negative_slope, name=name),
            _ops.leaky_relu,
        ),
        _activation("elu", nn.Elu, lambda op, name: L.ELU(op.alpha, name=name), _ops.elu),
        _activation(
            "softmax", nn.Softmax, lambda op, name: L.Softmax(op.axis, name=name), _ops.softmax
        ),
        _named("sigmoid", nn.Sigmoid),
        _named("tanh", op.Tanh),
        _named("silu", nn.Silu),
        _named("hard_sigmoid", nn.HardSigmoid),
        _named("hard_silu", nn.HardSilu),
        _activation(
            "gelu",
            nn.Gelu,
            _gelu,
            lambda x: _ops.gelu(x, approximate=False),
            lambda x: _ops.gelu(x),
        ),
        _formula("celu", nn.Celu, lambda x: _ops.celu(x, 0.7), names=("alpha",)),
        _formula(
            "hard_shrink", nn.HardShrink, lambda x: _ops.hard_shrink(x, 0.3), names=("threshold",)
        ),
        _formula("hard_tanh", nn.HardTanh, _ops.hard_tanh),
        _formula("log_sigmoid", nn.LogSigmoid, _ops.log_sigmoid),
        _formula("selu", nn.Selu, _ops.selu),
        _formula(
            "soft_shrink", nn.SoftShrink, lambda x: _ops.soft_shrink(x, 0.3), names=("threshold",)
        ),
        _formula("softplus", nn.Softplus, _ops.softplus),
        _formula("softsign", nn.Softsign, _ops.softsign),
        _formula("sparse_plus", nn.SparsePlus, _ops.sparse_plus),
        _formula("sparse_sigmoid", nn.SparseSigmoid, _ops.sparse_sigmoid),
        _formula("squareplus", nn.Squareplus, lambda x: _ops.squareplus(x, 2), names=("b",)),
        _formula("tanh_shrink", nn.TanhShrink, _ops.tanh_shrink),
        _formula(
            "threshold",
            nn.Threshold,
            lambda x: _ops.threshold(x, 0.2, -0.1),
            names=("threshold", "default_value"),
        ),
        _formula("exponential", op.Exp, lambda x: _ops.exp(_ops.tanh(x)), words="exp"),
        _rule(
            "log_softmax",
            _log_softmax,
            nn.LogSoftmax,
            needs="the last axis",
            examples=(_ops.log_softmax,),
        ),
        _rule(
            "clip",
            _is(_clip),
            op.Clip,
            needs="to clip to 0 and a number > 0, as a ReLU with a ceiling does",
            examples=(lambda x: _ops.clip(x, 0.0, 1.0),),
        ),
        _rule(
            "glu",
            _glu,
            nn.Glu,
            needs=_AXES,
            examples=(
                lambda x: _ops.glu(x),
                lambda x: _ops.glu(x, axis=1),
                Example(build=lambda x: _ops.glu(x), shape=(8,)),
                Example(build=lambda x: _ops.glu(x), shape=_SEQUENCE),
            ),
        ),
        # Sums and products
        _rule(
            "add (`+`)",
            _pair(L.Add, lambda c, _: (1.0, c)),
            op.Add,
            needs=_TWO,
            examples=(
                lambda x: x + 0.5,
                lambda x: x + x,
                lambda x: x + np.array([[[[1, 2, 3, 4]]]], np.float32),
            ),
        ),
        _rule(
            "subtract (`-`)",
            _pair(L.Subtract, lambda c, place: (1.0, -c) if place else (-1.0, c)),
            op.Subtract,
            needs=_TWO,
            examples=(
                lambda x: 1.0 - x,
                lambda x: x - 0.5,
                lambda x: x - np.array([1, 2, 3, 4], np.float32),
            ),
        ),
        _rule(
            "multiply (`*`)",
            _pair(L.Multiply, lambda c, _: (c, 0.0)),
            op.Multiply,
            needs=_TWO,
            examples=(lambda x: x * 0.3, lambda x: x * x),
        ),
        _rule(
            "divide (`/`) by numbers",
            _pair(None, _divided),
            op.TrueDivide,
            op.Divide,
            needs=_TWO,
            examples=(
                lambda x: x / 3.0,
                lambda x: _ops.divide(x, np.array([1, 2, 3, 4], np.float32)),
            ),
        ),
        _rule("negative", _negated, op.Negative, needs=_A_TENSOR, examples=(lambda x: -x,)),
        _rule("square", _squared, op.Square, needs=_A_TENSOR, examples=(_ops.square,)),
        _rule("power of 2", _power, op.Power, needs="the power 2", examples=(lambda x: x**2,)),
        _rule(
            "maximum",
            _maximum,
            op.Maximum,
            needs="two tensors of one fixed shape, or a tensor and a number that is not below 0",
            examples=(
                lambda x: _ops.maximum(x, 0.0),
                lambda x: _ops.maximum(x, 0.25),
                lambda x: _ops.maximum(x, L.Conv2D(4, 1)(x)),
            ),
        ),
        _rule(
            "minimum",
            _minimum,
            op.Minimum,
            needs="two tensors of one fixed shape, or a ReLU and a number above 0",
            examples=(
                lambda x: _ops.minimum(_ops.relu(x), 6.0),
                lambda x: _ops.minimum(x, L.Conv2D(4, 1)(x)),
            ),
        ),
        # Weights
        _rule(
            "matmul",
            _matmul,
            op.Matmul,
            needs="a tensor and a matrix of fixed numbers or variables, or two tensors of fixed "
            "sizes and rank 3 or 4, alike in all but the last two axes",
            examples=(
                lambda x: _ops.matmul(x, _constant(4, 5)),
                lambda x: _ops.matmul(x, L.Conv2D(8, 1)(_ops.transpose(x, (0, 1, 3, 2)))),
                lambda x: L.ReLU()(_ops.matmul(L.Reshape((64, 4))(x), L.Reshape((4, 64))(x))),
                Example(build=lambda x: x @ _ops.relu(L.Permute((2, 1))(x)), shape=_SEQUENCE),
                Example(
                    build=lambda x: _ops.matmul(_ops.softmax(x), L.Dense(12)(x)[:, :4]),
                    shape=_SEQUENCE,
                ),
            ),
        ),
        _rule(
            "dot and tensordot with a matrix",
            _product,
            op.Dot,
            op.Tensordot,
            needs="a tensor and a matrix of fixed numbers or variables",
            examples=(
                lambda x: _ops.dot(L.Flatten()(x), _constant(256, 5)),
                lambda x: _ops.tensordot(x, _constant(4, 5), 1),
            ),
        ),
        _rule(
            "einsum as `abc,cd->abd` or `abc,adc->abd`",
            _einsum,
            op.Einsum,
            needs="a tensor and a kernel of fixed numbers or variables, as 'abc,cd->abd', or two "
            "tensors of the same batch, as 'abc,adc->abd', and no other sums than products",
            examples=(
                lambda x: _ops.einsum("abcd,cde->aeb", x, _constant(8, 4, 3)),
                lambda x: _ops.einsum("aecd,abcd->acbe", x, L.Dense(4)(x)),
                Example(
                    build=lambda x: _ops.einsum("abc,adc->adb", x, L.Dense(4)(x)), shape=_SEQUENCE
                ),
                Example(
                    build=lambda x: _ops.einsum("abc,cd->abd", x, _constant(4, 5)), shape=_SEQUENCE
                ),
            ),
        ),
        _rule(
            "dot_product_attention",
            _attention,
            nn.DotProductAttention,
            needs="three tensors of fixed sizes (batch, length, heads, dim), no mask, no bias, no "
            "soft cap, and is_causal=False",
            examples=(lambda x: _ops.dot_product_attention(x, L.Dense(4)(x), x, scale=0.7),),
        ),
        _rule(
            "conv",
            _convolution,
            nn.Conv,
            needs=_A_KERNEL,
            examples=(
                lambda x: _ops.conv(x, _constant(3, 3, 4, 6), 2, "same"),
                Example(build=lambda x: _ops.conv(x, _constant(3, 4, 6)), shape=_SEQUENCE),
            ),
        ),
        _rule(
            "depthwise_conv",
            _depthwise_convolution,
            nn.DepthwiseConv,
            needs=_A_KERNEL,
            examples=(
                lambda x: _ops.depthwise_conv(x, _constant(3, 3, 4, 2), padding="same"),
                Example(
                    build=lambda x: _ops.depthwise_conv(x, _constant(3, 4, 1)), shape=_SEQUENCE
                ),
            ),
        ),
        _rule(
            "separable_conv",
            _separable_convolution,
            nn.SeparableConv,
            needs=_A_KERNEL,
            examples=(
                lambda x: _ops.separable_conv(x, _constant(3, 3, 4, 1), _constant(1, 1, 4, 5)),
            ),
        ),
        _rule(
            "conv_transpose",
            _transposed_convolution,
            nn.ConvTranspose,
            needs=_A_KERNEL,
            # Keras 3.15 fails to run the operation where it is a node of its own.
            examples=(
                lambda x: L.Lambda(
                    lambda t: _ops.conv_transpose(t, _constant(3, 3, 6, 4), 2, "same")
                )(x),
            ),
        ),
        _rule(
            "batch_normalization",
            _batch_norm,
            nn.BatchNorm,
            needs="the last axis, and fixed statistics",
            examples=(
                lambda x: _ops.batch_normalization(
                    L.Conv2D(4, 1)(x),
                    _constant(4),
                    abs(_constant(4)) + 0.5,
                    -1,
                    *([_constant(4)] * 2),
                ),
            ),
        ),
        # Windows
        _rule(
            "max_pool",
            _pool("Max"),
            nn.MaxPool,
            needs="images or sequences, channels last",
            examples=(
                lambda x: _ops.max_pool(x, 3, 2, "same"),
                Example(build=lambda x: _ops.max_pool(x, 2), shape=_SEQUENCE),
            ),
        ),
        _rule(
            "average_pool",
            _pool("Average"),
            nn.AveragePool,
            needs="images or sequences, channels last",
            examples=(
                lambda x: _ops.average_pool(x, 2),
                Example(build=lambda x: _ops.average_pool(x, 3, 2, "same"), shape=_SEQUENCE),
            ),
        ),
        _rule(
            "mean",
            _mean,
            op.Mean,
            needs=_AXES,
            examples=(
                lambda x: _ops.mean(x, (1, 2)),
                lambda x: _ops.mean(x, (-3, -2), keepdims=True),
                lambda x: _ops.mean(x, -1, keepdims=True),
                lambda x: _ops.mean(x, 1),
                Example(build=lambda x: _ops.mean(x, 1), shape=_SEQUENCE),
                Example(build=lambda x: _ops.mean(x, -1, keepdims=True), shape=_SEQUENCE),
            ),
        ),
        _rule(
            "max, amax",
            _max,
            op.Max,
            op.Amax,
            needs=_AXES,
            examples=(
                lambda x: _ops.max(x, (1, 2)),
                lambda x: _ops.max(x, -1, keepdims=True),
                lambda x: _ops.amax(x, 2),
            ),
        ),
        _rule(
            "sum",
            _sum,
            op.Sum,
            needs=_AXES,
            examples=(lambda x: _ops.sum(x, (1, 2)), lambda x: _ops.sum(x, -1, keepdims=True)),
        ),
        _rule(
            "repeat",
            _repeat,
            op.Repeat,
            needs="a number, and an axis between batch and channels, of images or sequences",
            examples=(
                lambda x: _ops.repeat(x, 2, 2),
                Example(build=lambda x: _ops.repeat(x, 2, 1), shape=_SEQUENCE),
            ),
        ),
        _rule(
            "image.resize to whole multiples",
            _resize,
            image.Resize,
            needs="whole multiples of a fixed size, 'nearest' or 'bilinear', nothing else",
            examples=(
                lambda x: _ops.image.resize(x, (16, 8)),
                lambda x: _ops.image.resize(x, (24, 16), interpolation="nearest"),
            ),
        ),
        # Shapes
        _rule(
            "reshape",
            _reshape,
            op.Reshape,
            needs="a shape that leaves the batch as it is, as (-1, 10, 3)",
            examples=(lambda x: _ops.reshape(x, (-1, 4, 16, 4)),),
        ),
        _rule(
            "concatenate",
            _joined,
            op.Concatenate,
            needs="tensors, and another axis than the batch",
            examples=(lambda x: _ops.concatenate([x, x * 0.5], -1),),
        ),
        _rule(
            "stack",
            _stacked,
            op.Stack,
            needs="tensors of a fixed size, and another axis than the batch",
            examples=(Example(build=lambda x: _ops.stack([x, x * 0.5], -1), shape=_SEQUENCE),),
        ),
        _rule(
            "transpose",
            _moved(_transposed),
            op.Transpose,
            needs="axes that leave the batch first",
            examples=(lambda x: _ops.transpose(x, (0, 3, 1, 2)),),
        ),
        _rule(
            "swapaxes",
            _moved(_swapped),
            op.Swapaxes,
            needs="axes that leave the batch first",
            examples=(lambda x: _ops.swapaxes(x, 1, -1),),
        ),
        _rule(
            "moveaxis",
            _moved(_displaced),
            op.Moveaxis,
            needs="axes that leave the batch first",
            examples=(lambda x: _ops.moveaxis(x, -1, 1),),
        ),
        _rule(
            "expand_dims, squeeze",
            _other_rank,
            op.ExpandDims,
            op.Squeeze,
            needs="another axis than the batch, and a fixed size",
            examples=(
                lambda x: _ops.expand_dims(L.GlobalMaxPooling2D()(x), 1),
                lambda x: _ops.squeeze(L.GlobalMaxPooling2D(keepdims=True)(x), (1, 2)),
            ),
        ),
        _rule(
            "depth_to_space",
            lambda steps, node: _blocks(steps, node, to_depth=False),
            nn.DepthToSpace,
            needs="images of a fixed size, channels last",
            examples=(lambda x: nn.depth_to_space(x, 2),),
        ),
        _rule(
            "space_to_depth",
            lambda steps, node: _blocks(steps, node, to_depth=True),
            nn.SpaceToDepth,
            needs="images of a fixed size, channels last",
            examples=(lambda x: nn.space_to_depth(x, 2),),
        ),
        _rule(
            "pad",
            _padded,
            op.Pad,
            needs="zeros (mode='constant'), around images or sequences, none around the batch",
            examples=(
                lambda x: _ops.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0))),
                lambda x: _ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2))),
                Example(build=lambda x: _ops.pad(x, ((0, 0), (1, 2), (0, 0))), shape=_SEQUENCE),
            ),
        ),
        # Parts
        _rule(
            "`x[...]`",
            _item,
            op.GetItem,
            needs=_PARTS,
            examples=(
                lambda x: x[:, 1:5, ::2],
                lambda x: x[..., ::-1],
                lambda x: x[:, 3, :, None, 1:],
                Example(build=lambda x: x[:, 2:-3], shape=_SEQUENCE),
                Example(build=lambda x: x[:, 0, :], shape=_SEQUENCE),
                Example(build=lambda x: x[:, 2:5], shape=(7,)),
                Example(build=lambda x: x[:, None, None, :], shape=(7,)),
            ),
        ),
        _rule(
            "slice",
            _window_of,
            core.Slice,
            needs=_PARTS,
            examples=(lambda x: _ops.slice(x, (0, 1, 2, 0), (-1, 4, 3, 2)),),
        ),
        _rule(
            "split",
            _split,
            op.Split,
            needs=_AXES,
            examples=(
                lambda x: _ops.split(x, 2, -1)[1],
                lambda x: L.Concatenate(1)(_ops.split(x, [3, 5], 1)[::-1]),
            ),
        ),
        _rule(
            "unstack",
            _unstacked,
            core.Unstack,
            needs=_AXES,
            examples=(lambda x: L.Add()(_ops.unstack(x, axis=1)[:2]),),
        ),
        _rule("flip", _turned, op.Flip, needs=_PARTS, examples=(lambda x: _ops.flip(x, -1),)),
        _rule(
            "roll",
            _rolled,
            op.Roll,
            needs=_AXES,
            examples=(lambda x: _ops.roll(x, (1, -2), (1, 2)),),
        ),
        # Nothing
        _rule(
            "cast to floats, stop_gradient, convert_to_tensor, copy",
            _is(_as_float),
            core.Cast,
            core.SaturateCast,
            core.StopGradient,
            core.ConvertToTensor,
            op.Copy,
            needs="floats",
            examples=(
                lambda x: _ops.cast(x, "float32"),
                lambda x: _ops.stop_gradient(x),
                lambda x: _ops.convert_to_tensor(x),
            ),
        ),
    ),
)
