"""What functions of TensorFlow do, by `keras.ops`: for users' code that calls them.

TensorFlow asks its dispatchers what to do with arguments that are no tensors, as symbolic ones.
Ours answers while a `call` is read, and at no other time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import ops

_READS = threading.local()


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Lets functions of TensorFlow take symbolic tensors meanwhile, in this thread."""
    if sys.modules.get("tensorflow") is not None:
        _dispatcher()
    before = getattr(_READS, "now", False)
    _READS.now, _READS.unknown = True, ""
    try:
        yield
    finally:
        _READS.now = before


@functools.cache
def _dispatcher() -> Any:
    """TensorFlow's dispatcher, registered once."""
    dispatch = sys.modules["tensorflow"].__internal__.dispatch

    class Dispatcher(dispatch.GlobalOpDispatcher):
        """Answers for functions that are known."""

        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            """Returns what a function gives, as `keras.ops` do."""
            if not getattr(_READS, "now", False) or not _has_symbols(args, kwargs):
                return self.NOT_SUPPORTED
            known = _functions().get(_key(op))
            if known is None:
                _READS.unknown = op.__name__.split("_v2")[0]
                return self.NOT_SUPPORTED
            _READS.unknown = ""
            kwargs = {key: value for key, value in kwargs.items() if key != "name"}
            return known(*args, **kwargs)

    made = Dispatcher()
    made.register()
    return made


def last_unknown() -> str:
    """Returns the function that this thread could not read, if it has a name here."""
    return getattr(_READS, "unknown", "")


def python_of(function: Any) -> Callable[..., Any]:
    """Returns what a `tf.function` was made of; other functions as they are."""
    return getattr(function, "python_function", function)


def _has_symbols(args: Any, kwargs: Any) -> bool:
    leaves = keras.tree.flatten((args, dict(kwargs)))
    return any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)


def _key(function: Any) -> tuple[str, str]:
    """Where a function stands; a dispatcher gets another object than users call."""
    return function.__module__, function.__name__


@functools.cache
def _functions() -> Mapping[tuple[str, str], Callable[..., Any]]:
    """By the place of TensorFlow's functions: what they do."""
    tensorflow = sys.modules["tensorflow"]
    found = {}
    for names, meaning in FUNCTIONS.items():
        for name in names.split():
            function = functools.reduce(getattr, name.split("."), tensorflow)
            found[_key(function)] = meaning
    return found


# With TensorFlow's names of arguments.


def _of_features(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda features: function(features)


def _of_x(function: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda x: function(x)


def _of_two(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda x, y: function(x, y)


def _reduced(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_tensor, axis=None, keepdims=False: function(
        input_tensor, axis=axis, keepdims=keepdims
    )


def _softmax(logits: Any, axis: int | None = None) -> Any:
    return ops.softmax(logits, axis=-1 if axis is None else axis)


def _log_softmax(logits: Any, axis: int | None = None) -> Any:
    return ops.log_softmax(logits, axis=-1 if axis is None else axis)


def _swish(features: Any, beta: float = 1.0) -> Any:
    return ops.silu(features) if beta == 1 else features * ops.sigmoid(features * beta)


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12, dim: Any = None) -> Any:
    return ops.normalize(x, axis=dim if axis is None else axis, order=2, epsilon=epsilon**0.5)


def _matmul(
    a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, **others: Any
) -> Any:
    if any(others.values()):
        raise NotImplementedError(f"tf.matmul with {others}")
    left = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(left, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _split(value: Any, num_or_size_splits: Any, axis: int = 0, num: Any = None) -> Any:
    if isinstance(num_or_size_splits, int):
        parts: Any = ops.split(value, num_or_size_splits, axis=axis)
    else:
        *sizes, _ = (int(size) for size in num_or_size_splits)
        parts = ops.split(value, list(itertools.accumulate(sizes)), axis=axis)
    return list(parts)


def _depth_to_space(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """(B, H, W, b b C) becomes (B, b H, b W, C)."""
    _, rows, columns, channels = _last(input, data_format)
    depth = channels // block_size**2
    cut = ops.reshape(input, (-1, rows, columns, block_size, block_size, depth))
    moved = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, rows * block_size, columns * block_size, depth))


def _space_to_depth(input: Any, block_size: int, data_format: str = "NHWC") -> Any:
    """(B, b H, b W, C) becomes (B, H, W, b b C)."""
    _, rows, columns, channels = _last(input, data_format)
    rows, columns = rows // block_size, columns // block_size
    cut = ops.reshape(input, (-1, rows, block_size, columns, block_size, channels))
    moved = ops.transpose(cut, (0, 1, 3, 2, 4, 5))
    return ops.reshape(moved, (-1, rows, columns, channels * block_size**2))


def _last(image: Any, data_format: str | None) -> tuple[int, ...]:
    if data_format not in (None, "NHWC"):
        raise NotImplementedError(f"data_format={data_format!r}")
    return image.shape


def _resize(images: Any, size: Any, method: str = "bilinear", **others: Any) -> Any:
    if any(others.values()):
        raise NotImplementedError(f"tf.image.resize with {others}")
    size = tuple(int(each) for each in size)
    return ops.image.resize(images, size, interpolation=str(method), data_format="channels_last")


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0.0) -> Any:
    rows = [[int(n) for n in row] for row in paddings]
    mode = mode.lower()
    return ops.pad(tensor, rows, mode, constant_values if mode == "constant" else None)


def _window(given: Any) -> Any:
    """A size or stride as Keras has it, of one that may name the batch and channels too."""
    sizes = [given] if isinstance(given, int) else [int(each) for each in given]
    return sizes[0] if len(sizes) == 1 else tuple(sizes[1:3] if len(sizes) == 4 else sizes)


def _pooled(function: Callable[..., Any]) -> Callable[..., Any]:
    def pooled(input: Any, ksize: Any, strides: Any, padding: str, data_format: Any = None) -> Any:
        _last(input, data_format)
        return function(input, _window(ksize), _window(strides), padding.lower())

    return pooled


def _conv(
    input: Any,
    filters: Any,
    strides: Any,
    padding: str,
    data_format: str | None = None,
    dilations: Any = None,
    *,
    function: Callable[..., Any] = ops.conv,
) -> Any:
    _last(input, data_format)
    dilation = 1 if dilations is None else _window(dilations)
    return function(input, filters, _window(strides), padding.lower(), "channels_last", dilation)


def _bias_add(value: Any, bias: Any, data_format: str | None = None) -> Any:
    _last(value, data_format)
    return ops.add(value, bias)


def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, keras.backend.standardize_dtype(dtype))


# By their names below `tf`, several of one function apart by blanks.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "nn.relu": _of_features(ops.relu),
    "nn.relu6": _of_features(ops.relu6),
    "nn.leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "nn.elu": _of_features(ops.elu),
    "nn.selu": _of_features(ops.selu),
    "nn.gelu": lambda features, approximate=False: ops.gelu(features, approximate=approximate),
    "nn.silu": _swish,
    "nn.softplus math.softplus": _of_features(ops.softplus),
    "nn.softsign math.softsign": _of_features(ops.softsign),
    "nn.sigmoid math.sigmoid": _of_x(ops.sigmoid),
    "nn.tanh math.tanh": _of_x(ops.tanh),
    "nn.softmax": _softmax,
    "nn.log_softmax": _log_softmax,
    "math.l2_normalize": _l2_normalize,
    "math.abs": _of_x(ops.absolute),
    "math.exp": _of_x(ops.exp),
    "math.sqrt": _of_x(ops.sqrt),
    "math.square": _of_x(ops.square),
    "math.negative": _of_x(ops.negative),
    "math.add": _of_two(ops.add),
    "math.subtract": _of_two(ops.subtract),
    "math.multiply": _of_two(ops.multiply),
    "math.divide math.truediv": _of_two(ops.true_divide),
    "math.maximum": _of_two(ops.maximum),
    "math.minimum": _of_two(ops.minimum),
    "math.pow": _of_two(ops.power),
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "math.add_n": lambda inputs: functools.reduce(ops.add, inputs),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "math.reduce_mean": _reduced(ops.mean),
    "math.reduce_sum": _reduced(ops.sum),
    "math.reduce_max": _reduced(ops.max),
    "math.reduce_min": _reduced(ops.min),
    "matmul": _matmul,
    "einsum": lambda equation, *inputs: ops.einsum(equation, *inputs),
    "shape": lambda input, out_type=None: ops.shape(input),
    "reshape": lambda tensor, shape: ops.reshape(tensor, tuple(shape)),
    "transpose": lambda a, perm=None, conjugate=False: ops.transpose(a, perm),
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "unstack": lambda value, num=None, axis=0: ops.unstack(value, num, axis),
    "split": _split,
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis=axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "tile": lambda input, multiples: ops.tile(input, tuple(multiples)),
    "pad": _pad,
    "identity": lambda input: input,
    "cast": _cast,
    "stop_gradient": lambda input: ops.stop_gradient(input),
    "where": lambda condition, x=None, y=None: ops.where(condition, x, y),
    "nn.depth_to_space": _depth_to_space,
    "nn.space_to_depth": _space_to_depth,
    "image.resize": _resize,
    "nn.max_pool2d": _pooled(ops.max_pool),
    "nn.avg_pool2d": _pooled(ops.average_pool),
    "nn.conv2d": _conv,
    "nn.depthwise_conv2d": lambda input, filter, *args, **kwargs: _conv(
        input, filter, *args, function=ops.depthwise_conv, **kwargs
    ),
    "nn.bias_add": _bias_add,
}
