"""A TFMOT project on CIFAR-10: its own int8 file, and what the bridge makes of the same model.

    pip install 'ddq_tf[tfmot]'
    python benchmarks/tfmot_bridge.py [--data=../shared/data] [--folder=runs/tfmot_bridge]

A MobileNetV2 0.35 of tf_keras, its first convolution without stride for images of 32 pixels, is
trained as floats, then by TFMOT's default scheme and by `DDQQuantizeScheme` at 4 bits, with the
same data, seed and steps. Rows: TFMOT's file by the stock converter; files of 8 and 4/8 bits that
`from_tfmot` and `quantize_model` make of the same weights and ranges, untrained; one after 2 epochs
of `fit` at 4 bits; one of the kernels that DDQ's scheme trained. Accuracy in LiteRT, on all 10,000
test images. A pruned copy tells which zeros are left. Each step writes into the folder and is
skipped where its file is there already. Writes benchmarks/results/tfmot_bridge.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from peers import data_spec
from provenance import write_result

import ddq_tf
from ddq_tf.data import Augment, batches, load
from ddq_tf.export import Runner, evaluate, export_tflite
from ddq_tf.jobs.collect import layer_reports
from ddq_tf.tfmot import DDQQuantizeScheme, from_tfmot, quantize_scope

tfmot, tf_keras = map(importlib.import_module, ("tensorflow_model_optimization", "tf_keras"))
SEED, BATCH = 0, 128
FLOAT_EPOCHS, TUNE_EPOCHS = 6, 2
SPARSITY = 0.75


def network() -> Any:
    """Returns the untrained MobileNetV2 of tf_keras."""
    made = tf_keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    config = made.get_config()
    for layer in config["layers"]:
        if layer["name"] == "Conv1":
            layer["config"]["strides"] = (1, 1)
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["momentum"] = 0.95  # 0.999 takes more steps than this training has
    return tf_keras.Model.from_config(config)


class Data:
    """CIFAR-10-JPEG, from -1 to 1."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.dataset = load(data_spec(options))

    def train(self) -> Any:
        """One epoch, shifted and mirrored."""
        augment = Augment(flip=True, pad_crop=4)
        return batches(
            self.dataset,
            "train",
            batch_size=BATCH,
            augment=augment,
            shuffle=True,
            seed=SEED,
            drop_remainder=True,
        )

    def calibration(self) -> np.ndarray:
        """512 images of the training set."""
        return next(iter(batches(self.dataset, "train", batch_size=512)))[0].numpy()

    def test(self) -> Any:
        """All test images."""
        return batches(self.dataset, "test", batch_size=250)


def compiled(model: Any, library: Any, rate: float, epochs: int, steps: int) -> Any:
    """Compiles a classifier of either Keras alike."""
    schedule = library.optimizers.schedules.CosineDecay(rate, epochs * steps)
    optimizer = library.optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def tuned(data: Data, model: Any, library: Any, rate: float, epochs: int) -> Any:
    """Trains a model."""
    steps = data.dataset.sizes["train"] // BATCH
    library.utils.set_random_seed(SEED)
    compiled(model, library, rate, epochs, steps).fit(data.train(), epochs=epochs, verbose=2)
    return model


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """A tf_keras model of a file, or made and saved there."""
    if not path.exists():
        make().save(path)
    with quantize_scope():
        return tf_keras.models.load_model(path, compile=False)


def stock_file(model: Any, path: Path) -> Path:
    """TFMOT's own way to a file, int8 from input to output."""
    if not path.exists():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())
    return path


def answers(path: Path, data: Data) -> np.ndarray:
    """The class of the greatest code, for each test image."""
    runner = Runner(path)
    found = []
    for images, _ in data.test():
        (codes,) = runner.run(runner.input.quantize(images.numpy())).values()
        found.append(codes.reshape(len(codes), -1).argmax(axis=1))
    return np.concatenate(found)


def measured(path: Path, data: Data, reference: np.ndarray | None = None) -> dict[str, Any]:
    """What a file takes and answers."""
    row: dict[str, Any] = {
        "size_bytes": path.stat().st_size,
        "accuracy": round(evaluate(path, data.test())["accuracy"], 4),
    }
    if reference is not None:
        row["answers_equal_to_tfmots_file"] = float((answers(path, data) == reference).mean())
    return row


def step_ms(model: Any, data: Data, count: int = 12) -> float:
    """The median time of a training step, after some to warm up."""
    steps = data.dataset.sizes["train"] // BATCH
    compiled(model, tf_keras, 0.0, 1, steps)
    times = []
    for number, (images, labels) in enumerate(data.train().take(count + 4)):
        start = time.perf_counter()
        model.train_on_batch(images, labels)
        if number >= 4:
            times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times)), 1)


def ddq_file(folder: Path, name: str, make: Callable[[], Any]) -> Path:
    """A file made by ddq_tf."""
    path = folder / f"{name}.tflite"
    if not path.exists():
        export_tflite(make(), path)
    return path


def pruned_zeros(source: Any, data: Data) -> dict[str, float]:
    """Shares of zeros of a pruned copy before and after an epoch's quarter of `fit`."""
    schedule = tfmot.sparsity.keras.ConstantSparsity(SPARSITY, begin_step=0, frequency=1)
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(source, pruning_schedule=schedule)
    steps = data.dataset.sizes["train"] // BATCH // 4
    compiled(wrapped, tf_keras, 0.01, 1, steps)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    wrapped.fit(data.train().take(steps), verbose=2, callbacks=callbacks)
    model, _ = from_tfmot(wrapped)
    found = {}
    for keep in (True, False):
        config = ddq_tf.DDQConfig(budget=None, precisions=(8,), keep_zeros=keep)
        quantized = ddq_tf.quantize_model(model, config, data.calibration())
        keras.utils.set_random_seed(SEED)
        compiled(quantized, keras, 0.02, 1, steps).fit(data.train().take(steps), verbose=2)
        reports = layer_reports(quantized)
        weights = sum(report.num_weights for report in reports)
        for name in ("float_zeros", "zeros"):
            share = sum(report.num_weights * getattr(report, name) for report in reports) / weights
            found[name if keep else f"{name}_without_keep_zeros"] = round(share, 4)
    del found["float_zeros_without_keep_zeros"]
    return found


def main() -> None:
    """Runs what is missing and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecords")
    parser.add_argument("--folder", type=Path, default=Path("runs/tfmot_bridge"))
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    data, q = Data(options), tfmot.quantization.keras
    floats = kept(folder / "float.h5", lambda: tuned(data, network(), tf_keras, 0.1, FLOAT_EPOCHS))
    default = kept(
        folder / "tfmot.h5",
        lambda: tuned(data, q.quantize_model(floats), tf_keras, 0.02, TUNE_EPOCHS),
    )

    def by_ddq() -> Any:
        scheme = DDQQuantizeScheme(num_bits=4, bits={"Conv1": 8, "predictions": 8})
        return q.quantize_apply(q.quantize_annotate_model(floats), scheme)

    scheme = kept(folder / "scheme.h5", lambda: tuned(data, by_ddq(), tf_keras, 0.02, TUNE_EPOCHS))
    model, ranges = from_tfmot(default)
    four = ddq_tf.DDQConfig(target="litert", precisions=(4, 8), budget="4.5bits")
    eight = ddq_tf.DDQConfig(target="litert-int8", precisions=(8,), budget=None)

    def fitted() -> Any:
        quantized = ddq_tf.quantize_model(model, four, data.calibration(), ranges=ranges)
        return tuned(data, quantized, keras, 0.02, TUNE_EPOCHS)

    def taken_over() -> Any:
        source, learned = from_tfmot(scheme)
        config = ddq_tf.DDQConfig(target="litert", budget=None, rules=learned.rules)
        return ddq_tf.quantize_model(source, config, ranges=learned)

    theirs = stock_file(default, folder / "tfmot.tflite")
    reference = answers(theirs, data)
    files = {
        "8 bits, untrained": lambda: ddq_tf.quantize_model(model, eight, ranges=ranges),
        "4 bits, 2 epochs of fit": fitted,
        "4 bits by DDQQuantizeScheme, taken over": taken_over,
    }
    rows = {"TFMOT's own int8": measured(theirs, data)}
    for name, make in files.items():
        file = ddq_file(folder, name.replace(" ", "_").replace(",", ""), make)
        rows[name] = measured(file, data, reference)
    floats.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    scheme.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    zeros = folder / "zeros.json"
    if not zeros.exists():
        zeros.write_text(json.dumps(pruned_zeros(floats, data)))
    write_result(
        "tfmot_bridge",
        {
            "float_accuracy": round(floats.evaluate(data.test(), verbose=0)[1], 4),
            "scheme_accuracy_in_tf_keras": round(scheme.evaluate(data.test(), verbose=0)[1], 4),
            "float_epochs": FLOAT_EPOCHS,
            "tune_epochs": TUNE_EPOCHS,
            "files": rows,
            "step_ms": {
                "float": step_ms(network(), data),
                "TFMOT's default": step_ms(q.quantize_model(network()), data),
                "DDQQuantizeScheme": step_ms(by_ddq(), data),
            },
            "pruned": json.loads(zeros.read_text()),
        },
        seed=SEED,
    )


if __name__ == "__main__":
    main()
