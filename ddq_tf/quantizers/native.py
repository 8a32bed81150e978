"""The one place where a backend's own way replaces plain portable operations, for speed.

On TensorFlow, training runs activation quantizers through its fused fake-quant kernels: about 1.2
times the cost of a ReLU6, against 4 for the portable operations (forward and backward). Forward
they agree up to ties. At 8 bits the rounding term of the range's gradient, the sum of
(x_q - x)/s over values inside, is left out: it is under 1 % of the clipping term.

Free levels keep the portable formula, compiled by XLA: one kernel forward and one backward instead
of hundreds of small operations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

Tensor = Any

_FEW = 1 << 14  # values


def has_native_kernels() -> bool:
    """Returns whether the backend has what this module gives."""
    return keras.backend.backend() == "tensorflow"


def num_replicas() -> int:
    """Returns how many copies of a model take a step together, each with its share of the loss.

    More than one within `tf.distribute` strategies alone: JAX shards the arrays of one copy.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def shared(function: Callable[..., Tensor], position: int) -> Callable[..., Tensor]:
    """Returns the function, traced once for all tensors alike; elsewhere than TensorFlow, as it is.

    A graph of fifty quantizers is traced in a third of the time. Tensors are alike if they differ
    in axes after the first alone, and not in which axes have size 1. Of few values at once nothing
    is traced: it takes as long as some hundred calls.

    Args:
        function: of tensors alone, without variables; equal functions share what is traced.
        position: of the argument whose shape the result has.
    """
    if not has_native_kernels():
        return function
    import tensorflow as tf

    def call(*tensors: Tensor) -> Tensor:
        if tf.executing_eagerly() and math.prod(tensors[position].shape) <= _FEW:
            return function(*tensors)
        given = [_with_gradient_of_its_shape(tf.convert_to_tensor(tensor)) for tensor in tensors]
        result = _traced(function, tuple(_spec(tensor) for tensor in given))(*given)
        result.set_shape(given[position].shape)
        return result

    return call


def _with_gradient_of_its_shape(tensor: Tensor) -> Tensor:
    """The tensor; what optimizers are given for it has its shape, though a shared trace has none.

    A reshape costs nothing, and its gradient is one to the old shape.
    """
    import tensorflow as tf

    is_known = tensor.shape.is_fully_defined() and _spec(tensor).shape != tensor.shape
    return tf.reshape(tensor, tensor.shape) if is_known and not tf.executing_eagerly() else tensor


def _spec(tensor: Tensor) -> Any:
    import tensorflow as tf

    sizes = enumerate(tensor.shape)
    shape = tuple(size if axis == 0 or size == 1 else None for axis, size in sizes)
    return tf.TensorSpec(shape, tensor.dtype)


@functools.cache
def _traced(function: Callable[..., Tensor], specs: tuple[Any, ...]) -> Callable[..., Tensor]:
    import tensorflow as tf

    # Partial: TensorFlow counts how often equal functions are traced, and warns; specs differ here.
    partial = functools.partial(function)
    return tf.function(partial, input_signature=specs, autograph=False)


def native_fake_quantize(
    x: Tensor, scale: Tensor, index: Tensor, limits: tuple[tuple[int, int], ...]
) -> Tensor:
    """Rounds activations with TensorFlow's fused kernel; see the module's text.

    Args:
        x: float32, any shape.
        scale: float32 scalar > 0.
        index: int32 scalar, which of the limits hold.
        limits: smallest and largest code of each precision; their difference is 2^b - 1, or
            2^b - 2 for a symmetric grid.

    Returns:
        float32, the shape of x.
    """
    import tensorflow as tf

    forward, backward = _kernels(limits)

    @tf.custom_gradient
    def step(x: Tensor, scale: Tensor, index: Tensor) -> Any:
        quantized = forward(x, scale, index)

        def grad(g: Tensor) -> tuple[Tensor, Tensor, None]:
            return *backward(g, x, quantized, scale, index), None

        return quantized, grad

    return step(x, scale, index)


def recomputed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns the function, compiled by XLA; backward computes it again, which is faster.

    Elsewhere than on TensorFlow it stays as it is.

    Args:
        function: of float32 and bool tensors alone, without variables; compiled once for all that
            are equal, and for each shape.
    """
    if not has_native_kernels():
        return function
    import tensorflow as tf

    forward, backward = compiled(function), compiled(_Backward(function))

    @tf.custom_gradient
    def step(*tensors: Tensor) -> Any:
        return forward(*tensors), lambda g: _all(backward(g, *tensors), tensors)

    return lambda *tensors: step(*map(tf.convert_to_tensor, tensors))


def _all(gradients: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of all tensors, from those of the floating ones."""
    known = iter(gradients)
    return [next(known) if x.dtype.is_floating else None for x in tensors]


@dataclasses.dataclass(frozen=True)
class _Backward:
    """The gradients of a function at all its floating tensors."""

    function: Callable[..., Tensor]

    def __call__(self, g: Tensor, *tensors: Tensor) -> list[Tensor]:
        import tensorflow as tf

        floating = [x for x in tensors if x.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floating)
            result = self.function(*tensors)
        none = tf.UnconnectedGradients.ZERO
        return list(tape.gradient(result, floating, [g], none) or [])


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, compiled by XLA; backward reads what forward has stored.

    Args:
        function: of tensors alone, without variables; compiled once for all that are equal, and
            for each shape.
    """
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


@functools.cache
def _kernels(limits: tuple[tuple[int, int], ...]) -> tuple[Any, Any]:
    """The two passes; several precisions as functions, traced once for all tensors of a shape."""
    import tensorflow as tf

    def forward(x: Tensor, scale: Tensor, index: Tensor) -> Tensor:
        return _chosen(index, [functools.partial(_round, x, scale, *pair) for pair in limits])

    def backward(g: Tensor, x: Tensor, quantized: Tensor, scale: Tensor, index: Tensor) -> Any:
        arguments = (g, x, quantized, scale)
        return _chosen(index, [functools.partial(_slopes, *arguments, *pair) for pair in limits])

    if len(limits) == 1:
        return forward, backward
    return tf.function(forward), tf.function(backward)


def _chosen(index: Tensor, branches: list[Any]) -> Any:
    import tensorflow as tf

    return branches[0]() if len(branches) == 1 else tf.switch_case(index, branches)


def _grid(qmin: int, qmax: int) -> dict[str, Any]:
    num_bits = (qmax - qmin).bit_length()
    return {"num_bits": num_bits, "narrow_range": qmax - qmin == 2**num_bits - 2}


def _round(x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars(
        x, scale * qmin, scale * qmax, **_grid(qmin, qmax)
    )


def _slopes(
    g: Tensor, x: Tensor, quantized: Tensor, scale: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the scale."""
    import tensorflow as tf

    dx, dlow, dhigh = tf.quantization.fake_quant_with_min_max_vars_gradient(
        g, x, scale * qmin, scale * qmax, **_grid(qmin, qmax)
    )
    dscale = dlow * qmin + dhigh * qmax
    if qmax - qmin < 255:
        dscale += tf.reduce_sum(dx * (quantized - x)) / scale
    return dx, dscale
