"""Fake-quantization written down a second time, in numpy."""

from __future__ import annotations

import numpy as np

from tests.toys import array

F32 = np.float32


def forward(x, scale, qmin, qmax):
    """Returns (x_q, codes, x in units of the scale)."""
    x = np.asarray(x, F32)
    x = np.where(np.abs(x) < np.finfo(F32).tiny, F32(0), x)  # as TensorFlow does on CPUs
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
    shape = np.shape(scale)
    terms = terms.sum(axis=tuple(range(terms.ndim - len(shape))))
    ones = tuple(i for i, size in enumerate(shape) if size == 1)
    return dx, terms.sum(axis=ones, keepdims=True)


def weight_scale(quantizer, index):
    """The scale of a WeightQuantizer at its precision number `index`."""
    qmax = 2 ** (quantizer.precisions[index] - 1) - 1
    base, log = array(quantizer.base_range)[index], array(quantizer.log_range)[index]
    return (base * np.exp(2 * np.tanh(log / 2)) * F32(1 / qmax)).astype(F32), qmax


def quantized_weight(quantizer, kernel, index):
    """The kernel at precision number `index`."""
    scale, qmax = weight_scale(quantizer, index)
    return forward(kernel, scale, -qmax, qmax)[0]
