"""Rounding to a uniform grid, with the gradients of DDQ."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def sum_to_shape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums out the axes over which a tensor of `shape` was broadcast (leading axes, and 1s)."""
    x = ops.sum(x, axis=tuple(range(len(x.shape) - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1)
    return ops.sum(x, axis=ones, keepdims=True) if ones else x


def fake_quantize(
    x: Tensor, scale: Tensor, qmin: Tensor, qmax: Tensor, inverse: Tensor = None
) -> Tensor:
    r"""Rounds to the nearest point of a uniform grid (ties to even) and clips at its ends.

    Forward, with s the scale:
        x_q = s * clip(round(x / s), qmin, qmax)
    Backward (the uniform case of DDQ's nearest-level step, reconstructed; equal to LSQ):
        dx_q/dx = 1 where qmin <= x/s <= qmax, else 0
        dx_q/ds = clip(round(x/s), qmin, qmax) - (x/s inside, 0 outside)
    The division is done as a multiplication with the float32 reciprocal; exporters that repeat it
    get the same codes.

    Args:
        x: float32, any shape.
        scale: float32 > 0; broadcasts against the trailing axes of x.
        qmin: float32, smallest code: a scalar, or of the scale's shape.
        qmax: likewise, largest code.
        inverse: the float32 reciprocal of the scale, where it is known.

    Returns:
        x_q: float32, the shape of x.
    """
    inverse = ops.reciprocal(scale) if inverse is None else inverse
    return _fake_quantize(x, scale, inverse, qmin, qmax)


@ops.custom_gradient
def _fake_quantize(x: Tensor, scale: Tensor, inverse: Tensor, qmin: Tensor, qmax: Tensor) -> Tensor:
    units = x * inverse
    codes = ops.clip(ops.round(units), qmin, qmax)

    def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, ...]:
        g = args[0] if upstream is None else upstream
        inside = ops.logical_and(units >= qmin, units <= qmax)
        dx = ops.where(inside, g, ops.zeros_like(g))
        # Chosen, not multiplied by 0: units outside may have overflowed to infinity.
        rounding = ops.where(inside, codes - units, codes)
        dscale = sum_to_shape(g * rounding, tuple(scale.shape))
        none = (ops.zeros_like(constant) for constant in (inverse, qmin, qmax))
        return dx, dscale, *none

    return codes * scale, grad


def codes_of(x: Tensor, step: Tensor) -> Tensor:
    """Returns which multiples of a step fake-quantized values are; the gradient is that of x / s.

    Args:
        x: float32, any shape.
        step: float32 > 0, s; broadcasts against the trailing axes of x; has no gradient here.

    Returns:
        Whole numbers, float32, the shape of x.
    """
    return _codes_of(x, ops.reciprocal(ops.stop_gradient(step)))


@ops.custom_gradient
def _codes_of(x: Tensor, inverse: Tensor) -> Tensor:
    def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, Tensor]:
        g = args[0] if upstream is None else upstream
        return g * inverse, ops.zeros_like(inverse)

    return ops.round(x * inverse), grad


@ops.custom_gradient
def clip_above(x: Tensor, ceiling: Tensor) -> Tensor:
    """Returns min(x, ceiling); above the ceiling only gradients that lower x pass.

    A plain minimum has no gradient there: an x that once went above would never learn again.
    """

    def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, Tensor]:
        g = args[0] if upstream is None else upstream
        passes = ops.logical_or(x <= ceiling, g > 0)
        return ops.where(passes, g, ops.zeros_like(g)), ops.zeros_like(ceiling)

    return ops.minimum(x, ceiling), grad


def as_float32(value: float) -> Tensor:
    """Returns a float32 scalar tensor, as `fake_quantize` takes its code limits."""
    return ops.convert_to_tensor(value, dtype="float32")
