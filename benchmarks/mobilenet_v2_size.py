"""File size of keras.applications.MobileNetV2 1.0/224/1000 at 4 bits, against stock int8.

    python benchmarks/mobilenet_v2_size.py

Random weights with BatchNorm statistics drawn so that activations stay alive (size does not depend
on them). Both files are made in one run. Writes benchmarks/results/mobilenet_v2_size.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from provenance import write_result

import ddq_tf
from ddq_tf.grids import align
from ddq_tf.targets import OpKind

SEED = 0


def lively_mobilenet_v2() -> keras.Model:
    """Returns the model with random kernels and BatchNorm statistics measured on random data."""
    keras.utils.set_random_seed(SEED)
    model = keras.applications.MobileNetV2(weights=None)  # pyright: ignore[reportArgumentType]
    rng = np.random.default_rng(SEED)
    images = rng.uniform(-1, 1, (8, 224, 224, 3)).astype("float32")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    return model


def calibration_images() -> np.ndarray:
    """Returns random images, (16, 224, 224, 3)."""
    return np.random.default_rng(SEED + 1).uniform(-1, 1, (16, 224, 224, 3)).astype("float32")


def at_bits(model: keras.Model, images: np.ndarray, target: str, bits: int) -> ddq_tf.DDQModel:
    """Returns a DDQ model, its pointwise and dense weights at `bits`, all others at 8 bits."""
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(target=target), calibration=images)
    for layer in q.weight_budget.layers:
        if layer.kind in (OpKind.POINTWISE, OpKind.DENSE):
            layer.quantizer.choose(layer.quantizer.precisions.index(bits))
    align(q)
    return q


def measure(model: keras.Model, images: np.ndarray, target: str, bits: int) -> dict[str, object]:
    """Returns the figures of a file with pointwise and dense weights at `bits`."""
    start = time.perf_counter()
    q = at_bits(model, images, target, bits)
    quantize_s = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mobilenet_v2.tflite"
        export_s = []
        for _ in range(3):
            start = time.perf_counter()
            result = ddq_tf.export.export_tflite(q, path)
            export_s.append(time.perf_counter() - start)
        check = ddq_tf.export.verify(q, result, [images])
    return {
        "size_bytes": result.size_bytes,
        "floor_bytes": result.sizes.floor,
        "items_bytes": dataclasses.asdict(result.sizes),
        "average_bits": q.weight_budget.average_bits,
        "xnnpack_partitions": check.delegation.partitions,
        "delegated_ops": check.delegation.delegated_ops,
        "total_ops": check.delegation.total_ops,
        "undelegated": list(check.delegation.undelegated),
        "weight_codes_identical": check.weight_codes_identical,
        "equal_codes_share": check.equal_codes_share,
        "min_runtime": result.min_runtime,
        "quantize_model_s": quantize_s,
        "export_s": sorted(export_s)[1],
    }


def main() -> None:
    """Measures and writes the result."""
    model = lively_mobilenet_v2()
    images = calibration_images()
    start = time.perf_counter()
    stock = len(ddq_tf.export.stock_int8(model, [images[:4]]))
    stock_s = time.perf_counter() - start
    results: dict[str, object] = {"stock_int8_size_bytes": stock, "stock_converter_s": stock_s}
    for target, bits in (("litert", 4), ("litert-compact", 2)):
        figures = measure(model, images, target, bits)
        figures["ratio_to_stock"] = figures["size_bytes"] / stock  # type: ignore[operator]
        results[f"{target} {bits} bits"] = figures
        print(target, bits, figures)
    write_result("mobilenet_v2_size", results, seed=SEED)


if __name__ == "__main__":
    main()
