"""Accuracies and the comparison of file and model, with progress."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddq_tf.answers import threshold_of
from ddq_tf.data import Range
from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Runner, is_for_micro
from ddq_tf.export.measurement import evaluate, meter_of, runner_for, tflite_accuracy
from ddq_tf.export.metadata_reader import read_metadata
from ddq_tf.export.stream import states_of
from ddq_tf.export.tflm import MicroRunner
from ddq_tf.export.tflm_verification import MicroVerification, verify_tflm
from ddq_tf.export.verification import Verification, verify
from ddq_tf.jobs.images import Images, num_classes_of, open_for_model, open_images
from ddq_tf.jobs.loading import load_ddq_model, load_model, read_notes
from ddq_tf.jobs.pixels import pixels_of_file
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import DataOptions
from ddq_tf.quiet import silenced
from ddq_tf.search import DDQModel
from ddq_tf.training import accuracy, answers_of, output_activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOutcome:
    """A model as a job made it.

    Attributes:
        model: itself.
        path: the file it was saved in.
        images: the data it learned from.
    """

    model: keras.Model = dataclasses.field(repr=False)
    path: Path
    images: Images = dataclasses.field(repr=False)

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        return {
            "path": str(self.path),
            "data": self.images.dataset.name,
            "input_range": self.images.input_range,
            "channels": self.images.channels,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDQOutcome(ModelOutcome):
    """A DDQ model as a job made it."""

    model: DDQModel = dataclasses.field(repr=False)

    @property
    def average_bits(self) -> float:
        """Stored bits per weight."""
        return self.model.weight_budget.average_bits

    @property
    def weights_size_bytes(self) -> int:
        """Stored bytes of all quantized weights."""
        return self.model.weight_budget.used_bits // 8

    @property
    def bits(self) -> dict[str, float]:
        """The precision by layer, of channels with their own the mean."""
        return {layer.name: layer.quantizer.mean_bits for layer in self.model.weight_budget.layers}

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        return {
            **super().results,
            "average_bits": self.average_bits,
            "weights_size_bytes": self.weights_size_bytes,
            "bits": self.bits,
        }


def keras_accuracy(model: keras.Model, images: Images, split: str, screen: Screen) -> float:
    """Returns the accuracy of a Keras model, in [0, 1]."""
    return accuracy(model, _tracked(images, split, screen, f"{model.name} in Keras"))


def litert_accuracy(content: bytes, images: Images, split: str, screen: Screen) -> float:
    """Returns the accuracy of a .tflite file's content in its runtime, in [0, 1]."""
    words = f"file in {_runtime(content)}"
    return tflite_accuracy(content, _tracked(images, split, screen, words))


def compare(
    model: DDQModel,
    content: bytes,
    images: Images,
    split: str,
    screen: Screen,
    *,
    target: str | None = None,
) -> Verification:
    """Compares a DDQ model with its file; see `ddq_tf.export.verify`."""
    return verify(
        model, content, _tracked(images, split, screen, "Keras against LiteRT"), target=target
    )


def _runtime(content: bytes) -> str:
    """The runtime of a .tflite file's content."""
    return "TFLite Micro" if is_for_micro(content) else "LiteRT"


def _tracked(images: Images, split: str, screen: Screen, words: str) -> Any:
    return screen.track(
        images.batches(split), words, count=images.count(split), per_item=images.batch_size
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The accuracy of a model file.

    Attributes:
        path: the file.
        runtime: "Keras", "LiteRT" or "TFLite Micro".
        size_bytes: of the file.
        data: it was measured on.
        split: likewise.
        input_range: that was used.
        channels: likewise.
        crop: likewise.
        resize: likewise.
        sources: who says these four, in words, as far as that is known: of a .tflite file.
        num_samples: images.
        metrics: by name; an accuracy in [0, 1].
    """

    path: str
    runtime: str
    size_bytes: int
    data: str
    split: str
    input_range: Range
    channels: str
    crop: float
    resize: str
    sources: Mapping[str, str]
    num_samples: int
    metrics: dict[str, float]

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        fields = dataclasses.asdict(self)
        return {**fields, **fields.pop("metrics")}


def evaluate_file(
    path: str | os.PathLike[str],
    options: DataOptions,
    *,
    metrics: Sequence[Any] = ("accuracy",),
    split: str = "test",
    screen: Screen | None = None,
) -> Evaluation:
    """Measures a .keras, .h5 or .tflite file, of one output, on labelled data.

    Args:
        path: the file.
        options: the data.
        metrics: Keras metrics, or their names.
        split: "train", "val" or "test".
        screen: where to tell what is going on.

    Raises:
        DDQError: if file, data or a metric cannot be used, or the package tflite-micro is missing
            where it is needed.
    """
    screen, path, runtime = screen or Screen(), Path(path), "Keras"
    sources: Mapping[str, str] = {}
    for metric in metrics:
        meter_of(metric, None)
    if path.suffix.lower() == ".tflite":
        content = read_tflite(path, micro=True)
        runtime = _runtime(content)
        images, sources = _open_for_tflite(content, options)
        words = f"file in {runtime}"
        measured = evaluate(content, _tracked(images, split, screen, words), metrics)
    else:
        model = load_model(path)
        images = open_for_model(options, model, read_notes(path))
        words = f"{model.name} in Keras"
        measured = _measured(model, _tracked(images, split, screen, words), metrics)
    return Evaluation(
        path=str(path),
        runtime=runtime,
        size_bytes=path.stat().st_size,
        data=options.spec,
        split=split,
        input_range=images.input_range,
        channels=images.channels,
        **dataclasses.asdict(images.fit),
        sources=sources,
        num_samples=images.count(split),
        metrics=measured,
    )


def _measured(model: keras.Model, batches: Any, metrics: Sequence[Any]) -> dict[str, float]:
    """What metrics say of a Keras model, which need not be compiled."""
    threshold = threshold_of(output_activation(model))
    meters = [meter_of(metric, threshold) for metric in metrics]
    for labels, outputs in answers_of(model, batches):
        for _, meter in meters:
            meter.update_state(np.asarray(labels), outputs)
    return {name: float(meter.result()) for name, meter in meters}


def verify_file(
    model_path: str | os.PathLike[str],
    file_path: str | os.PathLike[str],
    options: DataOptions,
    *,
    split: str = "test",
    target: str | None = None,
    screen: Screen | None = None,
) -> Verification | MicroVerification:
    """Compares a saved DDQ model with its exported file, in the file's runtime.

    Args:
        model_path: the DDQ .keras file.
        file_path: the .tflite file.
        options: the data to run both on.
        split: "train", "val" or "test".
        target: what the file was written for; None for the model's own.
        screen: where to tell what is going on.

    Raises:
        DDQError: if a file or the data cannot be used, the file is of another model, or the package
            tflite-micro is missing where it is needed.
    """
    model = load_ddq_model(model_path)
    content = read_tflite(file_path, micro=True)
    images = open_for_model(options, model, read_notes(model_path), labelled=False)
    if is_for_micro(content):
        words = "Keras against TFLite Micro"
        return verify_tflm(model, content, _tracked(images, split, screen or Screen(), words))
    return compare(model, content, images, split, screen or Screen(), target=target)


def read_tflite(path: str | os.PathLike[str], *, micro: bool = False) -> bytes:
    """Returns the content of a .tflite file that runs.

    Args:
        path: the file.
        micro: whether a file for TFLite Micro, which LiteRT does not run, will do.

    Raises:
        DDQError: naming the file, if it is missing or none.
    """
    path = Path(path)
    if not path.is_file():
        raise DDQError(f"the .tflite file does not exist. Received: {str(path)!r}")
    content = path.read_bytes()
    try:
        _any_runner(content) if micro else load_quietly(content)
    except DDQError as error:
        raise DDQError(f"cannot run {str(path)!r}: {error}") from error
    return content


def load_quietly(content: bytes) -> Runner:
    """Returns a runner for a .tflite file's content; LiteRT's greeting, once a process, is lost.

    Raises:
        DDQError: if it is none.
    """
    with silenced():
        return Runner(content)


def _any_runner(content: bytes) -> Runner | MicroRunner:
    """The interpreter of a .tflite file's content, without LiteRT's greeting."""
    with silenced():
        return runner_for(content)


def _open_for_tflite(content: bytes, options: DataOptions) -> tuple[Images, Mapping[str, str]]:
    """Opens a data set for a file; also returns who says how pictures become its inputs."""
    runner = _any_runner(content)
    if len(runner.inputs) > 1 and states_of(content):
        raise DDQError(
            "an accuracy needs the file of the whole sequence. Received: a streaming file, of one "
            "time step. Export without --streaming, which gives the same codes; `ddq verify` "
            "proves them"
        )
    metadata = read_metadata(content, with_labels=False)
    pixels = pixels_of_file(options, metadata, runner.input)
    images = open_images(
        options,
        input_shape=(None, *runner.input.shape[1:]),
        num_classes=num_classes_of("the file", {n: t.shape for n, t in runner.outputs.items()}),
        pixels=pixels,
    )
    return images, pixels.sources
