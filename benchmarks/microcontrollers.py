"""Bytes and exactness on TFLite Micro, and flash on Ethos-U, against the stock int8 file.

    python benchmarks/microcontrollers.py --data=../shared/data --models=../shared/models

ResNet-8 of MLPerf Tiny: pretrained, then trained for two epochs at a fixed precision on 8,000
images of CIFAR-10-JPEG, so that agreement is measured on a network that works; on 1,000 others.
MobileNetV2 0.35, 96x96, 10 classes: random weights with lively BatchNorm statistics; bytes and
exactness do not depend on training, agreement with Keras does. Needs the extras tflm and ethos-u.
Writes benchmarks/results/microcontrollers.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import re
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tflite_micro  # pyright: ignore[reportMissingImports]
from provenance import write_result

import ddq_tf
from ddq_tf.data import batches, calibration_batches, load
from ddq_tf.export import compile_with_vela, stock_int8, tflite, tflm, verify_tflm
from ddq_tf.grids import align

SEED = 0
RANDOM_INPUTS = 200
ARENA = 1 << 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A network with its data.

    Attributes:
        model: float.
        calibration: float32 batches.
        inputs: float32, to compare on.
        train: batches to train on after quantization, or None.
    """

    model: keras.Model
    calibration: Sequence[np.ndarray]
    inputs: np.ndarray
    train: Any = None


def resnet8(options: argparse.Namespace) -> Case:
    """The pretrained network, with real images."""
    path = Path(options.models) / "mlperf_tiny" / "pretrainedResnet.h5"
    dataset = load(f"tfrecord:{options.data}/cifar10-test.tfrecord")
    pixels = (0.0, 255.0)
    test = batches(dataset, "test", batch_size=100, input_range=pixels, limit=1000)
    return Case(
        model=keras.models.load_model(path, compile=False),
        calibration=calibration_batches(dataset, input_range=pixels),
        inputs=np.concatenate([np.asarray(images) for images, _ in test]),
        train=batches(dataset, "train", batch_size=100, input_range=pixels, shuffle=True),
    )


def mobilenet_v2(options: argparse.Namespace) -> Case:
    """Random kernels; BatchNorm statistics measured on random data."""
    del options
    keras.utils.set_random_seed(SEED)
    model = keras.applications.MobileNetV2(
        (96, 96, 3),
        0.35,
        weights=None,  # pyright: ignore[reportArgumentType]
        classes=10,
    )
    images = np.random.default_rng(SEED).uniform(-1, 1, (16, 96, 96, 3)).astype("float32")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    return Case(model=model, calibration=[images], inputs=images)


def quantized(case: Case, target: str, bits: int) -> Any:
    """The network at one precision, trained if it can be."""
    config = ddq_tf.DDQConfig(target=target, precisions=(bits,), budget=None)
    q = ddq_tf.quantize_model(case.model, config, calibration=case.calibration)
    if case.train is None:
        align(q)
        return q
    keras.utils.set_random_seed(SEED)
    q.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "sparse_categorical_crossentropy")
    q.fit(case.train, epochs=2, verbose=0)
    return q


def measure(case: Case, bits: int, folder: Path) -> dict[str, Any]:
    """Exports for TFLite Micro and for Ethos-U; returns figures."""
    q = quantized(case, "tflm", bits)
    result = ddq_tf.export.export_tflite(q, folder / "tflm.tflite")
    plain = tflite.write(result.graph)
    compressed = result.path.read_bytes()
    runners = [tflm.MicroRunner(content) for content in (plain, compressed)]
    shape = (RANDOM_INPUTS, *runners[0].input.shape[1:])
    codes = np.random.default_rng(SEED).integers(-128, 128, shape).astype(np.int8)
    outputs = [runner.run(codes) for runner in runners]
    litert = ddq_tf.export.export_tflite(q, folder / "litert.tflite", target="litert-int8")
    return {
        "size_bytes": result.size_bytes,
        "litert_int8_size_bytes": litert.size_bytes,
        "items_bytes": dataclasses.asdict(result.sizes),
        "weights_counted_bytes": q.weight_budget.used_bits / 8,
        "tensors_with_tables": len(tflm.lookups(result.graph)),
        "weighted_layers": len(q.weight_budget.layers),
        "arena_bytes": arena_bytes(compressed, codes[:1]),
        "arena_plain_bytes": arena_bytes(plain, codes[:1]),
        "random_inputs": RANDOM_INPUTS,
        "random_codes": outputs[0].size,
        "random_codes_equal_to_plain": int(np.sum(outputs[0] == outputs[1])),
        "against_keras": dataclasses.asdict(verify_tflm(q, result, [case.inputs])),
        "litert_int8_vela": dataclasses.asdict(compile_with_vela(litert.path)),
    }


def arena_bytes(content: bytes, codes: np.ndarray) -> int:
    """RAM that TFLite Micro's interpreter takes on this machine, as it tells on stderr."""
    interpreter = tflite_micro.runtime.Interpreter.from_bytes(content, arena_size=ARENA)
    interpreter.set_input(codes, 0)
    interpreter.invoke()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        told = re.search(r"total (\d+) bytes", file.read().decode())
    assert told, "the interpreter did not tell its allocations"
    return int(told[1])


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--models", default="../shared/models")
    options = parser.parse_args()
    packages = ("tflite-micro", "ethos-u-vela")
    results: dict[str, Any] = {"versions": {name: version(name) for name in packages}}
    for make in (resnet8, mobilenet_v2):
        case = make(options)
        stock = stock_int8(case.model, case.calibration)
        figures: dict[str, Any] = {
            "stock_int8_size_bytes": len(stock),
            "stock_int8_vela": dataclasses.asdict(compile_with_vela(stock)),
        }
        for bits in (4, 3, 2):
            with tempfile.TemporaryDirectory() as name:
                row = measure(case, bits, Path(name))
            row["ratio_to_stock"] = row["size_bytes"] / len(stock)
            figures[f"{bits} bits"] = row
            print(make.__name__, bits, row)
        results[make.__name__] = figures
    write_result("microcontrollers", results, seed=SEED)


if __name__ == "__main__":
    main()
