"""What a layer with weights reads: first and second moments in both networks, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.graph import as_float64
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.tracing import batch_slices, traced
from ddq_tf.targets import OpKind
from ddq_tf.training import fixed_statistics
from ddq_tf.transform.calibrate import float_network

_POSITIONS = (1 << 16, 1 << 14)  # that moments are taken over, about; of depthwise layers

Tensor = Any
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
    float_inputs: Tensor,
    inputs: Tensor,
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
    columns, used = _reader(block, layer, len(inputs)), block.model.variables
    with fixed_statistics(block.layers):
        run = traced(columns, used, inputs)
        with float_network(block.model):
            run_float = traced(columns, used, inputs)
    parts = []
    for part in batch_slices(len(inputs)):
        x = run(inputs[part])
        with _holding(before):
            f = run_float(float_inputs[part])
        parts.append(_moments(x, f))
    return functools.reduce(operator.add, parts)


def input_moments(block: Block, layer: Any, inputs: Tensor) -> Moments:
    """Returns the moments of what a layer reads, the quantized network in the float one's place.

    Args:
        block: the layer's.
        layer: as for `moments_of`.
        inputs: of the block in the quantized network, (images, ...).
    """
    with fixed_statistics(block.layers):
        run = traced(_reader(block, layer, len(inputs)), block.model.variables, inputs)
    columns = (run(inputs[part]) for part in batch_slices(len(inputs)))
    return functools.reduce(operator.add, (_moments(x, x) for x in columns))


def _reader(block: Block, layer: Any, count: int) -> Callable[[Tensor], Tensor]:
    """Returns what gives the columns that a layer reads, from a batch of the block's inputs."""
    # Keras makes no model whose output is its input.
    is_first = layer.input is block.start
    up_to: Any = None if is_first else keras.Model(block.start, layer.input)
    every = _thinning(layer, count)

    def columns(x: Tensor) -> Tensor:
        return columns_of(layer, x if is_first else up_to(x, training=True))[::every]

    return columns


def columns_of(layer: Any, x: Tensor) -> Tensor:
    """What each output multiplies: (positions, k), of depthwise layers (positions, k, channels).

    Args:
        layer: dense, or a convolution without groups, depthwise or not.
        x: its input.
    """
    channels = int(x.shape[-1] or 0)
    if layer.kind is OpKind.DENSE:
        return ops.reshape(x, (-1, channels))
    parts = _shifted(layer, x)
    if layer.kind is OpKind.DEPTHWISE:
        return ops.reshape(ops.stack(parts, axis=3), (-1, len(parts), channels))
    return ops.reshape(ops.concatenate(parts, axis=3), (-1, len(parts) * channels))


def _shifted(layer: Any, x: Tensor) -> list[Tensor]:
    """For each place of a kernel, row by row, the pixels that it meets: (images, h, w, channels).

    Not `extract_patches` of Keras, which multiplies with an identity of all channels on JAX.
    """
    shape, steps, apart = layer.kernel_size, layer.strides, layer.dilation_rate
    reach = [(k - 1) * d + 1 for k, d in zip(shape, apart, strict=True)]
    sizes = [int(n) for n in x.shape[1:3]]
    if layer.padding == "same":
        missing = [
            max((-(-n // s) - 1) * s + r - n, 0)
            for n, s, r in zip(sizes, steps, reach, strict=True)
        ]
        x = ops.pad(x, [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)])
        sizes = [n + m for n, m in zip(sizes, missing, strict=True)]
    ends = [n - r + 1 for n, r in zip(sizes, reach, strict=True)]
    starts = itertools.product(*(range(0, r, d) for r, d in zip(reach, apart, strict=True)))
    return [x[:, i : i + ends[0] : steps[0], j : j + ends[1] : steps[1]] for i, j in starts]


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


def _moments(x: Tensor, f: Tensor) -> Moments:
    """Of columns as `columns_of` gives them."""
    count = len(x)
    x, f = (ops.transpose(c, (2, 0, 1)) if len(c.shape) == 3 else c[None] for c in (x, f))
    x_mean, f_mean = (ops.mean(c, axis=1, keepdims=True) for c in (x, f))
    # Centred first: squares of large means would leave float32 nothing of a small variance.
    turned = ops.swapaxes(x - x_mean, 1, 2)
    xx: Any = ops.matmul(turned, x - x_mean)
    xf: Any = ops.matmul(turned, f - f_mean)
    return Moments(
        count=count,
        x_mean=as_float64(x_mean)[:, 0],
        f_mean=as_float64(f_mean)[:, 0],
        xx=as_float64(xx / count),
        xf=as_float64(xf / count),
    )
