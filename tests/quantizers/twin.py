"""The mathematics of the quantizers written down a second time, in numpy.

Forward in float32 where results are compared exactly, sums in float64. Levels are found by
comparing with all of them, gates by the explicit Kronecker product.
"""

from __future__ import annotations

import numpy as np

from tests.toys import array

F32 = np.float32
STEP = F32(1 / 127)


def flushed(x):
    """Denormal values as TensorFlow on CPUs, and XLA, see them: 0."""
    x = np.asarray(x, F32)
    return np.where(np.abs(x) < np.finfo(F32).tiny, F32(0), x)


def sum_to(terms, shape):
    """Sums out the leading axes and those of size 1."""
    terms = terms.sum(axis=tuple(range(terms.ndim - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1)
    return terms.sum(axis=ones, keepdims=True)


# Uniform grids


def forward(x, scale, qmin, qmax):
    """Returns (x_q, codes, x in units of the scale)."""
    x = flushed(x)
    with np.errstate(over="ignore", under="ignore"):
        units = x * (F32(1) / np.asarray(scale, F32))
        codes = np.clip(np.rint(units), qmin, qmax).astype(F32)
        return codes * np.asarray(scale, F32), codes, units


def backward(x, scale, qmin, qmax, upstream):
    """Returns the gradients of x and of the scale."""
    _, codes, units = forward(x, scale, qmin, qmax)
    inside = (units >= qmin) & (units <= qmax)
    dx = np.where(inside, upstream, 0)
    terms = upstream.astype(np.float64) * np.where(inside, codes - units, codes)
    return dx, sum_to(terms, np.shape(scale))


# Free levels


def merging(gates):
    """U / Z_U, (2^b, 2^b), explicitly: the levels in force are its transpose times the levels."""
    matrix = np.ones((1, 1))
    for gate in np.cumprod(gates):
        matrix = np.kron(matrix, gate * np.eye(2) + (1 - gate) * np.ones((2, 2)))
    return matrix / matrix.sum(axis=0)


def open_gates(num_bits, highest):
    """The gates of a precision: float64, (highest,)."""
    return (np.arange(highest) < num_bits).astype(np.float64)


def levels_in_force(learned, gates):
    """Returns (int8 codes of the merged levels, the merged levels before they are snapped)."""
    merged = merging(gates).T @ np.sort(np.asarray(learned, np.float64))
    return np.clip(np.rint(merged * 127), -127, 127), merged


def serving(x, alpha, codes):
    """Which level is nearest to each value, and the values in units of the range; ties go up.

    Compares with all levels, exactly: the middles of levels are whole numbers of 1/254. Of equal
    levels the first serves what lies below them, the last what lies above.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        units = flushed(x) * (F32(1) / np.asarray(alpha, F32))
        cells = (units * F32(254)).astype(np.float64)
    cells = np.clip(cells, -254, 253)  # what lies beyond counts as just within
    distance = np.abs(cells[..., None] - 2 * codes)
    nearest = codes[len(codes) - 1 - np.argmin(distance[..., ::-1], axis=-1)]
    first, behind = (np.searchsorted(codes, nearest, side) for side in ("left", "right"))
    return np.where(cells < 2 * nearest, first, behind - 1), units


def free_forward(x, alpha, codes):
    """Returns alpha times the nearest level."""
    served, units = serving(x, alpha, codes)
    quantized = codes.astype(F32)[served] * (np.asarray(alpha, F32) * STEP)
    return np.where(np.isnan(units), units, quantized)


def free_backward(x, alpha, learned, gates, correction, upstream):
    """Returns the gradients of x, of the range and of the learned levels."""
    codes, merged = levels_in_force(learned, gates)
    served, units = serving(x, alpha, codes)
    levels = codes.astype(F32) * STEP
    inside = (units >= levels[0]) & (units <= levels[-1])
    g = upstream.astype(np.float64)
    dx = np.where(inside, upstream, 0)
    terms = g * np.where(inside, levels[served] - units, levels[served])
    wide = np.broadcast_to(np.asarray(alpha, np.float64), np.shape(x))
    pull = wide * (g + correction * (free_forward(x, alpha, codes).astype(np.float64) - x))
    total, weight = np.zeros(len(codes)), np.zeros(len(codes))
    np.add.at(total, served.ravel(), pull.ravel())
    squares = np.maximum(np.square(wide), np.square(np.asarray(alpha, np.float64)).mean() / 100)
    np.add.at(weight, served.ravel(), squares.ravel())
    blocks = merging(gates)
    total, weight = blocks @ total, blocks @ weight
    step = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    step = np.where((np.abs(merged) <= 1) | (step * merged > 0), step, 0)
    dlevels = np.empty(len(codes))
    dlevels[np.argsort(learned, kind="stable")] = blocks @ step
    return dx, sum_to(terms, np.shape(alpha)), dlevels


# Quantizers


def range_of(quantizer, index):
    """The range of a quantizer at its precision number `index`: float32."""
    base, log = array(quantizer.base_range)[index], array(quantizer.log_range)[index]
    return (base * np.exp(2 * np.tanh(log / 2))).astype(F32)


def range_gradient(quantizer, index, dalpha, speed=1.0):
    """The gradient of log_range[index] from that of the range."""
    base, log = array(quantizer.base_range)[index], array(quantizer.log_range)[index]
    factor = (1 - np.square(np.tanh(log / 2))) * speed / np.maximum(np.square(base), 1e-4)
    return dalpha * range_of(quantizer, index) * factor


def speed_of(num_bits):
    """How fast the range of weights learns at a precision."""
    return min(1.0, (7 / (2 ** (num_bits - 1) - 1)) ** 2)


def weight_scale(quantizer, index):
    """The scale of uniform weights at precision number `index`, and the largest code."""
    qmax = 2 ** (quantizer.precisions[index] - 1) - 1
    return range_of(quantizer, index) * F32(1 / qmax), qmax


def gates_of(quantizer, index):
    """The gates of free levels at precision number `index`."""
    return open_gates(quantizer.precisions[index], quantizer.precisions[-1])


def quantized_weight(quantizer, kernel, index):
    """The kernel at precision number `index`."""
    if quantizer.scheme.levels == "free":
        codes, _ = levels_in_force(array(quantizer.levels.levels), gates_of(quantizer, index))
        return free_forward(kernel, range_of(quantizer, index), codes)
    scale, qmax = weight_scale(quantizer, index)
    return forward(kernel, scale, -qmax, qmax)[0]


def weight_gradients(quantizer, kernel, index, upstream):
    """The gradients of the kernel, of log_range[index] and, of free levels, of the levels."""
    speed = speed_of(quantizer.precisions[index])
    if quantizer.scheme.levels == "free":
        alpha, learned = range_of(quantizer, index), array(quantizer.levels.levels)
        gates = gates_of(quantizer, index)
        dx, dalpha, dlevels = free_backward(
            kernel, alpha, learned, gates, quantizer.scheme.correction, upstream
        )
        return dx, range_gradient(quantizer, index, dalpha, speed), dlevels
    scale, qmax = weight_scale(quantizer, index)
    dx, dscale = backward(kernel, scale, -qmax, qmax, upstream)
    return dx, range_gradient(quantizer, index, dscale / qmax, speed), None


def loss_saved(quantize, index, count, upstream):
    """What a step's evidence adds: (count - 1, 2, 2), of -dL/dG at both ends, and visits."""
    seen = np.zeros((count - 1, 2, 2))
    for gate, end in ((index - 1, 1), (index, 0)):
        if 0 <= gate < count - 1:
            step = quantize(gate + 1).astype(np.float64) - quantize(gate)
            seen[gate, end] = [-np.sum(upstream * step), 1]
    return seen
