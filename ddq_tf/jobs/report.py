"""`ddq report`: everything known of a DDQ model on one page."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import keras

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.exporter import export_tflite, min_runtime
from ddq_tf.export.sizes import code_entropy, deflated, itemize
from ddq_tf.export.stock import stock_int8
from ddq_tf.graph.functional import functional_of
from ddq_tf.jobs import collect
from ddq_tf.jobs.images import Images, is_classifier, open_for_model
from ddq_tf.jobs.loading import check_output, load_ddq_model, load_float_model, read_notes
from ddq_tf.jobs.measure import compare, keras_accuracy, litert_accuracy, load_quietly, read_tflite
from ddq_tf.jobs.quantize import Quantized, history_path, load_history
from ddq_tf.jobs.record import now, versions
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import DataOptions
from ddq_tf.report import (
    DDQ_KERAS_LABEL,
    DDQ_LITERT_LABEL,
    ERROR_NAME,
    FLOAT_LABEL,
    STOCK_LABEL,
    Agreement,
    ModelVariant,
    Report,
    html,
    plots,
    save,
)
from ddq_tf.search import DDQModel
from ddq_tf.targets import get_target

_FLOAT_BYTES = 4
_STOCK_CALIBRATION = 256  # images
_MAX_COMPARED = 3  # so that curves have different colours


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a report is about.

    Attributes:
        model: the DDQ model.
        content: of its .tflite file; None to export it for the occasion.
        target: that the file was written for; None for the model's own.
        float_model: that it came from, if at hand.
        images: to measure on; None measures sizes only.
        split: of the images.
        history: per-epoch values of the training.
        bits_history: per-epoch precisions of the training.
        error_history: per-epoch quantization errors of the training.
        compared_errors: see `compared_errors`.
        seed: of the training.
    """

    model: DDQModel
    content: bytes | None = None
    target: str | None = None
    float_model: keras.Model | None = None
    images: Images | None = None
    split: str = "test"
    history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    bits_history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    error_history: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    compared_errors: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    seed: int | None = None


def make_report(
    subject: Subject, *, command: str = "", title: str = "", screen: Screen | None = None
) -> Report:
    """Measures everything that a report says.

    Args:
        subject: what it is about.
        command: that made it.
        title: its headline; "" for one that names the model.
        screen: where to tell what is going on.

    Raises:
        DDQError: if the file is of another model, or the baseline cannot be made.
    """
    screen, model = screen or Screen(), subject.model
    content = subject.content or _exported(model, subject.target)
    load_quietly(content)
    theirs = None if subject.float_model is None else _shapes(subject.float_model)
    if theirs is not None and theirs != _shapes(model):
        raise DDQError(
            f"the float model must be the one that {model.name!r} came from. Received: a model "
            f"from {theirs[0]} to {theirs[1]}"
        )
    sizes, runtime = itemize(content), min_runtime(content)
    target = get_target(subject.target) if subject.target else None
    return Report(
        title=title or f"{model.name}, quantized",
        created=now(),
        model_name=model.name,
        dataset=_data_words(subject),
        target=subject.target or model.ddq_config.target,
        budget=collect.budgets_text(model),
        rules=collect.rule_texts(model.ddq_config),
        budget_average_bits=collect.budget_average_bits(model),
        versions=versions(),
        seed=subject.seed,
        command=command,
        layers=collect.layer_reports(model, target),
        activations=collect.activation_reports(model),
        variants=_variants(subject, content, screen),
        agreement=_agreement(subject, content, screen),
        min_runtime=runtime and f"LiteRT {runtime}",
        floor_bytes=sizes.floor,
        above_floor_bytes=sizes.above_floor,
        code_entropy_bytes=code_entropy(content),
        history=subject.history,
        bits_history=subject.bits_history,
        error_history=subject.error_history,
        compared_errors=subject.compared_errors,
    )


def _shapes(model: keras.Model) -> tuple[list[Any], list[Any]]:
    """Of a model's inputs and outputs, in order."""
    functional = functional_of(model)
    return [tuple(t.shape) for t in functional.inputs], [tuple(t.shape) for t in functional.outputs]


def subject_of_files(
    path: str | os.PathLike[str],
    *,
    tflite: str | os.PathLike[str] | None = None,
    float_model: str | os.PathLike[str] | None = None,
    options: DataOptions | None = None,
    split: str = "test",
    target: str | None = None,
    compare: str | None = None,
) -> Subject:
    """Loads what a report is about.

    Args:
        path: the DDQ .keras file; its history is read from the file beside it.
        tflite: its exported file, or None.
        float_model: the float .keras or .h5 file that it came from, or None.
        options: the data, or None to measure sizes only.
        split: to measure on.
        target: that the .tflite file was written for; None for the model's own.
        compare: see `compared_errors`.

    Raises:
        DDQError: if a file or the data cannot be used.
    """
    others = compared_errors(compare) if compare else {}
    model, notes = load_ddq_model(path), read_notes(path)
    past, labelled = load_history(path), is_classifier(model)
    return Subject(
        model=model,
        content=read_tflite(tflite) if tflite else None,
        target=target,
        float_model=load_float_model(float_model) if float_model else None,
        images=open_for_model(options, model, notes, labelled=labelled) if options else None,
        split=split,
        history=past.history,
        bits_history=past.bits_history,
        error_history=past.error_history,
        compared_errors=others,
        seed=notes.get("seed"),
    )


def compared_errors(words: str) -> dict[str, tuple[float, ...]]:
    """Returns the quantization errors of other trainings, per epoch, by label.

    Args:
        words: LABEL=FILE.keras, up to three with commas between; read are the training histories
            beside the files.

    Raises:
        DDQError: if they do not read so, or a training recorded no errors.
    """
    pairs = [
        (label.strip(), path) for label, _, path in (p.partition("=") for p in words.split(","))
    ]
    paths = {label: path for label, path in pairs if label and path.endswith(".keras")}
    if len(paths) != len(pairs) or len(pairs) > _MAX_COMPARED:
        raise DDQError(
            f"trainings to compare must read LABEL=FILE.keras, up to {_MAX_COMPARED}, with commas "
            f"between and different labels. Received: {words!r}"
        )
    histories = {label: load_history(path).history for label, path in paths.items()}
    raise_all(
        "trainings to compare need quantization errors in the history beside the model:",
        (
            f"{label!r}: none in {str(history_path(path))!r}"
            for label, path in paths.items()
            if ERROR_NAME not in histories[label]
        ),
    )
    return {label: history[ERROR_NAME] for label, history in histories.items()}


def layers_report(quantized: Quantized) -> Report:
    """Returns what a training came to, without a file."""
    model, images = quantized.model, quantized.images
    split, accuracy = list(quantized.accuracy.items())[-1]
    variant = ModelVariant(
        label=DDQ_KERAS_LABEL,
        accuracy=accuracy,
        num_samples=images.count(split),
        average_bits=quantized.average_bits,
    )
    return Report(
        title=f"{model.name}, quantized",
        created=now(),
        model_name=model.name,
        dataset=f"{images.dataset.name}, {split} split",
        target=model.ddq_config.target,
        budget=collect.budgets_text(model),
        rules=collect.rule_texts(model.ddq_config),
        layers=collect.layer_reports(model),
        variants=(variant,),
    )


def check_report_path(out: str | os.PathLike[str]) -> Path:
    """Returns the path of an HTML report that can be written, or raises DDQError."""
    return check_output(out, ".html")


def save_report(report: Report, out: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes a report as HTML and, beside it, as JSON; returns both paths."""
    page = check_report_path(out)
    html.save(report, page)
    save(report, page.with_suffix(".json"))
    return page, page.with_suffix(".json")


def check_figures_folder(folder: str | os.PathLike[str]) -> Path:
    """Makes a folder for figures, or raises DDQError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DDQError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
    return Path(folder)


def save_figures(report: Report, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes levels.png, bits.png and, if the training recorded errors, error.png."""
    folder = check_figures_folder(folder)
    return [
        plots.save_png(figure, folder / f"{name}.png")
        for name, figure in plots.figures(report).items()
    ]


def _data_words(subject: Subject) -> str:
    if subject.images is None:
        return ""
    return f"{subject.images.dataset.name}, {subject.split} split"


def _exported(model: DDQModel, target: str | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return export_tflite(model, Path(folder) / "model.tflite", target=target).path.read_bytes()


def _agreement(subject: Subject, content: bytes, screen: Screen) -> Agreement | None:
    if subject.images is None:
        return None
    verification = compare(
        subject.model, content, subject.images, subject.split, screen, target=subject.target
    )
    return collect.agreement(verification)


def _variants(subject: Subject, content: bytes, screen: Screen) -> tuple[ModelVariant, ...]:
    """Returns all forms of the model, measured; accuracies are those of classifiers."""
    images, split = subject.images, subject.split
    if images is not None and not is_classifier(subject.model):
        screen.say("no accuracy is measured: the model is no classifier of images")
        images = None
    count = images.count(split) if images else None
    average_bits = subject.model.weight_budget.average_bits
    variants = []
    if subject.float_model is not None:
        variants.append(_float_variant(subject.float_model, images, split, screen))
    if subject.float_model is not None and subject.images is not None:
        screen.say("converting the float model with the stock int8 converter")
        stock = stock_int8(subject.float_model, subject.images.calibration(_STOCK_CALIBRATION))
        variants.append(
            ModelVariant(
                label=STOCK_LABEL,
                size_bytes=len(stock),
                deflate_bytes=deflated(stock),
                accuracy=litert_accuracy(stock, images, split, screen) if images else None,
                num_samples=count,
                average_bits=8.0,
            )
        )
    variants.append(
        ModelVariant(
            label=DDQ_KERAS_LABEL,
            accuracy=keras_accuracy(subject.model, images, split, screen) if images else None,
            num_samples=count,
            average_bits=average_bits,
        )
    )
    variants.append(
        ModelVariant(
            label=DDQ_LITERT_LABEL,
            size_bytes=len(content),
            deflate_bytes=deflated(content),
            accuracy=litert_accuracy(content, images, split, screen) if images else None,
            num_samples=count,
            average_bits=average_bits,
        )
    )
    return tuple(variants)


def _float_variant(
    model: keras.Model, images: Images | None, split: str, screen: Screen
) -> ModelVariant:
    """The float model; its size is that of its parameters in float32."""
    return ModelVariant(
        label=FLOAT_LABEL,
        size_bytes=_FLOAT_BYTES * model.count_params(),
        accuracy=keras_accuracy(model, images, split, screen) if images else None,
        num_samples=images.count(split) if images else None,
        average_bits=32.0,
    )
