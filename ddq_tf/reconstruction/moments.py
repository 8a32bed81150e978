"""What a layer with weights reads: first and second moments in both networks, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.tracing import batch_slices, traced
from ddq_tf.targets import OpKind
from ddq_tf.training import fixed_statistics
from ddq_tf.transform.calibrate import float_network

_POSITIONS = (1 << 16, 1 << 14)  # that moments are taken over, about; of depthwise layers

Values = Sequence[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moments:
    """Means over positions of x, a column that an output multiplies, and of f, the float network's.

    Arrays are float64 and begin with the groups of inputs: channels of a depthwise layer, else 1.

    Attributes:
        count: positions.
        x_mean: (groups, k).
        f_mean: likewise.
        xx: E (x - x_mean)(x - x_mean)^T, (groups, k, k).
        xf: E (x - x_mean)(f - f_mean)^T, likewise.
    """

    count: int
    x_mean: np.ndarray = dataclasses.field(repr=False)
    f_mean: np.ndarray = dataclasses.field(repr=False)
    xx: np.ndarray = dataclasses.field(repr=False)
    xf: np.ndarray = dataclasses.field(repr=False)

    def __add__(self, other: Moments) -> Moments:
        """Returns the moments of both sets of positions together."""
        count = self.count + other.count
        share = other.count / count
        dx, df = other.x_mean - self.x_mean, other.f_mean - self.f_mean
        apart = share * (1 - share) * dx[..., :, None]
        return Moments(
            count=count,
            x_mean=self.x_mean + share * dx,
            f_mean=self.f_mean + share * df,
            xx=(1 - share) * self.xx + share * other.xx + apart * dx[..., None, :],
            xf=(1 - share) * self.xf + share * other.xf + apart * df[..., None, :],
        )

    @property
    def power(self) -> np.ndarray:
        """E x_i^2, its mean over i: (groups,)."""
        return np.mean(np.diagonal(self.xx, axis1=1, axis2=2) + np.square(self.x_mean), axis=1)

    def about_zero(self) -> Moments:
        """Returns the same with means taken as 0: what counts where no shift can be mended."""
        return dataclasses.replace(
            self,
            x_mean=np.zeros_like(self.x_mean),
            f_mean=np.zeros_like(self.f_mean),
            xx=self.xx + self.x_mean[..., :, None] * self.x_mean[..., None, :],
            xf=self.xf + self.x_mean[..., :, None] * self.f_mean[..., None, :],
        )


def moments_of(
    block: Block,
    layer: Any,
    float_inputs: tf.Tensor,
    inputs: tf.Tensor,
    before: Values,
) -> Moments:
    """Returns the moments of what a layer reads.

    Args:
        block: the layer's.
        layer: dense, or a convolution without groups, depthwise or not.
        float_inputs: of the block in the float network, (images, ...).
        inputs: of the block in the quantized network, likewise.
        before: variables of the block, and what they hold in the float network.
    """
    columns = _reader(block, layer, len(inputs))
    with fixed_statistics(block.layers):
        run = traced(columns, inputs)
        with float_network(block.model):
            run_float = traced(columns, inputs)
    parts = []
    for part in batch_slices(len(inputs)):
        x = run(inputs[part])
        with _holding(before):
            f = run_float(float_inputs[part])
        parts.append(_moments(x, f))
    return functools.reduce(operator.add, parts)


def input_moments(block: Block, layer: Any, inputs: tf.Tensor) -> Moments:
    """Returns the moments of what a layer reads, the quantized network in the float one's place.

    Args:
        block: the layer's.
        layer: as for `moments_of`.
        inputs: of the block in the quantized network, (images, ...).
    """
    with fixed_statistics(block.layers):
        run = traced(_reader(block, layer, len(inputs)), inputs)
    columns = (run(inputs[part]) for part in batch_slices(len(inputs)))
    return functools.reduce(operator.add, (_moments(x, x) for x in columns))


def _reader(block: Block, layer: Any, count: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns what gives the columns that a layer reads, from a batch of the block's inputs."""
    # Keras makes no model whose output is its input.
    is_first = layer.input is block.start
    up_to: Any = None if is_first else keras.Model(block.start, layer.input)
    every = _thinning(layer, count)

    def columns(x: tf.Tensor) -> tf.Tensor:
        return columns_of(layer, x if is_first else up_to(x, training=True))[::every]

    return columns


def columns_of(layer: Any, x: tf.Tensor) -> tf.Tensor:
    """What each output multiplies: (positions, k), of depthwise layers (positions, k, channels).

    Args:
        layer: dense, or a convolution without groups, depthwise or not.
        x: its input.
    """
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


def _thinning(layer: Any, count: int) -> int:
    """Which share of its positions is enough: odd, so that none falls on the same columns."""
    positions = count * int(np.prod(layer.output.shape[1:-1]))
    return max(positions // _POSITIONS[layer.kind is OpKind.DEPTHWISE], 1) // 2 * 2 + 1


@contextlib.contextmanager
def _holding(values: Values) -> Iterator[None]:
    """Lets variables hold other values for a while."""
    now = [(variable, np.array(ops.convert_to_numpy(variable))) for variable, _ in values]
    try:
        for variable, value in values:
            variable.assign(value)
        yield
    finally:
        for variable, value in now:
            variable.assign(value)


def _moments(x: tf.Tensor, f: tf.Tensor) -> Moments:
    """Of columns as `columns_of` gives them."""
    count = len(x)
    x, f = (tf.transpose(c, (2, 0, 1)) if c.shape.rank == 3 else c[None] for c in (x, f))
    x_mean, f_mean = (tf.reduce_mean(c, axis=1, keepdims=True) for c in (x, f))
    # Centred first: squares of large means would leave float32 nothing of a small variance.
    xx = tf.matmul(x - x_mean, x - x_mean, transpose_a=True) / count
    xf = tf.matmul(x - x_mean, f - f_mean, transpose_a=True) / count
    return Moments(
        count=count,
        x_mean=_float64(x_mean)[:, 0],
        f_mean=_float64(f_mean)[:, 0],
        xx=_float64(xx),
        xf=_float64(xf),
    )


def _float64(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(tensor, np.float64)
