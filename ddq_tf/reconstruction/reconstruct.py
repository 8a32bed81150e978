"""`reconstruct_model`: from a float model to a finished DDQ model, without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.graph import align, flatten
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.reconstruction.blocks import Block, blocks_of
from ddq_tf.reconstruction.blockwise import BlockError, reconstruct_block
from ddq_tf.reconstruction.candidates import candidate_layers, holding_candidates
from ddq_tf.reconstruction.distill import distill, learn_precisions
from ddq_tf.reconstruction.learning import trainable
from ddq_tf.reconstruction.recipe import ReconstructionConfig
from ddq_tf.reconstruction.tracing import in_batches
from ddq_tf.reconstruction.views import views_of
from ddq_tf.search import DDQModel
from ddq_tf.transform.calibrate import images_of
from ddq_tf.transform.quantize import quantize_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a reconstruction is.

    Attributes:
        stage: "precisions", a block's name, or "distillation".
        done: layers with candidates for the search or with new kernels, and steps taken, of all
            stages.
        total: the same, at the end.
    """

    stage: str
    done: int
    total: int


def reconstruct_model(
    model: keras.Model,
    images: Any,
    config: DDQConfig | None = None,
    recipe: ReconstructionConfig | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[DDQModel, tuple[BlockError, ...]]:
    """Quantizes a float model and trains it on unlabeled inputs to do what the float model does.

    1. `quantize_model`: the DDQ model, with calibrated ranges.
    2. Precisions: the search of DDQ within the budget, on the distance of the whole network's
       outputs to the float model's, among kernels rounded for each precision with the correlations
       of their inputs in mind (`holding_candidates`). Kernels and ranges are then as before.
    3. Block after block (BRECQ, Li et al., 2021): kernels get, in closed form, the values that
       give from the quantized inputs what the float network gives (GPTAQ, Li et al., 2025), are
       rounded with the correlations of their inputs in mind (GPTQ, Frantar et al., 2022), and
       BatchNorm's means or biases take what shift is left (`rounding.round_block`). With
       `recipe.steps`, the block then learns by gradient to give what it gives in the float network:
       kernels, ranges, levels, BatchNorm's gamma and beta, biases.
    4. The whole network once more, on the distance of its outputs.

    Everything learns by DDQ's own gradients. A few hundred inputs and minutes are enough.

    Args:
        model: as for `quantize_model`, with one input and one output.
        images: inputs as the model takes them: an array, or batches of them (with or without
            labels, which are not used). All are kept in memory.
        config: target, budget and the rest.
        recipe: how to train.
        on_progress: called after each step.

    Returns:
        The DDQ model, ready to export, and what each block learned.

    Raises:
        DDQError: as `quantize_model`; if the model has several inputs or outputs; if views are
            asked for of inputs that are no images.
    """
    config, recipe = config or DDQConfig(), recipe or ReconstructionConfig()
    shape = _single_input(model)
    examples = np.concatenate(images_of(images, shape, np.iinfo(np.int64).max))
    if recipe.views > 1 and examples.ndim != 4:
        raise DDQError(
            f"views of inputs need images (batch, height, width, channels); set views=1. Received: "
            f"views={recipe.views}, inputs of shape {examples.shape}"
        )
    quantized = quantize_model(model, config, examples)
    blocks = blocks_of(quantized)
    search_steps = recipe.search_steps if _learns_precisions(quantized) else 0
    in_blocks = sum(len(block.kernels) + recipe.steps for block in blocks)
    candidates = len(candidate_layers(blocks)) if search_steps else 0
    steps = candidates + search_steps + in_blocks + recipe.distill_steps
    report = _Reporter(steps, on_progress)
    keras.utils.set_random_seed(recipe.seed)
    x = views_of(examples, recipe.views, recipe.seed)
    wanted = in_batches(lambda batch: model(batch, training=False), x).numpy()
    # Quantizers must learn also in layers that the float model held back.
    with trainable(quantized.layers, True):
        if search_steps:
            few = tf.constant(examples[:: -(-len(examples) // config.calibration_images)])
            with holding_candidates(blocks, few, report.step("precisions")):
                learn_precisions(quantized, x, wanted, recipe, [report.callback("precisions")])
        errors = _each_block(blocks, tf.constant(x), recipe, report)
        if recipe.distill_steps:
            distill(quantized, x, wanted, recipe, [report.callback("distillation")])
    align(quantized)
    return quantized, errors


def _each_block(
    blocks: list[Block], inputs: tf.Tensor, recipe: ReconstructionConfig, report: _Reporter
) -> tuple[BlockError, ...]:
    """Trains one block after the other."""
    float_stream = stream = inputs
    errors = []
    for number, block in enumerate(blocks):
        float_stream, stream, error = reconstruct_block(
            block, float_stream, stream, recipe, recipe.seed + number, report.step(block.name)
        )
        errors.append(error)
    return tuple(errors)


class _Reporter:
    """Counts steps over all stages."""

    def __init__(self, total: int, on_progress: Callable[[Progress], None] | None) -> None:
        self._total = total
        self._done = 0
        self._tell = on_progress

    def step(self, stage: str) -> Callable[[], None]:
        """Returns what to call after each step of a stage."""

        def took() -> None:
            self._done += 1
            if self._tell is not None:
                self._tell(Progress(stage=stage, done=self._done, total=self._total))

        return took

    def callback(self, stage: str) -> keras.callbacks.Callback:
        """Returns a Keras callback that counts the steps of a stage."""
        took = self.step(stage)
        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: took())


def _single_input(model: Any) -> tuple[int | None, ...]:
    """Returns the shape of a model's one input."""
    graph = flatten(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DDQError(
            f"model {model.name!r}: reconstruction needs one input and one output. Received: "
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        )
    return graph.input_shapes[0]


def _learns_precisions(model: DDQModel) -> bool:
    layers = [*weighted_layers(model), *activation_layers(model)]
    return any(len(layer.quantizer.precisions) > 1 for layer in layers)
