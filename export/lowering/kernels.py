"""Constants of operators with weights: biases that fit into their integers."""

from __future__ import annotations

import numpy as np

from ddq_tf.grids import FoldedLayer
from ddq_tf.grids.fold import BIAS_MAX


def fit_bias(folded: FoldedLayer, input_scale: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes and scales with which every bias fits into int32.

    A channel whose weights are all but dead has steps so fine that its bias overflows. Such a
    channel gets the finest scale at which the bias fits, and its codes are rounded to it (mostly
    to 0). All other channels stay exactly as trained.

    Args:
        folded: the layer; its `codes` have the shape of the Keras kernel.
        input_scale: of the activations that it reads.

    Returns:
        codes: int8, the kernel's shape; scale: float32, (channels,).
    """
    finest = np.abs(folded.bias) / (float(input_scale) * BIAS_MAX)
    scale = folded.scale.astype(np.float64)
    if not (finest >= scale).any():
        return folded.codes, folded.scale
    fitted = np.where(finest >= scale, finest * 1.001, scale)
    channels_last = folded.codes.reshape(-1, scale.size)
    codes = np.rint(channels_last * (scale / fitted)).astype(np.int8)
    return codes.reshape(folded.codes.shape), fitted.astype(np.float32)


def integer_bias(folded: FoldedLayer, unit: np.ndarray) -> np.ndarray:
    """Returns the bias in units of s_x * s_w: int32, (channels,)."""
    bias = np.clip(np.rint(folded.bias / unit.astype(np.float64)), -BIAS_MAX, BIAS_MAX)
    return bias.astype(np.int32)
