"""Second-order rounding: each kernel's levels chosen with its inputs' correlations in mind."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.tracing import traced
from ddq_tf.targets import OpKind
from ddq_tf.training import fixed_statistics

_BATCH = 64
_DAMPING = 0.01  # of the mean of the diagonal
_POSITIONS = 1 << 18  # that correlations are averaged over, at most about
_MOST_INPUTS = 4096  # of a matrix to invert


def round_block(block: Block, inputs: tf.Tensor) -> None:
    """Rounds the kernels of a block one after the other; see `round_kernel`.

    Layers that stand several times in the model, transposed and grouped convolutions, and those
    with more than 4096 inputs to an output keep their kernels.

    Args:
        block: its layers must have ranges; kernels end on their levels.
        inputs: of the block in the quantized network, (images, ...).
    """
    for layer in block.kernels:
        if _is_plain(layer):
            layer.kernel.assign(_rounded(layer, _correlations(block, layer, inputs)))


def round_kernel(
    kernel: np.ndarray, correlations: np.ndarray, to_levels: Any, damping: float = _DAMPING
) -> np.ndarray:
    r"""Returns a kernel on its levels that errs little at its outputs (GPTQ, Frantar et al., 2022).

    Minimizes E ||x^T (W - Q)||^2 = tr((W - Q)^T C (W - Q)), C = E x x^T: row after row is rounded,
    and the rows that are still to come make up for its error,
        W[j] -= (W[i] - Q[i]) * U[i, j] / U[i, i],   U^T U = (C + damping * mean(diag C) I)^-1,
    rows of large inputs first.

    Args:
        kernel: float64 (inputs, outputs).
        correlations: C, float64 (inputs, inputs), symmetric, positive semidefinite.
        to_levels: from float64 (outputs,) to the nearest levels of each output.
        damping: see above; > 0.

    Returns:
        float64 (inputs, outputs).
    """
    order = np.argsort(-np.diag(correlations), kind="stable")
    rest = kernel[order].astype(np.float64)
    diagonal = float(np.mean(np.diag(correlations))) or 1.0  # inputs that are always 0
    damped = correlations[np.ix_(order, order)] + damping * diagonal * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty_like(rest)
    for i in range(len(rest)):
        rounded[i] = to_levels(rest[i])
        error = (rest[i] - rounded[i]) / upper[i, i]
        rest[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    return rounded[np.argsort(order)]


def _is_plain(layer: Any) -> bool:
    inputs = int(np.prod(layer.kernel.shape[:-1]))
    is_grouped = layer.kind is not OpKind.DEPTHWISE and getattr(layer, "groups", 1) > 1
    return layer.kind is not OpKind.TRANSPOSED and not is_grouped and inputs <= _MOST_INPUTS


def _correlations(block: Block, layer: Any, inputs: tf.Tensor) -> np.ndarray:
    """E x x^T of the inputs of each output: (inputs, inputs); depthwise (channels, k, k)."""
    # Keras makes no model whose output is its input.
    is_first = layer.input is block.start
    up_to: Any = None if is_first else keras.Model(block.start, layer.input)
    depthwise = layer.kind is OpKind.DEPTHWISE

    def products(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        columns = _columns(layer, x if is_first else up_to(x, training=True))
        subscripts = "nkc,nlc->ckl" if depthwise else "nk,nl->kl"
        return tf.einsum(subscripts, columns, columns), tf.shape(columns)[0]

    with fixed_statistics(block.layers):
        run = traced(products, inputs)
    total, count = 0.0, 0
    for start in range(0, len(inputs), _BATCH):
        part, number = run(inputs[start : start + _BATCH])
        total, count = total + part.numpy().astype(np.float64), count + int(number)
        if count >= _POSITIONS:
            break
    return np.asarray(total / count)


def _columns(layer: Any, x: tf.Tensor) -> tf.Tensor:
    """What each output multiplies: (positions, k), of depthwise (positions, k, channels)."""
    channels = int(x.shape[-1] or 0)
    if layer.kind is OpKind.DENSE:
        return tf.reshape(x, (-1, channels))
    patches = tf.image.extract_patches(
        x,
        sizes=(1, *layer.kernel_size, 1),
        strides=(1, *layer.strides, 1),
        rates=(1, *layer.dilation_rate, 1),
        padding=layer.padding.upper(),
    )
    size = int(np.prod(layer.kernel_size))
    is_depthwise = layer.kind is OpKind.DEPTHWISE
    return tf.reshape(patches, (-1, size, channels) if is_depthwise else (-1, size * channels))


def _rounded(layer: Any, correlations: np.ndarray) -> np.ndarray:
    """The layer's kernel on its levels."""
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel), np.float64)
    quantizer = layer.quantizer
    alpha = quantizer.range_in_force().astype(np.float64)
    index = int(quantizer.choice)

    def nearest(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        return quantizer.levels.nearest((values / alpha).astype(np.float32), index) * alpha

    if layer.kind is not OpKind.DEPTHWISE:
        flat = kernel.reshape(-1, kernel.shape[-1])
        return round_kernel(flat, correlations, lambda row: nearest(row, alpha)).reshape(
            kernel.shape
        )
    rounded = np.empty_like(kernel)
    for channel in range(kernel.shape[2]):
        flat = kernel[:, :, channel].reshape(-1, kernel.shape[3])
        rounded[:, :, channel] = round_kernel(
            flat, correlations[channel], lambda row, c=channel: nearest(row, alpha[c])
        ).reshape(kernel[:, :, channel].shape)
    return rounded
