r"""What each precision of each tensor would lose, from the gates' Fisher information.

A gate G that opens between a tensor and what it is at a precision, x + G (Q_b(x) - x), moves the
outputs of the whole network. To second order the divergence from the network as it is, is
    KL = 1/2 E (d ln p_y / dG)^2,   y drawn from the network's own p,
for outputs that are no probabilities the relative squared error, with a random direction in the
place of ln p_y. The gates of output channels are taken for independent. (Reconstructed: DDQ's gate
gradient, squared for each input instead of averaged over all, as in FIT, Zandonati et al., 2022.)
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.backend import See, draw_classes, draw_normal, slopes, traced
from ddq_tf.graph import as_float64, flatten
from ddq_tf.kinds import rule_of
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.reconstruction.blocks import Block, batch_for, num_values
from ddq_tf.reconstruction.moments import input_moments
from ddq_tf.reconstruction.rounding import (
    grouped,
    is_plain,
    levels_of,
    rounded_kernels,
    set_ranges,
)
from ddq_tf.reconstruction.streams import Values
from ddq_tf.reconstruction.tracing import batch_slices
from ddq_tf.search import DDQModel
from ddq_tf.training import fixed_statistics

_MOST_MEASURED = 16  # inputs at once
_TENSORS_AT_ONCE = 8  # as large as the largest may be
_TINY = 1e-9

Tensor = Any
Moved = Callable[[Any, int], Any]


def learning_layers(model: DDQModel) -> list[Any]:
    """Returns the layers with weights, then the activations, that choose among precisions."""
    layers = [*weighted_layers(model), *activation_layers(model)]
    return [layer for layer in layers if len(layer.quantizer.precisions) > 1]


def precision_losses(
    model: DDQModel,
    blocks: Sequence[Block],
    rounded_for: Values,
    measured_on: Values,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Returns what each precision of each layer loses.

    Kernels are rounded by the correlations of their inputs (`rounding.round_kernel`), which repairs
    some layers and not others, for other inputs than those that are looked at: what rounding gains
    by chance must not count.

    Args:
        model: its highest precisions in force; ranges of its kernels are set anew.
        blocks: of the model.
        rounded_for: inputs of the model that kernels are rounded for.
        measured_on: inputs that the losses are measured on, as often as they are to be looked at.
        seed: of the draws.
        on_step: called after each layer with rounded kernels, each layer whose measurement is
            traced, and each batch of measured inputs.

    Returns:
        By name of `learning_layers`: float64 (precisions, output channels of weights or 1), never
        rising along the precisions.
    """
    layers = learning_layers(model)
    moved = _moved_kernels(blocks, layers, rounded_for, on_step)
    for layer in layers:
        if layer.name not in moved:
            moved[layer.name] = _moved_activation(layer)
    totals = _measure(model, layers, moved, measured_on, seed, on_step)
    return {
        name: np.maximum.accumulate(total[::-1], axis=0)[::-1] / (2 * len(measured_on))
        for name, total in totals.items()
    }


def steps_of(model: DDQModel, num_measured: int) -> int:
    """Returns how often `precision_losses` calls its `on_step`."""
    learning = {id(layer) for layer in learning_layers(model)}
    kernels = sum(id(layer) in learning for layer in weighted_layers(model))
    return kernels + len(learning) + len(batch_slices(num_measured, _batch(model)))


def _batch(model: DDQModel) -> int:
    """How many inputs are measured at once: a gradient needs what all activations give."""
    sizes = [num_values(layer.output) for layer in activation_layers(model)]
    return batch_for([sum(sizes) // _TENSORS_AT_ONCE, *sizes], _MOST_MEASURED)


def _moved_kernels(
    blocks: Sequence[Block],
    layers: Sequence[Any],
    inputs: Values,
    on_step: Callable[[], None],
) -> dict[str, Moved]:
    """By layer, what rounding its kernel adds to its products, from inputs and a precision."""
    moved: dict[str, Moved] = {}
    stream = inputs
    weighted = {layer.name: layer for block in blocks for layer in weighted_layers(block.model)}
    chosen = {layer.name for layer in layers}
    for block in blocks:
        looked_at = [x for x in block.kernels if x.name in chosen and is_plain(x)]
        of_layers, stream = input_moments(block, looked_at, stream)
        for layer, moments in zip(looked_at, of_layers, strict=True):
            takes_shift = layer.name in block.norms or layer.bias is not None
            if not takes_shift:
                moments = moments.about_zero()
            set_ranges(layer, as_float64(layer.kernel), moments)
            moved[layer.name] = _moved_product(
                layer, rounded_kernels(layer, moments), moments.x_mean
            )
            on_step()
    for name in chosen & weighted.keys() - moved.keys():
        layer = weighted[name]
        moved[name] = _moved_product(layer, _nearest_kernels(layer), None)
        on_step()
    return moved


def _moved_product(layer: Any, kernels: np.ndarray, mean: np.ndarray | None) -> Moved:
    """What kernels in a layer's place change at its products; a change of the mean is mended."""
    differences = kernels - as_float64(layer.kernel)
    shifts = np.zeros(len(kernels))
    if mean is not None:
        shifts = np.stack(
            [np.einsum("gk,gko->go", mean, grouped(layer, row)).ravel() for row in differences]
        )
    rows = [ops.convert_to_tensor(row.astype(np.float32)) for row in differences]
    means = [ops.convert_to_tensor(row.astype(np.float32)) for row in shifts]
    return lambda inputs, index: layer.multiply(inputs, rows[index]) - means[index]


def _nearest_kernels(layer: Any) -> np.ndarray:
    quantizer, kernel = layer.quantizer, as_float64(layer.kernel)
    indices = range(len(quantizer.precisions))
    return np.stack([levels_of(layer, quantizer.channel_shape, i)(kernel) for i in indices])


def _moved_activation(layer: Any) -> Moved:
    """What fewer bits than the highest add to an activation."""
    quantizer, highest = layer.quantizer, len(layer.quantizer.precisions) - 1
    return lambda inputs, index: quantizer.at(index, inputs) - quantizer.at(highest, inputs)


def _measure(
    model: DDQModel,
    layers: Sequence[Any],
    moved: dict[str, Moved],
    inputs: Values,
    seed: int,
    on_step: Callable[[], None],
) -> dict[str, np.ndarray]:
    """By layer, the sum over inputs of squared gate gradients: float64 (precisions, channels)."""
    gives_probabilities = rule_of(flatten(model).nodes[-1].layer).gives_probabilities
    by_name = {layer.name: layer for layer in layers}

    def squares(x: Tensor, number: Tensor) -> list[Tensor]:
        def direction(see: See) -> tuple[Tensor, list[Tensor]]:
            read.clear()
            with _probing(layers, see, read):
                outputs = model(x, training=True)
            inputs = [inputs for _, inputs in read]
            return _direction(outputs, gives_probabilities, seed, number), inputs

        read: list[tuple[str, Tensor]] = []
        gradients, inputs = slopes(direction)
        calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for (name, _), *call in zip(read, inputs, gradients, strict=True):
            calls.setdefault(name, []).append((call[0], call[1]))
        parts = []
        for name, layer in by_name.items():
            parts.append(_squared(layer, moved[name], calls[name]))
            on_step()  # of tracing, which takes as long as many batches
        return parts

    slices = batch_slices(len(inputs), _batch(model))
    with fixed_statistics(model.layers):
        # Once for all: JAX would trace a last batch of another size anew.
        like = [(inputs[slices[0]], np.zeros((), np.int32))]
        run = traced(squares, model.variables, like)
        totals = {name: np.zeros(1) for name in by_name}
        for number, part in enumerate(slices):
            batch = ops.convert_to_tensor(inputs[part])
            parts = run(batch, ops.convert_to_tensor(number, "int32"))
            for name, total in zip(totals, parts, strict=True):
                totals[name] = totals[name] + as_float64(total)
            on_step()
    return totals


def _direction(outputs: Tensor, gives_probabilities: bool, seed: int, number: Tensor) -> Tensor:
    """A scalar whose squared derivative is, on average, twice what a change of outputs loses."""
    if gives_probabilities:
        rows: Any = ops.reshape(outputs, (-1, outputs.shape[-1]))
        logs = ops.log(rows + _TINY)
        drawn = draw_classes(ops.stop_gradient(logs), seed, number)
        return ops.sum(ops.take_along_axis(logs, ops.expand_dims(drawn, 1), axis=1))
    noise = draw_normal(outputs, seed, number)
    shape: Any = ops.shape(outputs)
    examples: Any = ops.cast(shape[0], "float32")
    power: Any = ops.stop_gradient(ops.sum(ops.square(outputs)) / examples)
    return ops.multiply(ops.sum(noise * outputs), ops.rsqrt(power / 2 + _TINY))


def _squared(layer: Any, moved: Moved, calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over inputs of (dL/dG)^2, G the gates of a layer: (precisions, channels).

    Args:
        layer: of `learning_layers`.
        moved: what its precisions add.
        calls: what it read each time, and the gradients of what it made of it.
    """
    of_weights = hasattr(layer, "multiply")
    rows = []
    for index in range(len(layer.quantizer.precisions)):
        of_calls = [_per_channel(gradient * moved(inputs, index)) for inputs, gradient in calls]
        slope: Any = functools.reduce(operator.add, of_calls)
        if not of_weights:
            slope = ops.sum(slope, axis=-1, keepdims=True)
        rows.append(ops.sum(ops.square(slope), axis=0))
    return ops.stack(rows)


def _per_channel(x: Tensor) -> Tensor:
    """Sums over all but the batch and the last axis."""
    return ops.sum(x, axis=tuple(range(1, len(x.shape) - 1)))


@contextlib.contextmanager
def _probing(layers: Sequence[Any], see: See, read: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Lets layers write down what they read, and shows what they make of it."""

    def probe_of(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def probe(inputs: Tensor, outputs: Tensor) -> Tensor:
            read.append((name, inputs))
            return see(outputs)

        return probe

    try:
        for layer in layers:
            layer.probe = probe_of(layer.name)
        yield
    finally:
        for layer in layers:
            layer.probe = None
