"""`ddq reconstruct`: a float model becomes a DDQ model without labels."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import Any

import keras
import numpy as np

from ddq_tf.answers import threshold_of
from ddq_tf.config import DDQConfig
from ddq_tf.jobs import plan
from ddq_tf.jobs.images import Images, open_images
from ddq_tf.jobs.loading import check_output, load_float_model, read_notes, save_model
from ddq_tf.jobs.measure import DDQOutcome
from ddq_tf.jobs.pixels import pixels_of_model
from ddq_tf.jobs.screen import Screen
from ddq_tf.layers import weighted_layers
from ddq_tf.pictures import DataOptions
from ddq_tf.reconstruction import (
    BlockError,
    Progress,
    ReconstructionConfig,
    reconstruct_model,
)
from ddq_tf.reconstruction.reconstruct import single_input
from ddq_tf.search import DDQModel
from ddq_tf.training import answers_of, output_activation
from ddq_tf.transform.quantize import examine, in_float32, rebuilt

_TINY = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How near a model's outputs are to the float model's, on inputs that it did not learn from.

    Attributes:
        num_samples: how many inputs.
        top1_agreement: share with the same largest output, in [0, 1].
        kl_divergence: mean of sum p (ln(p + 1e-6) - ln(c + 1e-6)) in nats, p the float model's
            probabilities and c this model's; None where outputs are no probabilities.
    """

    num_samples: int
    top1_agreement: float
    kl_divergence: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstructed(DDQOutcome):
    """A reconstructed DDQ model and what was measured of it.

    Attributes:
        fidelity: on the validation and test images together.
        block_errors: what each block's new kernels are worth.
    """

    fidelity: Fidelity
    block_errors: tuple[BlockError, ...] = dataclasses.field(repr=False)

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        return {
            **super().results,
            "num_learned_from": self.images.count("train"),
            "fidelity": dataclasses.asdict(self.fidelity),
            "block_errors": [dataclasses.asdict(error) for error in self.block_errors],
        }


def reconstruct_float(
    source: str | os.PathLike[str] | keras.Model,
    options: DataOptions,
    ddq: DDQConfig,
    recipe: ReconstructionConfig,
    *,
    out: str | os.PathLike[str],
    checkpoint_dir: str | os.PathLike[str] | None = None,
    screen: Screen | None = None,
) -> Reconstructed:
    """Quantizes a float model on unlabeled images and saves the result.

    Learns from the training images and measures on all others.

    Args:
        source: the float model, or its .keras or .h5 file.
        options: the data; labels are not used.
        ddq: target, budget and the rest.
        recipe: how to train.
        out: the .keras file to write.
        checkpoint_dir: see `reconstruct_model`.
        screen: where to tell what is going on.

    Raises:
        DDQError: if model, data, budget or file cannot be had; before any training.
    """
    screen, out = screen or Screen(), check_output(out, ".keras")
    is_model = isinstance(source, keras.Model)
    model = source if is_model else load_float_model(source)
    noted = {} if is_model else read_notes(source)
    images = _open(options, model, noted)
    screen.heading(
        f"Reconstruction of {model.name} from {images.count('train'):,} images of "
        f"{images.dataset.name}"
    )
    with in_float32():
        _, graph = examine(model, ddq.resolved_target).checked()
        draft = rebuilt(graph, ddq, model).model
    screen.table(
        [
            *plan.data_rows(images),
            *plan.quantization_rows(draft, ddq),
            *_recipe_rows(draft, recipe, images.count("train")),
        ]
    )
    forecast = plan.ProgressForecast(screen)
    learned_from = [batch for batch, _ in images.batches("train")]
    with screen.bar() as show:

        def tell(progress: Progress) -> None:
            show(progress.stage, progress.done, progress.total)
            if progress.stage != "calibration":
                forecast.update(progress.done, progress.total)

        quantized, errors = reconstruct_model(
            model,
            learned_from,
            ddq,
            recipe,
            on_progress=tell,
            checkpoint_dir=checkpoint_dir,
        )
    save_model(quantized, out, images.notes)
    return Reconstructed(
        model=quantized,
        path=out,
        images=images,
        fidelity=_fidelity(model, quantized, images),
        block_errors=errors,
    )


def _recipe_rows(model: DDQModel, recipe: ReconstructionConfig, images: int) -> list[plan.Row]:
    """How much there is to do."""
    kernels = len(weighted_layers(model))
    views, learned_from = plan.counted(recipe.views, "view"), plan.counted(images, "image")
    words = f"{plan.counted(kernels, 'kernel')} in closed form, on {views} of {learned_from}"
    if recipe.steps:
        words += f"; then {plan.counted(recipe.steps, 'step')} for each block"
    if recipe.distill_steps:
        words += f"; then {recipe.distill_steps:,} of the whole network"
    return [("reconstruction", words), ("time", "told once the first steps are timed")]


def fidelity_of(
    wanted: np.ndarray, given: np.ndarray, *, probabilities: bool, threshold: float = 0.0
) -> Fidelity:
    """Compares outputs with the float model's.

    Args:
        wanted: the float model's, (inputs, classes), or of each pixel.
        given: likewise.
        probabilities: whether those of a row add up to 1.
        threshold: that parts two classes where there is one value in a row.
    """
    same = wanted.argmax(axis=-1) == given.argmax(axis=-1)
    if wanted.shape[-1] == 1:
        same = (wanted > threshold) == (given > threshold)
    ratios = np.log(wanted + _TINY) - np.log(given + _TINY) if probabilities else None
    return Fidelity(
        num_samples=len(wanted),
        top1_agreement=float(np.mean(same)),
        kl_divergence=None if ratios is None else float(np.mean(np.sum(wanted * ratios, axis=-1))),
    )


def _open(options: DataOptions, model: keras.Model, notes: dict[str, Any]) -> Images:
    interface = single_input(model)
    pixels = pixels_of_model(options, notes, model)
    return open_images(options, input_shape=interface.shapes[0], pixels=pixels)


def _fidelity(model: keras.Model, quantized: DDQModel, images: Images) -> Fidelity:
    def answers(asked: keras.Model) -> np.ndarray:
        batches = itertools.chain.from_iterable(map(images.batches, ("val", "test")))
        return np.concatenate([outputs for _, outputs in answers_of(asked, batches)])

    ends = output_activation(model)
    return fidelity_of(
        answers(model),
        answers(quantized),
        probabilities=ends == "softmax",
        threshold=threshold_of(ends) or 0.0,
    )
