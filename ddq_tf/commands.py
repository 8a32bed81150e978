"""The sub-commands of `ddq`: their flags, and what they print."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from ddq_tf import command_line as line
from ddq_tf.command_flags import (
    AID_FLAGS,
    CODE_FLAGS,
    DDQ_FLAGS,
    OUT_MODEL,
    RECONSTRUCTION_FLAGS,
    RESUME_FLAGS,
    SEED,
    SPLIT,
    TARGET,
    TARGET_WORDS,
    data_flags,
    recipe_flags,
)
from ddq_tf.command_line import COMMON, Call, Command, Outcome, range_words
from ddq_tf.config import TUNE_EPOCHS, TUNE_RATES, DDQConfig
from ddq_tf.runtime_commands import RUNTIME_COMMANDS
from ddq_tf.targets import TARGETS

_TRAIN_RATES = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003}
_TYPES = ("int8", "uint8", "float32")
_MODELS = ("mobilenet_v2", "resnet8")  # those of ddq_tf.models, which takes seconds to import


def _demo(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import text

    result = jobs.run_demo(
        call.flags["out"],
        fast=call.flags["fast"],
        seed=call.flags["seed"],
        command=call.command,
        screen=call.screen,
    )
    call.console.print()
    text.render(result.report, call.console)
    rows = [(name, f"{seconds:.0f} s") for name, seconds in result.wall_s.items()]
    call.screen.table([*rows, ("report", f"{result.folder / 'report.html'}")])
    return Outcome(results=result.results)


def _doctor(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import diagnosis_text

    flags = call.flags
    found = jobs.diagnose(call.files[0], target=flags["target"], measure=flags["measure"])
    diagnosis_text.render(found, call.console)
    return Outcome(results=dataclasses.asdict(found), is_ok=found.can_be_quantized)


def _train(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.training import epochs_kept, forget_training

    flags = call.flags
    options = {
        name: flags[name]
        for name in ("alpha", "output_stride", "batch_norm_momentum")
        if flags[name] is not None
    }
    folder = _work_folder(call, epochs_kept, "epochs")
    trained = jobs.train_float(
        flags["model"],
        _data_options(flags),
        _train_config(flags, _TRAIN_RATES),
        out=flags["out"],
        image_size=flags["image_size"],
        model_options=options,
        augment=flags["augment"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_training(folder)
    call.screen.table(
        [
            ("model", f"{trained.model.name}, {trained.num_params:,} parameters"),
            *_accuracy_rows(trained),
            ("input range", range_words(trained.images.input_range)),
            ("saved", str(trained.path)),
        ],
    )
    return Outcome(results=trained.results)


def _quantize(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.jobs.quantize import history_path
    from ddq_tf.report import text
    from ddq_tf.training import epochs_kept, forget_training

    flags = call.flags
    folder = _work_folder(call, epochs_kept, "epochs")
    quantized = jobs.quantize_float(
        call.files[0],
        _data_options(flags),
        _ddq_config(flags),
        _train_config(flags, TUNE_RATES),
        out=flags["out"],
        augment=flags["augment"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_training(folder)
    call.console.print()
    text.render(jobs.layers_report(quantized), call.console)
    call.screen.table(
        [
            *_accuracy_rows(quantized),
            ("input range", range_words(quantized.images.input_range)),
            ("saved", f"{quantized.path}, {history_path(quantized.path).name}"),
        ],
    )
    return Outcome(results=quantized.results)


def _reconstruct(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.reconstruction import ReconstructionConfig, blocks_kept, forget_reconstruction

    flags = call.flags
    folder = _work_folder(call, blocks_kept, "blocks")
    done = jobs.reconstruct_float(
        call.files[0],
        _data_options(flags),
        _ddq_config(flags),
        ReconstructionConfig(**_fields(ReconstructionConfig, flags)),
        out=flags["out"],
        checkpoint_dir=folder,
        screen=call.screen,
    )
    forget_reconstruction(folder)
    found = done.fidelity
    divergence = "" if found.kl_divergence is None else f", KL {found.kl_divergence:.3f} nats"
    call.screen.table(
        [
            (
                "like the float model",
                f"{_percent(found.top1_agreement)} of {found.num_samples:,} held-out images have "
                f"its answer{divergence}",
            ),
            ("weights", f"{done.weights_size_bytes:,} bytes, {done.average_bits:.2f} bits each"),
            ("input range", range_words(done.images.input_range)),
            ("saved", str(done.path)),
        ],
    )
    return Outcome(results=done.results)


def _export(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.jobs.android import asset_of
    from ddq_tf.jobs.export import export_results

    flags = call.flags
    result = jobs.export_file(
        call.files[0],
        flags["out"],
        target=flags["target"],
        input_type=flags["input_type"],
        output_type=flags["output_type"],
        keep_names=flags["keep_names"],
        labels=flags["labels"],
        input_range=flags["input_range"],
        android=flags["android"],
    )
    results = export_results(result)
    asset = [("asset", str(asset_of(flags["android"])))] if flags["android"] else []
    ops = ", ".join(f"{count} {kind}" for kind, count in results["ops"].items())
    call.screen.table(
        [
            ("saved", str(result.path)),
            *asset,
            ("size", f"{result.size_bytes:,} bytes"),
            ("above floor", _floor_words(result.sizes)),
            ("target", result.target.name),
            ("runs on", f"{result.target.runtime} {result.min_runtime} or later"),
            ("operators", ops),
        ],
    )
    return Outcome(results=results)


def _verify(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.export import MicroVerification
    from ddq_tf.jobs.collect import agreement
    from ddq_tf.report import wording

    flags, least = call.flags, call.flags["min_agreement"]
    found = jobs.verify_file(
        call.files[0],
        call.files[1],
        _data_options(flags),
        split=flags["split"],
        target=flags["target"],
        screen=call.screen,
    )
    if isinstance(found, MicroVerification):
        is_exact, values, lines = found.equals_plain, dataclasses.asdict(found), _micro_lines(found)
        rule = "all output codes those of the plain int8 file"
    else:
        record = agreement(found)
        is_exact, values = found.weight_codes_identical, record.to_dict()
        lines, rule = wording.agreement_lines(record), "all weight codes equal"
    is_ok = is_exact and found.top1_agreement >= least
    for flawless, sentence in lines:
        call.console.print(Text(f"{'ok  ' if flawless else 'note'} {sentence}"))
    verdict = "passed" if is_ok else "FAILED"
    rule = f"{rule}, at least {wording.percent(least)} equal answers"
    call.console.print(Text(f"{verdict}: {rule}", style="bold green" if is_ok else "bold red"))
    return Outcome(results={**values, "passed": is_ok}, is_ok=is_ok)


def _micro_lines(found: Any) -> list[tuple[bool, str]]:
    """What the verification in TFLite Micro found: whether each finding is flawless, its words."""
    same = round(found.top1_agreement * found.num_samples)
    twins = (
        (found.equals_plain, "the plain int8 file in TFLite Micro"),
        (found.equals_reference, "LiteRT's reference kernels"),
    )
    return [
        (
            found.top1_agreement == 1,
            f"In TFLite Micro the file gives the trained model's answer for {same:,} of "
            f"{found.num_samples:,} samples ({_percent(found.top1_agreement)}).",
        ),
        (
            found.max_lsb == 0,
            f"{_percent(found.equal_codes_share)} of the output codes are the trained model's; the "
            f"largest difference is {found.max_lsb} of the output's steps.",
        ),
        *(
            (is_equal, f"{'All' if is_equal else 'Not all'} output codes are those of {words}.")
            for is_equal, words in twins
            if is_equal is not None
        ),
    ]


def _evaluate(call: Call) -> Outcome:
    from ddq_tf import jobs

    evaluation = jobs.evaluate_file(
        call.files[0],
        _data_options(call.flags),
        metrics=call.flags["metrics"].split(","),
        split=call.flags["split"],
        screen=call.screen,
    )
    sources = evaluation.sources
    range_from = [sources["input_range"]] if sources else []
    call.screen.table(
        [
            ("model", f"{evaluation.path}, {evaluation.size_bytes:,} bytes, {evaluation.runtime}"),
            ("data", f"{evaluation.data}, {evaluation.split} split"),
            (
                "pictures",
                line.picture_words(
                    evaluation.crop, evaluation.resize, evaluation.channels, sources
                ),
            ),
            ("input range", ", ".join([range_words(evaluation.input_range), *range_from])),
            *(
                (
                    name.replace("_", " "),
                    f"{_percent(value) if name.endswith('accuracy') else f'{value:.4g}'} "
                    f"of {evaluation.num_samples:,} images",
                )
                for name, value in evaluation.metrics.items()
            ),
        ],
    )
    return Outcome(results=evaluation.results)


def _report(call: Call) -> Outcome:
    from ddq_tf import jobs
    from ddq_tf.report import text

    flags, path = call.flags, call.files[0]
    jobs.check_report_path(flags["out"])
    if flags["png_dir"]:
        jobs.check_figures_folder(flags["png_dir"])
    subject = jobs.subject_of_files(
        path,
        tflite=flags["tflite"],
        float_model=flags["float"],
        options=_data_options(flags) if flags["data"] else None,
        split=flags["split"],
        target=flags["target"],
        compare=flags["compare"],
    )
    report = jobs.make_report(subject, command=call.command, screen=call.screen)
    page, values = jobs.save_report(report, flags["out"])
    text.render(report, call.console)
    call.screen.table([("saved", f"{page}, {values.name}")])
    if flags["png_dir"]:
        files = jobs.save_figures(report, flags["png_dir"])
        call.screen.table([("figures", ", ".join(map(str, files)))])
    return Outcome(results=report.to_dict())


def _data_options(flags: Mapping[str, Any]) -> Any:
    from ddq_tf.jobs import DataOptions

    return DataOptions(
        spec=flags["data"],
        input_range=flags["input_range"],
        mean=flags["mean"],
        std=flags["std"],
        channels=flags["channels"],
        crop=flags["crop"],
        resize=flags["resize"],
        batch_size=flags["batch_size"],
        limit=flags["limit"],
    )


def _reconstruction_ddq_flags() -> tuple[line.Flag, ...]:
    """The flags of a DDQ model as reconstruction takes them: no training, full grids."""
    return tuple(
        dataclasses.replace(flag, default=False) if flag.name == "narrow_range" else flag
        for flag in DDQ_FLAGS
        if flag.name != "search_fraction"
    )


def _ddq_config(flags: Mapping[str, Any]) -> DDQConfig:
    return DDQConfig(
        **{
            **_fields(DDQConfig, flags),
            "budget": None if flags["budget"] == "none" else flags["budget"],
            "per_channel": not flags["per_tensor"],
        }
    )


def _work_folder(call: Call, kept: Callable[[Path], int | None], units: str) -> Path:
    from ddq_tf import jobs

    out, folder, resume = (call.flags[name] for name in ("out", "checkpoint_dir", "resume"))
    return jobs.work_folder(out, folder, kept, units, resume=resume, screen=call.screen)


def _train_config(flags: Mapping[str, Any], rates: Mapping[str, float]) -> Any:
    from ddq_tf.training import TrainConfig

    rate = rates[flags["optimizer"]]
    return TrainConfig(**{"learning_rate": rate, **_fields(TrainConfig, flags)})


def _fields(config: Any, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the flags given that are named after fields of a configuration."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in flags.items() if name in names and value is not None}


def _accuracy_rows(result: Any) -> list[tuple[str, str]]:
    return [
        (f"{split} accuracy", f"{_percent(share)} of {result.images.count(split):,} images")
        for split, share in result.accuracy.items()
    ]


def _percent(share: float) -> str:
    from ddq_tf.report import wording

    return wording.percent(share)


def _floor_words(sizes: Any) -> str:
    items = ", ".join(
        f"{kind.replace('_', ' ')} {size:,}" for kind, size in sizes.above_floor.items() if size
    )
    return f"{sizes.total - sizes.floor:,} bytes ({_percent(sizes.above_floor_share)}): {items}"


_ALL = (
    Command(
        name="demo",
        summary="The whole way on scikit-learn's digits, in minutes.",
        notes=(
            "Trains MobileNetV2 (alpha 0.35), learns 4 and 8 bit precisions within 60 % of the "
            "int8 bytes, exports, verifies, and compares with float and stock int8. Interrupted, "
            "the same command resumes the training that was under way."
        ),
        flags=(
            line.text("out", "FOLDER", "for models, file and report", "runs/demo"),
            line.switch("fast", "a third of the training: shows the way, not the accuracy"),
            SEED,
            *COMMON,
        ),
        example="ddq demo --out=runs/demo",
        run=_demo,
    ),
    Command(
        name="train",
        summary="Train a float model from scratch.",
        flags=(
            *data_flags(batch_size=128, range_by="-1,1 (resnet8: 0,255)"),
            OUT_MODEL,
            line.choice("model", "which network", _MODELS, "mobilenet_v2"),
            line.number("alpha", "WIDTH", "width multiplier (mobilenet_v2)"),
            line.integer(
                "output_stride", "8|16|32", "how far images shrink (mobilenet_v2; by image size)"
            ),
            line.number(
                "batch_norm_momentum",
                "SHARE",
                "of the moving statistics; by default it suits the number of steps",
                high=1.0,
            ),
            line.integer("image_size", "PIXELS", "resize images to this side"),
            *recipe_flags(epochs=20, optimizer="sgd", rates=_TRAIN_RATES),
            *COMMON,
        ),
        example="ddq train --data=digits --alpha=0.35 --optimizer=adam --out=float.keras",
        run=_train,
    ),
    Command(
        name="doctor",
        summary="Tell whether a float model can be quantized, and how small it gets.",
        files=("FLOAT.keras",),
        notes=(
            "Takes seconds and no data. Names every layer that stands in the way, with the cure; "
            "tells sizes, the least budget, what XNNPACK leaves to other kernels, and what to type "
            "next. Exit code 1 if the model cannot be quantized."
        ),
        flags=(
            line.choice("target", TARGET_WORDS, tuple(TARGETS), DDQConfig().target),
            line.switch("measure", "also time training steps, on random data; takes a minute"),
            *COMMON,
        ),
        example="ddq doctor float.keras --target=litert",
        run=_doctor,
    ),
    Command(
        name="quantize",
        summary="Learn precisions and weights within a size budget (DDQ).",
        files=("FLOAT.keras",),
        notes=(
            "Takes any .keras or .h5 classifier with supported layers. Writes the DDQ model and, "
            "beside it, FILE.history.json with loss, accuracy, bits, errors, ranges and levels per "
            "epoch."
        ),
        flags=(
            *data_flags(batch_size=128),
            OUT_MODEL,
            *DDQ_FLAGS,
            *recipe_flags(epochs=TUNE_EPOCHS, optimizer="sgd", rates=TUNE_RATES),
            *AID_FLAGS,
            *COMMON,
        ),
        example="ddq quantize float.keras --data=digits --budget=0.6 --out=ddq.keras",
        run=_quantize,
    ),
    Command(
        name="reconstruct",
        summary="Quantize within minutes from unlabeled images, block by block.",
        files=("FLOAT.keras",),
        notes=(
            "A few hundred images like those that the model will see are enough. It learns from "
            "nine tenths or so (the training split) to do what the float model does, and says how "
            "well it does on the others. Takes any .keras or .h5 model with one input image and "
            "one output."
        ),
        flags=(
            *data_flags(batch_size=32),
            OUT_MODEL,
            *_reconstruction_ddq_flags(),
            *CODE_FLAGS,
            *RECONSTRUCTION_FLAGS,
            *RESUME_FLAGS,
            *COMMON,
        ),
        example="ddq reconstruct float.keras --data=images:photos --out=ddq.keras",
        run=_reconstruct,
    ),
    Command(
        name="export",
        summary="Write a DDQ model as an integer-only .tflite file.",
        files=("DDQ.keras",),
        flags=(
            line.text("out", "FILE.tflite", "the file to write", required=True),
            TARGET,
            line.choice("input_type", "of the file's input", _TYPES, "int8"),
            line.choice("output_type", "of the file's output", _TYPES, "int8"),
            line.switch("keep_names", "keep the names of inner tensors, for looking at the file"),
            line.text("labels", "FILE", "the classes, one a line, for the file's metadata"),
            line.pair(
                "input_range", "values that pixels 0 and 255 become, for the file's metadata"
            ),
            line.text(
                "android",
                "FOLDER",
                "also put the file into an Android project, such as examples/android, as its "
                "asset; needs --labels",
            ),
            *COMMON,
        ),
        notes=(
            "The floor is what weight codes, biases and a scale for each channel take. Metadata "
            "follow TFLite's standard, which Android Studio and MediaPipe read."
        ),
        example="ddq export ddq.keras --out=ddq.tflite",
        run=_export,
    ),
    Command(
        name="verify",
        summary="Check that a .tflite file computes what was trained.",
        files=("DDQ.keras", "FILE.tflite"),
        notes=(
            "Exit code 1 if a weight code differs from the trained one, or if file and model give "
            "the same answer for too few images. A file for TFLite Micro runs there, and must "
            "compute what the plain int8 file does."
        ),
        flags=(
            *data_flags(batch_size=64),
            SPLIT,
            line.number("min_agreement", "SHARE", "of equal answers, for success", 0.99, high=1.0),
            TARGET,
            *COMMON,
        ),
        example="ddq verify ddq.keras ddq.tflite --data=digits",
        run=_verify,
    ),
    Command(
        name="evaluate",
        summary="Measure the accuracy of a .keras, .h5 or .tflite file.",
        files=("MODEL",),
        flags=(
            *data_flags(
                batch_size=64,
                range_by=(
                    "what the file notes (.tflite: in its metadata), what keras.applications says "
                    "of such a network, or what the file's input shows, else -1,1"
                ),
            ),
            line.text(
                "metrics",
                "NAME,NAME",
                "Keras's names, as in accuracy,sparse_top_k_categorical_accuracy",
                "accuracy",
            ),
            SPLIT,
            *COMMON,
        ),
        example="ddq evaluate ddq.tflite --data=digits --split=test",
        run=_evaluate,
    ),
    Command(
        name="report",
        summary="Put everything known of a DDQ model on one HTML page.",
        files=("DDQ.keras",),
        notes=(
            "With --data, accuracies are measured and the file is verified; with --float too, the "
            "stock int8 converter's file is made and measured as the baseline. Writes JSON beside "
            "the page."
        ),
        flags=(
            line.text("out", "FILE.html", "the page to write", "report.html"),
            line.text("tflite", "FILE", "its exported file; by default it is exported anew"),
            line.text("float", "FILE", "the float model that it came from"),
            line.text("png_dir", "FOLDER", "also draw levels.png, bits.png and error.png there"),
            line.text(
                "compare",
                "LABEL=FILE.keras,...",
                "up to three other trainings, whose quantization errors to show too",
            ),
            *data_flags(batch_size=64, required=False),
            SPLIT,
            TARGET,
            *COMMON,
        ),
        example="ddq report ddq.keras --float=float.keras --data=digits --out=report.html",
        run=_report,
    ),
)
COMMANDS = {command.name: command for command in (*_ALL, *RUNTIME_COMMANDS)}
