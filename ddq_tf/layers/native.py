"""The one place where layers ask a backend for what is its own: fused kernels, float64."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import keras

Tensor = Any


def float64_allowed() -> contextlib.AbstractContextManager[Any]:
    """Lets operations within compute in float64, which JAX makes float32 unless it is told."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    jax: Any = importlib.import_module("jax")
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64()  # before JAX 0.8


def has_native_batch_norm() -> bool:
    """Returns whether the backend has a fused kernel for BatchNormalization in training."""
    return keras.backend.backend() == "tensorflow"


def native_batch_norm(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes a batch with TensorFlow's fused kernel.

    Args:
        x: float32, (batch, height, width, channels).
        gamma: float32, (channels,), or None for ones.
        beta: float32, (channels,), or None for zeros.
        epsilon: added to the variance.

    Returns:
        outputs: float32, the shape of x.
        mean: float32, (channels,), of the batch.
        variance: float32, (channels,), of the batch, biased.
    """
    import tensorflow as tf

    channels = x.shape[-1]
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x,
        tf.ones(channels) if gamma is None else gamma,
        tf.zeros(channels) if beta is None else beta,
        epsilon=epsilon,
        is_training=True,
    )
    # The kernel gives the unbiased variance.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    return outputs, mean, variance * (count - 1) / count
