"""Block by block: each learns to give what the float network gives, from quantized inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from ddq_tf.layers import weighted_layers
from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.losses import loss_towards
from ddq_tf.reconstruction.optimizer import UnitAdam, units_of
from ddq_tf.reconstruction.rounding import round_block
from ddq_tf.reconstruction.streams import Values
from ddq_tf.reconstruction.tracing import batch_slices, in_batches
from ddq_tf.training import fixed_statistics
from ddq_tf.transform.calibrate import float_network

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockError:
    """What a block's new kernels and its training are worth.

    Attributes:
        name: of its last layer.
        before: mean squared error relative to the mean square of the float output, over the given
            inputs as they are, with kernels rounded to the nearest levels; of a last block that
            gives probabilities, KL divergence in nats.
        after: the same, at the end.
    """

    name: str
    before: float
    after: float


def reconstruct_block(
    block: Block,
    float_inputs: Values,
    inputs: Values,
    recipe: ReconstructionConfig,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[Values, Values, BlockError]:
    """Trains one block; returns its outputs in the float and in the quantized network.

    Kernels start on levels chosen in closed form (`round_block`).
    The loss is ||y - y_float||^2 / ||y_float||^2 over a batch's outputs; of a block that ends in
    probabilities, KL(y_float || y). Inputs are those that the quantized part before gives; each
    value is that of the float network with probability `recipe.drop` (QDrop, Wei et al., 2022).

    Args:
        block: its layers must have calibrated ranges; it is trained in place.
        float_inputs: of the block in the float network, (images, ...).
        inputs: of the block in the quantized network, likewise.
        recipe: how to train.
        seed: of the order and of what is dropped.
        on_step: called after each layer with a new kernel, and after each step.
    """
    wanted = outputs_of(block, float_inputs, of_float=True)
    compare = loss_towards(wanted, probabilities=block.gives_probabilities)
    shown = len(inputs) // recipe.views
    before = _error(compare, wanted, _computed(block, inputs, shown), block.batch)
    round_block(block, float_inputs, inputs, recipe.views, on_step)
    if recipe.steps:
        _train(block, (inputs, float_inputs, wanted), compare, recipe, seed, on_step)
    outputs = outputs_of(block, inputs, of_float=False)
    given = (outputs[part] for part in batch_slices(shown, block.batch))
    after = _error(compare, wanted, given, block.batch)
    return wanted, outputs, BlockError(name=block.name, before=before, after=after)


def _train(
    block: Block,
    streams: tuple[Values, Values, Values],
    compare: keras.losses.Loss,
    recipe: ReconstructionConfig,
    seed: int,
    on_step: Callable[[], None],
) -> None:
    import tensorflow as tf

    inputs, float_inputs, wanted = streams
    step = _training_step(block, wanted.shape, compare, recipe)
    for number in range(recipe.steps):
        seeds = tf.random.split(tf.constant([seed, number]), 2)
        chosen = tf.random.stateless_uniform(
            (recipe.batch_size,), seeds[0], 0, len(inputs), tf.int32
        ).numpy()
        parts = (tf.constant(values[chosen]) for values in (inputs, float_inputs, wanted))
        step(*parts, seeds[1])
        on_step()
    _settle(block)


def _settle(block: Block) -> None:
    """Moves kernels onto their levels: the block computes the same.

    Training leaves many weights next to the middle of two levels. The slightest later change of a
    range would throw them over, all at once.
    """
    for layer in weighted_layers(block.model):
        layer.kernel.assign(layer.quantizer(layer.kernel))


def _training_step(
    block: Block,
    wanted_shape: Sequence[int],
    compare: keras.losses.Loss,
    recipe: ReconstructionConfig,
) -> Callable[..., None]:
    """Returns what takes a step: from inputs in both networks, outputs, and a seed."""
    import tensorflow as tf

    units = units_of(block.layers, recipe.kernel_rate, recipe.range_rate, recipe.norm_rate)
    variables: list[Any] = [v for v in block.model.variables if v.path in units]
    optimizer = UnitAdam(keras.optimizers.schedules.CosineDecay(1.0, recipe.steps), units)
    optimizer.build(variables)

    def step(x: Tensor, float_x: Tensor, wanted: Tensor, seed: Tensor) -> None:
        dropped = tf.random.stateless_uniform(tf.shape(x), seed) < recipe.drop
        x = tf.where(dropped, float_x, x)
        with tf.GradientTape() as tape:
            loss: Any = compare(wanted, block.model(x, training=True))
        gradients = tape.gradient(
            loss,
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        optimizer.apply(gradients, variables)

    read = tf.TensorSpec((recipe.batch_size, *block.start.shape[1:]))
    given = tf.TensorSpec((recipe.batch_size, *wanted_shape[1:]))
    with fixed_statistics(block.layers):
        return tf.function(step).get_concrete_function(
            read, read, given, tf.TensorSpec((2,), tf.int32)
        )


def outputs_of(block: Block, inputs: Values, *, of_float: bool) -> Values:
    """Returns all outputs of a block in the quantized or float network, probabilities unrounded."""
    outputs = block.stored(of_float=of_float)
    with float_network(block.model) if of_float else contextlib.nullcontext():
        parts = _computed(block, inputs, len(inputs))
    for part in parts:
        outputs.append(part)
    return outputs


def _computed(block: Block, inputs: Values, count: int) -> Iterator[np.ndarray]:
    """The outputs for the first so many inputs, batch by batch."""
    call = functools.partial(block.model, training=True)
    with fixed_statistics(block.layers):
        return in_batches(call, block.model.variables, inputs, count, block.batch)


def _error(
    compare: keras.losses.Loss, wanted: Values, given: Iterable[np.ndarray], batch: int
) -> float:
    """The loss over the first outputs, which are given in batches."""
    losses: list[float] = []
    sizes: list[int] = []
    for number, outputs in enumerate(given):
        start = number * batch
        loss: Any = compare(wanted[start : start + len(outputs)], outputs)
        losses.append(float(loss))
        sizes.append(len(outputs))
    return float(np.average(losses, weights=sizes))
