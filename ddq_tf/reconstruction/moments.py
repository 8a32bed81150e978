"""What a layer with weights reads: first and second moments in both networks, side by side."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import with_values
from ddq_tf.graph import as_float64
from ddq_tf.graph.inputs import as_array
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.streams import Values
from ddq_tf.reconstruction.tracing import batch_slices, traced
from ddq_tf.targets import OpKind
from ddq_tf.training import fixed_statistics
from ddq_tf.transform.calibrate import float_network

_POSITIONS = (1 << 16, 1 << 14)  # that moments are taken over, about; of depthwise layers
_POSITIONS_OF_ONE = 128  # example, at most
_VALUES_AT_ONCE = 1 << 22  # of columns, before their products are summed up

Tensor = Any
FloatValues = Sequence[tuple[Any, Any]]


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
    float_inputs: Values,
    inputs: Values,
    folds: Sequence[np.ndarray],
    before: FloatValues,
) -> list[Moments]:
    """Returns the moments of what a layer reads, for each of some parts of the inputs.

    Args:
        block: the layer's.
        layer: dense, or a convolution without groups, depthwise or not.
        float_inputs: of the block in the float network, (images, ...).
        inputs: of the block in the quantized network, likewise.
        folds: numbers of the inputs of each part; as many of them as are enough are looked at.
        before: variables of the block, and what they hold in the float network.
    """
    samples = [_sample(layer, fold) for fold in folds]
    every = max(each for _, each in samples)
    columns, used = _reader(block, layer, every), block.model.variables
    sizes = inputs.shape[1:], [len(examples) for examples, _ in samples], block.batch
    with fixed_statistics(block.layers):
        run = traced(columns, used, *sizes)
        with float_network(block.model):
            run_float = traced(with_values(before, columns), used, *sizes)
    found = []
    for examples, _ in samples:
        sums = _Sums()
        for part in batch_slices(len(examples), block.batch):
            numbers = examples[part]
            x = run(ops.convert_to_tensor(inputs[numbers]))
            f = run_float(ops.convert_to_tensor(float_inputs[numbers]))
            sums.add(as_array(x), as_array(f))
        found.append(sums.moments())
    return found


def input_moments(
    block: Block, layers: Sequence[Any], inputs: Values
) -> tuple[list[Moments], Values]:
    """Returns the moments of what layers read, and what the block gives, in one pass.

    The quantized network stands in the float one's place.

    Args:
        block: the layers'.
        layers: as for `moments_of`.
        inputs: of the block in the quantized network, (images, ...).
    """
    outputs = block.stored(of_float=False)
    inner = [layer for layer in layers if layer.input is not block.start]
    # Each tensor once: Keras loses those that a model is to give twice.
    tensors = list({id(layer.input): layer.input for layer in inner}.values())
    places = {id(tensor): place for place, tensor in enumerate(tensors)}
    whole: Any = keras.Model(block.start, [*tensors, block.output])
    every = {layer.name: _thinning(layer, len(inputs)) for layer in layers}

    def columns_and_outputs(x: Tensor) -> tuple[list[Tensor], Tensor]:
        *read, given = keras.tree.flatten(whole(x, training=True))
        reads = {layer.name: read[places[id(layer.input)]] for layer in inner}
        columns = [_turned(layer, reads.get(layer.name, x), every[layer.name]) for layer in layers]
        return columns, given

    sums = [_Sums() for _ in layers]
    with fixed_statistics(block.layers):
        run = traced(
            columns_and_outputs,
            block.model.variables,
            inputs.shape[1:],
            [len(inputs)],
            block.batch,
        )
    for part in batch_slices(len(inputs), block.batch):
        columns, given = run(ops.convert_to_tensor(inputs[part]))
        outputs.append(as_array(given))
        for of_layer, x in zip(sums, columns, strict=True):
            of_layer.add(as_array(x))
    return [of_layer.moments() for of_layer in sums], outputs


def _reader(block: Block, layer: Any, every: int) -> Callable[[Tensor], Tensor]:
    """Returns what gives the columns that a layer reads, from a batch of the block's inputs."""
    # Keras makes no model whose output is its input.
    is_first = layer.input is block.start
    up_to: Any = None if is_first else keras.Model(block.start, layer.input)

    def columns(x: Tensor) -> Tensor:
        return _turned(layer, x if is_first else up_to(x, training=True), every)

    return columns


def columns_of(layer: Any, x: Tensor, every: int = 1) -> Tensor:
    """What each output multiplies: (positions, k), of depthwise layers (positions, k, channels).

    Args:
        layer: dense, or a convolution without groups, depthwise or not.
        x: its input.
        every: which of the positions, counted from the first of the first image: every second, or
            third, and so on.
    """
    channels = int(x.shape[-1] or 0)
    if layer.kind is OpKind.DENSE:
        rows: Any = ops.reshape(x, (-1, channels))
        return rows[::every]
    parts = _met(layer, x, every)
    if layer.kind is OpKind.DEPTHWISE:
        return ops.stack(parts, axis=1)
    return ops.concatenate(parts, axis=1)


def _met(layer: Any, x: Tensor, every: int) -> list[Tensor]:
    """For each place of a kernel, row by row, the pixels that it meets: (positions, channels)."""
    shape, steps, apart = layer.kernel_size, layer.strides, layer.dilation_rate
    sizes, outputs = ([int(n) for n in s.shape[1:3]] for s in (x, layer.output))
    missing = [0, 0]
    if layer.padding == "same":
        missing = [
            max((out - 1) * s + (k - 1) * d + 1 - n, 0)
            for out, s, k, d, n in zip(outputs, steps, shape, apart, sizes, strict=True)
        ]
    pixels: Any = ops.reshape(x, (-1, int(x.shape[-1] or 0)))
    shape_now: Any = ops.shape(x)
    numbers: Any = ops.arange(0, shape_now[0] * outputs[0] * outputs[1], every, dtype="int32")
    image = numbers // (outputs[0] * outputs[1])
    starts = (numbers // outputs[1] % outputs[0], numbers % outputs[1])
    starts = [at * s - m // 2 for at, s, m in zip(starts, steps, missing, strict=True)]
    parts = []
    for place in itertools.product(*map(range, shape)):
        row, column = (at + p * d for at, p, d in zip(starts, place, apart, strict=True))
        inside = (row >= 0) & (row < sizes[0]) & (column >= 0) & (column < sizes[1])
        found = ops.where(inside, (image * sizes[0] + row) * sizes[1] + column, 0)
        part = ops.take(pixels, found, axis=0)
        parts.append(ops.where(ops.expand_dims(inside, 1), part, 0.0) if any(missing) else part)
    return parts


def _sample(layer: Any, examples: np.ndarray) -> tuple[np.ndarray, int]:
    """Which examples are enough, and which share of their positions.

    Examples are dear, positions are not: of large images, fewer of the one and more of the other.
    """
    most = max(min(_POSITIONS_OF_ONE, _positions(layer) // 4), 1)
    count = min(-(-_POSITIONS[layer.kind is OpKind.DEPTHWISE] // most), len(examples))
    return examples[np.arange(count) * len(examples) // count], _thinning(layer, count)


def _thinning(layer: Any, count: int) -> int:
    """Which share of the positions of some examples is enough: odd, or all are of few columns."""
    wanted = _POSITIONS[layer.kind is OpKind.DEPTHWISE]
    return max(count * _positions(layer) // wanted, 1) // 2 * 2 + 1


def _positions(layer: Any) -> int:
    """How many there are in an example."""
    return int(np.prod(layer.output.shape[1:-1]))


def _turned(layer: Any, x: Tensor, every: int) -> Tensor:
    """Columns for `_Sums`: (k, positions), of depthwise layers (k, channels, positions)."""
    columns: Any = columns_of(layer, x, every)
    if layer.kind is OpKind.DEPTHWISE:
        return ops.transpose(columns, (1, 2, 0))
    return ops.transpose(columns)


class _Sums:
    """Sums over positions that become moments; float64, of products in float32.

    Products are of distances from the means of what comes first: squares of large means would leave
    float32 nothing of a small variance.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._count = self._waiting_count = 0
        self._totals: list[np.ndarray] = []
        self._middles: list[np.ndarray] = []

    def add(self, x: np.ndarray, f: np.ndarray | None = None) -> None:
        """Adds columns as `_turned` gives them; f is x if it is not given."""
        self._waiting.append((x, x if f is None else f))
        self._waiting_count += x.shape[-1]
        if self._waiting_count * (x.size // x.shape[-1]) >= _VALUES_AT_ONCE:
            self._sum_up()

    def _sum_up(self) -> None:
        """Takes what is waiting: few large products are faster than many small ones."""
        is_same = all(x is f for x, f in self._waiting)
        columns = [np.concatenate(parts, axis=-1) for parts in zip(*self._waiting, strict=True)]
        x, f = (c if c.ndim == 3 else c[:, None] for c in columns)
        if not self._middles:
            self._middles = [c.mean(axis=-1, keepdims=True) for c in (x, f)]
        x = (x - self._middles[0]).swapaxes(0, 1)
        f = x if is_same else (f - self._middles[1]).swapaxes(0, 1)
        turned = x.swapaxes(1, 2)
        xx = np.matmul(x, turned)
        xf = xx if is_same else np.matmul(x, f.swapaxes(1, 2))
        sums = [x.sum(axis=2, dtype=np.float64), f.sum(axis=2, dtype=np.float64), xx, xf]
        if not self._totals:
            self._totals = [np.zeros(part.shape) for part in sums]
        for total, part in zip(self._totals, sums, strict=True):
            total += part
        self._count += self._waiting_count
        self._waiting, self._waiting_count = [], 0

    def moments(self) -> Moments:
        """Returns the moments of all that was added."""
        if self._waiting:
            self._sum_up()
        x_mean, f_mean, xx, xf = (total / self._count for total in self._totals)
        x_middle, f_middle = (as_float64(m[..., 0]).T for m in self._middles)
        return Moments(
            count=self._count,
            x_mean=x_middle + x_mean,
            f_mean=f_middle + f_mean,
            xx=xx - x_mean[..., :, None] * x_mean[..., None, :],
            xf=xf - x_mean[..., :, None] * f_mean[..., None, :],
        )
