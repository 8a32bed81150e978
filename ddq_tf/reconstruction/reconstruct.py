"""`reconstruct_model`: from a float model to a finished DDQ model, without labels."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddq_tf.arguments import check_is
from ddq_tf.backend import backend
from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.files import check_folder
from ddq_tf.graph import flatten
from ddq_tf.graph.inputs import Interface, examples_of
from ddq_tf.grids import align
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.recipes import ReconstructionConfig
from ddq_tf.reconstruction.blocks import Block, blocks_of, num_values
from ddq_tf.reconstruction.blockwise import BlockError, outputs_of, reconstruct_block
from ddq_tf.reconstruction.distill import distill
from ddq_tf.reconstruction.equalize import equalize
from ddq_tf.reconstruction.learning import trainable
from ddq_tf.reconstruction.sensitivity import learning_layers, precision_losses, steps_of
from ddq_tf.reconstruction.streams import Repeated, Rows, Values, check_room
from ddq_tf.reconstruction.tracing import in_batches
from ddq_tf.reconstruction.views import views_of
from ddq_tf.search import DDQModel, activation_budget, best_choice, weight_budget
from ddq_tf.training.kept import Kept, broken, forget, keep
from ddq_tf.transform.calibrate import calibrate_activations, calibrate_kernels
from ddq_tf.transform.quantize import quantize_model

FILE = "reconstruction.npz"
_CALIBRATION_STEPS = 2  # the DDQ model, its equalized channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a reconstruction is.

    Attributes:
        stage: "calibration", "precisions", a block's name, or "distillation".
        done: parts of the calibration, layers with rounded or new kernels, layers and batches
            measured, and steps taken, of all stages.
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
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> tuple[DDQModel, tuple[BlockError, ...]]:
    """Quantizes a float model and trains it on unlabeled inputs to do what the float model does.

    1. `quantize_model`: the DDQ model, with calibrated ranges.
    2. Channels change their scales until rows of kernels are alike (`equalize`, Nagel et al.,
       2019).
    3. Precisions: the best choice within the budget by what each would lose at the network's
       outputs, from the Fisher information of its gates (`sensitivity`). Kernels stay as they are.
    4. Block after block (BRECQ, Li et al., 2021): kernels get, in closed form, the values that
       give from the quantized inputs what the float network gives (GPTAQ, Li et al., 2025), are
       rounded with the correlations of their inputs in mind (GPTQ, Frantar et al., 2022), and
       BatchNorm's means or biases take what shift is left (`rounding.round_block`). With
       `recipe.steps`, the block then learns by gradient to give what it gives in the float network:
       kernels, ranges, levels, BatchNorm's gamma and beta, biases.
    5. The whole network once more, on the distance of its outputs.

    A few hundred inputs and minutes are enough.

    Args:
        model: as for `quantize_model`, with one input and one output.
        images: inputs as the model takes them: an array, or batches of them (with or without
            labels, which are not used). All are kept in memory.
        config: target, budget and the rest. By default `DDQConfig(narrow_range=False)`.
        recipe: how to train.
        on_progress: called after each step.
        checkpoint_dir: a folder to keep the state in after each block: the same call after an
            interruption goes on behind the last one, to the same model. What is kept stays until
            `forget_reconstruction`.

    Returns:
        The DDQ model, ready to export, and what each block learned.

    Raises:
        DDQError: as `quantize_model`; if the model has several inputs or outputs; if views are
            asked for of inputs that are no images; if steps by gradient are on
            another backend than TensorFlow; if what is kept is of other settings or inputs.
    """
    config = DDQConfig(narrow_range=False) if config is None else config
    recipe = ReconstructionConfig() if recipe is None else recipe
    check_is("config", config, DDQConfig, cure="; it needs no labels")
    check_is("recipe", recipe, ReconstructionConfig)
    _check_backend(recipe)
    interface = single_input(model)
    parts = [array for (array,) in examples_of(images, interface, np.iinfo(np.int64).max)]
    examples = Rows(parts)
    if recipe.views > 1 and len(examples.shape) != 4:
        raise DDQError(
            f"views of inputs need images (batch, height, width, channels); set views=1. Received: "
            f"views={recipe.views}, inputs of shape {examples.shape}"
        )
    state = _State(checkpoint_dir, config, recipe, parts)
    quantized = quantize_model(model, config, parts)
    blocks = blocks_of(quantized)
    _check_room(blocks, examples, recipe)
    searches = bool(recipe.search_views and learning_layers(quantized))
    in_blocks = sum(len(block.kernels) + recipe.steps for block in blocks)
    measured = steps_of(quantized, _num_measured(examples, recipe)) if searches else 0
    total = _CALIBRATION_STEPS + measured + in_blocks + recipe.distill_steps
    report = _Reporter(total, on_progress)
    calibrated = report.step("calibration")
    calibrated()
    if recipe.equalize:
        batches = [x for (x,) in examples_of(parts, interface, config.calibration_images)]
        equalize(quantized, batches)
        calibrate_kernels(quantized)
        calibrate_activations(quantized, batches, config.seed, config.activation_calibration)
    calibrated()
    keras.utils.set_random_seed(recipe.seed)
    # Quantizers must learn also in layers that the float model held back.
    with trainable(quantized.layers, True):
        done = blocks[: state.blocks_done]
        if state.is_kept:
            report.skip(measured + sum(len(block.kernels) + recipe.steps for block in done))
        elif searches:
            halves = _halves(examples, recipe)
            _choose_precisions(quantized, blocks, halves, recipe.seed, report.step("precisions"))
            del halves  # and the files of its views
            state.keep(quantized)
        x = views_of(examples, recipe.views, recipe.seed)
        float_stream, stream = _streams_behind(done, x, quantized, state)
        for number, block in enumerate(blocks[state.blocks_done :], state.blocks_done):
            float_stream, stream, error = reconstruct_block(
                block, float_stream, stream, recipe, recipe.seed + number, report.step(block.name)
            )
            state.errors.append(error)
            state.keep(quantized)
        if recipe.distill_steps:
            wanted = in_batches(
                lambda batch: model(batch, training=False),
                model.variables,
                x,
                len(x),
                min(block.batch for block in blocks),
            )
            distill(
                quantized, x, np.concatenate([*wanted]), recipe, [report.callback("distillation")]
            )
    align(quantized)
    return quantized, tuple(state.errors)


def _check_backend(recipe: ReconstructionConfig) -> None:
    """Raises DDQError for what only TensorFlow trains."""
    asked = [name for name in ("steps", "distill_steps") if getattr(recipe, name)]
    if asked and backend() != "tensorflow":
        raise DDQError(
            f"{' and '.join(asked)} of a recipe need Keras on TensorFlow; all else runs on JAX "
            f"too. Received: {backend()!r}. Leave them at 0, or set KERAS_BACKEND=tensorflow"
        )


def _check_room(blocks: list[Block], examples: Rows, recipe: ReconstructionConfig) -> None:
    """Raises DDQError where the folder for temporary files has no room for what is kept there."""
    views, *sizes = [4 * num_values(blocks[0].start)] + [3 * num_values(b.output) for b in blocks]
    most = max(sum(pair) for pair in itertools.pairwise([views, *sizes]))
    check_room(most * len(examples) * recipe.views)


def _streams_behind(
    done: list[Block], inputs: Values, model: DDQModel, state: _State
) -> tuple[Values, Values]:
    """What the float network and the restored model give behind the blocks that are done."""
    float_stream = stream = inputs
    for block in done:  # their kernels are still those of the float model
        float_stream = outputs_of(block, float_stream, of_float=True)
    state.restore(model)
    for block in done:
        stream = outputs_of(block, stream, of_float=False)
    return float_stream, stream


def blocks_kept(folder: str | os.PathLike[str]) -> int | None:
    """Returns how many blocks an unfinished reconstruction has done; None if there is none.

    Raises:
        DDQError: if its file is broken.
    """
    kept = Kept.read(Path(folder) / FILE)
    return None if kept is None else len(_errors(kept))


def _errors(kept: Kept) -> list[BlockError]:
    """Of the blocks that are done."""
    try:
        return [BlockError(**error) for error in kept.notes["errors"]]
    except (KeyError, TypeError) as error:
        raise broken(kept.path, error) from error


def forget_reconstruction(folder: str | os.PathLike[str]) -> None:
    """Deletes what `reconstruct_model` keeps in a folder, and the folder if it is empty then."""
    forget(folder, FILE)


class _State:
    """What is done, and kept after each block.

    Attributes:
        is_kept: whether an earlier call has left something: precisions at least.
        errors: of the blocks that are done.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        config: DDQConfig,
        recipe: ReconstructionConfig,
        examples: list[np.ndarray],
    ) -> None:
        if folder is not None:
            check_folder(folder)
        self._path = None if folder is None else Path(folder) / FILE
        self._settings = {
            **config.fingerprint(),
            **{f"recipe.{name}": v for name, v in dataclasses.asdict(recipe).items()},
            "inputs": _hashed(examples),
        }
        self._kept = None if self._path is None else Kept.read(self._path)
        self.is_kept = self._kept is not None
        self.errors: list[BlockError] = []
        if self._kept is not None:
            self._kept.check_settings(self._settings)
            self.errors = _errors(self._kept)

    @property
    def blocks_done(self) -> int:
        """How many blocks are done."""
        return len(self.errors)

    def restore(self, model: DDQModel) -> None:
        """Gives the model the weights that were kept."""
        if self._kept is not None:
            self._kept.assign_to(model.variables)

    def keep(self, model: DDQModel) -> None:
        """Keeps the model's weights."""
        if self._path is not None:
            errors = [dataclasses.asdict(error) for error in self.errors]
            keep(self._path, model.variables, notes={"errors": errors}, settings=self._settings)


def _hashed(parts: list[np.ndarray]) -> str:
    """Tells inputs apart, however they are cut into batches."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes())
    return found.hexdigest()


def _num_measured(examples: Rows, recipe: ReconstructionConfig) -> int:
    """How many inputs precisions are measured on: half of them, each several times."""
    return max(len(examples) // 2, 1) * recipe.search_views


def _halves(examples: Rows, recipe: ReconstructionConfig) -> tuple[Values, Values]:
    """Every second input, to round kernels for, and the others, to measure."""
    rounded_for = examples.every_second(0)
    measured_on = examples.every_second(1) if len(examples) > 1 else examples
    if recipe.views == 1:  # the inputs as they are, perhaps no images
        return rounded_for, Repeated(measured_on, recipe.search_views)
    return (
        views_of(rounded_for, recipe.views, recipe.seed),
        views_of(measured_on, recipe.search_views, recipe.seed + 1),
    )


def _choose_precisions(
    model: DDQModel,
    blocks: list[Block],
    halves: tuple[Values, Values],
    seed: int,
    on_step: Callable[[], None],
) -> None:
    """Brings the precisions into force, for good, that lose least within the budgets."""
    losses = precision_losses(model, blocks, *halves, seed, on_step)
    config = model.ddq_config
    for budget in (weight_budget(model, config), activation_budget(model, config)):
        if budget is None:
            continue
        options = best_choice(budget, [_of_choices(layer, losses) for layer in budget.layers])
        for layer, option in zip(budget.layers, options, strict=True):
            quantizer = layer.quantizer
            single = option.size == 1
            quantizer.choose(option.item() if single else option.reshape(quantizer.choice.shape))
    for layer in [*weighted_layers(model), *activation_layers(model)]:
        layer.quantizer.frozen.assign(True)


def _of_choices(layer: Any, losses: dict[str, np.ndarray]) -> np.ndarray:
    """What a layer's precisions lose, a column for each precision that it is free to choose."""
    if layer.name not in losses:
        return np.zeros((1, 1))
    loss = losses[layer.name]
    return loss if layer.quantizer.channel_precision else loss.sum(axis=1, keepdims=True)


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

    def skip(self, steps: int) -> None:
        """Counts steps that an earlier call has taken."""
        self._done += steps

    def callback(self, stage: str) -> keras.callbacks.Callback:
        """Returns a Keras callback that counts the steps of a stage."""
        took = self.step(stage)
        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: took())


def single_input(model: Any) -> Interface:
    """Returns what a model of one input and one output takes.

    Raises:
        DDQError: if it has others.
    """
    graph = flatten(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise DDQError(
            f"model {model.name!r}: reconstruction needs one input and one output. Received: "
            f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        )
    return Interface(model)
