"""Block by block: each learns to give what the float network gives, from quantized inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from ddq_tf.layers import weighted_layers
from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.losses import loss_towards
from ddq_tf.reconstruction.optimizer import UnitAdam, units_of
from ddq_tf.reconstruction.rounding import round_block
from ddq_tf.reconstruction.tracing import batch_slices, in_batches
from ddq_tf.training import fixed_statistics
from ddq_tf.transform.calibrate import float_network

Tensor = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockError:
    """What a block's new kernels and its training are worth.

    Attributes:
        name: of its last layer.
        before: mean squared error relative to the mean square of the float output, over all given
            inputs, with kernels rounded to the nearest levels; of a last block that gives
            probabilities, KL divergence in nats.
        after: the same, at the end.
    """

    name: str
    before: float
    after: float


def reconstruct_block(
    block: Block,
    float_inputs: Tensor,
    inputs: Tensor,
    recipe: ReconstructionConfig,
    seed: int,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor, BlockError]:
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
    with float_network(block.model):
        wanted = outputs_of(block, float_inputs)
    compare = loss_towards(wanted, probabilities=block.gives_probabilities)
    before = _error(compare, wanted, outputs_of(block, inputs))
    round_block(block, float_inputs, inputs, recipe.views, on_step)
    if recipe.steps:
        _train(block, (inputs, float_inputs, wanted), compare, recipe, seed, on_step)
    outputs = outputs_of(block, inputs)
    after = _error(compare, wanted, outputs)
    return wanted, outputs, BlockError(name=block.name, before=before, after=after)


def _train(
    block: Block,
    streams: tuple[Tensor, Tensor, Tensor],
    compare: keras.losses.Loss,
    recipe: ReconstructionConfig,
    seed: int,
    on_step: Callable[[], None],
) -> None:
    import tensorflow as tf

    step = _training_step(block, streams, compare, recipe, seed)
    for number in range(recipe.steps):
        step(tf.constant(number))
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
    streams: tuple[Tensor, Tensor, Tensor],
    compare: keras.losses.Loss,
    recipe: ReconstructionConfig,
    seed: int,
) -> Callable[[Tensor], None]:
    """Returns what takes a step, from its number."""
    import tensorflow as tf

    inputs, float_inputs, wanted = streams
    units = units_of(block.layers, recipe.kernel_rate, recipe.range_rate, recipe.norm_rate)
    variables: list[Any] = [v for v in block.model.variables if v.path in units]
    optimizer = UnitAdam(keras.optimizers.schedules.CosineDecay(1.0, recipe.steps), units)
    optimizer.build(variables)

    def step(number: Tensor) -> None:
        seeds = tf.random.split(tf.stack([seed, number]), 2)
        chosen = tf.random.stateless_uniform(
            (recipe.batch_size,), seeds[0], 0, tf.shape(inputs)[0], tf.int32
        )
        x = tf.gather(inputs, chosen)
        dropped = tf.random.stateless_uniform(tf.shape(x), seeds[1]) < recipe.drop
        x = tf.where(dropped, tf.gather(float_inputs, chosen), x)
        with tf.GradientTape() as tape:
            loss: Any = compare(tf.gather(wanted, chosen), block.model(x, training=True))
        gradients = tape.gradient(
            loss,
            [variable.value for variable in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        optimizer.apply(gradients, variables)

    with fixed_statistics(block.layers):
        return tf.function(step).get_concrete_function(tf.TensorSpec((), tf.int32))


def outputs_of(block: Block, inputs: Tensor) -> Tensor:
    """All outputs of a block, probabilities unrounded."""
    with fixed_statistics(block.layers):
        call = functools.partial(block.model, training=True)
        return in_batches(call, block.model.variables, inputs)


def _error(compare: keras.losses.Loss, wanted: Tensor, outputs: Tensor) -> float:
    """The loss over all inputs; in batches, for its temporary tensors."""
    slices = batch_slices(len(wanted))
    losses: list[Any] = [compare(wanted[part], outputs[part]) for part in slices]
    return float(np.average(losses, weights=[len(wanted[part]) for part in slices]))
