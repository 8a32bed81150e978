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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from ddq_tf.graph import as_float64, flatten
from ddq_tf.layers import DDQSoftmax, activation_layers, weighted_layers
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.blockwise import outputs_of
from ddq_tf.reconstruction.moments import input_moments
from ddq_tf.reconstruction.rounding import (
    grouped,
    is_plain,
    levels_of,
    rounded_kernels,
    set_ranges,
)
from ddq_tf.search import DDQModel
from ddq_tf.training import fixed_statistics

_BATCH = 16
_TINY = 1e-9

Moved = Callable[[Any, int], Any]


def learning_layers(model: DDQModel) -> list[Any]:
    """Returns the layers with weights, then the activations, that choose among precisions."""
    layers = [*weighted_layers(model), *activation_layers(model)]
    return [layer for layer in layers if len(layer.quantizer.precisions) > 1]


def precision_losses(
    model: DDQModel,
    blocks: Sequence[Block],
    rounded_for: tf.Tensor,
    measured_on: np.ndarray,
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
    return kernels + len(learning) + -(-num_measured // _BATCH)


def _moved_kernels(
    blocks: Sequence[Block],
    layers: Sequence[Any],
    inputs: tf.Tensor,
    on_step: Callable[[], None],
) -> dict[str, Moved]:
    """By layer, what rounding its kernel adds to its products, from inputs and a precision."""
    moved: dict[str, Moved] = {}
    stream = inputs
    weighted = {layer.name: layer for block in blocks for layer in weighted_layers(block.model)}
    chosen = {layer.name for layer in layers}
    for block in blocks:
        for layer in block.kernels:
            if layer.name in chosen and is_plain(layer):
                moments = input_moments(block, layer, stream)
                takes_shift = layer.name in block.norms or layer.bias is not None
                if not takes_shift:
                    moments = moments.about_zero()
                set_ranges(layer, as_float64(layer.kernel), moments)
                moved[layer.name] = _moved_product(
                    layer, rounded_kernels(layer, moments), moments.x_mean
                )
                on_step()
        stream = outputs_of(block, stream)
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
    inputs: np.ndarray,
    seed: int,
    on_step: Callable[[], None],
) -> dict[str, np.ndarray]:
    """By layer, the sum over inputs of squared gate gradients: float64 (precisions, channels)."""
    seen: dict[str, list[tuple[Any, Any]]] = {}
    gives_probabilities = isinstance(flatten(model).nodes[-1].layer, DDQSoftmax)

    def squares(x: tf.Tensor, number: tf.Tensor) -> list[tf.Tensor]:
        seen.clear()
        with tf.GradientTape() as tape:
            direction = _direction(model(x, training=True), gives_probabilities, (seed, number))
        names = [layer.name for layer in layers]
        gradients = iter(tape.gradient(direction, [y for n in names for _, y in seen[n]]))
        parts = []
        for layer in layers:
            parts.append(_squared(layer, moved[layer.name], seen[layer.name], gradients))
            on_step()  # of tracing, which takes as long as many batches
        return parts

    specs = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32), tf.TensorSpec((), tf.int32)
    with fixed_statistics(model.layers), _probing(layers, seen):
        run = tf.function(squares).get_concrete_function(*specs)
    totals = {layer.name: np.zeros(1) for layer in layers}
    for number, start in enumerate(range(0, len(inputs), _BATCH)):
        parts = run(tf.constant(inputs[start : start + _BATCH]), tf.constant(number))
        for layer, part in zip(layers, parts, strict=True):
            totals[layer.name] = totals[layer.name] + part.numpy().astype(np.float64)
        on_step()
    return totals


def _direction(outputs: tf.Tensor, gives_probabilities: bool, seed: tuple[int, Any]) -> tf.Tensor:
    """A scalar whose squared derivative is, on average, twice what a change of outputs loses."""
    seeds = tf.stack([tf.constant(seed[0]), seed[1]])
    if gives_probabilities:
        logs = tf.math.log(tf.reshape(outputs, (-1, outputs.shape[-1])) + _TINY)
        drawn = tf.random.stateless_categorical(tf.stop_gradient(logs), 1, seeds)[:, 0]
        return tf.reduce_sum(tf.gather(logs, drawn, batch_dims=1))
    noise = tf.random.stateless_normal(tf.shape(outputs), seeds)
    power = tf.reduce_sum(tf.square(outputs)) / tf.cast(tf.shape(outputs)[0], tf.float32)
    return tf.reduce_sum(noise * outputs) * tf.math.rsqrt(tf.stop_gradient(power) / 2 + _TINY)


def _squared(
    layer: Any, moved: Moved, calls: Sequence[tuple[Any, Any]], gradients: Iterator[Any]
) -> tf.Tensor:
    """Sum over inputs of (dL/dG)^2, G the gates of a layer: (precisions, channels)."""
    by_call = [next(gradients) for _ in calls]
    of_weights = hasattr(layer, "multiply")
    rows = []
    for index in range(len(layer.quantizer.precisions)):
        slopes = tf.add_n(
            [
                _per_channel(gradient * moved(inputs, index))
                for (inputs, _), gradient in zip(calls, by_call, strict=True)
            ]
        )
        if not of_weights:
            slopes = tf.reduce_sum(slopes, axis=-1, keepdims=True)
        rows.append(tf.reduce_sum(tf.square(slopes), axis=0))
    return tf.stack(rows)


def _per_channel(x: tf.Tensor) -> tf.Tensor:
    """Sums over all but the batch and the last axis."""
    return tf.reduce_sum(x, axis=list(range(1, x.shape.rank - 1)))


@contextlib.contextmanager
def _probing(layers: Sequence[Any], seen: dict[str, list[tuple[Any, Any]]]) -> Iterator[None]:
    """Lets layers write down what they read and what they make of it."""

    def probe_of(name: str) -> Callable[[Any, Any], None]:
        return lambda inputs, outputs: seen.setdefault(name, []).append((inputs, outputs))

    try:
        for layer in layers:
            layer.probe = probe_of(layer.name)
        yield
    finally:
        for layer in layers:
            layer.probe = None
