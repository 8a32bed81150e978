"""The whole network at once: it learns to give what the float network gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import flatten
from ddq_tf.kinds import rule_of
from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.reconstruction.losses import loss_towards
from ddq_tf.reconstruction.optimizer import UnitAdam, units_of
from ddq_tf.reconstruction.streams import Values
from ddq_tf.search import DDQModel
from ddq_tf.training import fixed_statistics

if TYPE_CHECKING:
    import tensorflow as tf


def distill(
    model: DDQModel,
    inputs: Values,
    wanted: np.ndarray,
    recipe: ReconstructionConfig,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Trains the whole network on the distance to the float network's outputs.

    Args:
        model: as the blocks left it.
        inputs: float32 (images, ...).
        wanted: what the float network gives for them.
        recipe: how to train.
        callbacks: further Keras callbacks.
    """
    units = units_of(model.layers, recipe.kernel_rate, recipe.range_rate, recipe.norm_rate)
    rate = keras.optimizers.schedules.CosineDecay(recipe.whole_rate, recipe.distill_steps)
    data, optimizer = _batches(inputs, wanted, recipe), UnitAdam(rate, units)
    _fit(model, data, _loss(model, wanted), optimizer, recipe.distill_steps, callbacks)


def _fit(
    model: DDQModel,
    data: tf.data.Dataset,
    loss: keras.losses.Loss,
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    callbacks: list[Any],
) -> None:
    # A twin of the same layers: the model itself stays uncompiled.
    twin = DDQModel(model.inputs, model.outputs)
    twin.compile(optimizer, loss)
    with fixed_statistics(model.layers):
        twin.fit(
            data,
            steps_per_epoch=steps,
            epochs=1,
            shuffle=False,  # the default, True, draws a warning for every tf.data.Dataset
            verbose=0,  # type: ignore[arg-type]
            callbacks=callbacks,
        )


def _batches(inputs: Values, wanted: np.ndarray, recipe: ReconstructionConfig) -> tf.data.Dataset:
    """Endless random batches."""
    import tensorflow as tf

    def picked(values: Values, numbers: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(lambda chosen: values[chosen], [numbers], tf.float32)
        return tf.ensure_shape(rows, (None, *values.shape[1:]))

    numbers = tf.data.Dataset.random(recipe.seed).batch(recipe.whole_batch_size)
    return numbers.map(lambda n: tuple(picked(part, n % len(inputs)) for part in (inputs, wanted)))


def _loss(model: DDQModel, wanted: np.ndarray) -> keras.losses.Loss:
    last = flatten(model).nodes[-1].layer
    return loss_towards(wanted, probabilities=rule_of(last).gives_probabilities)
