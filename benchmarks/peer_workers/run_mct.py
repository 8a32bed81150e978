"""Mixed-precision post-training quantization by Sony's Model Compression Toolkit.

Weights of 2, 4 and 8 bits chosen for a weight memory of `weight_bits` a weight, activations of 8
bits. Its int8 .tflite export is for uniform 8 bits only; mixed precision leaves as a .tflite whose
float weights lie on the grid, so bytes are those of a float file. Needs TensorFlow up to 2.15.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import portable
import task

_BATCH, _SEARCH_IMAGES, _CHECKED, _TOLERANCE = 16, 32, 64, 1e-3


def main() -> None:
    """Quantizes and exports."""
    folder, todo = task.read()
    common = Path(todo["common"])
    mct = importlib.import_module("model_compression_toolkit")
    keras = importlib.import_module("tensorflow").keras
    images = np.load(common / "calibration.npy")

    def batches() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(images), _BATCH):
            yield [images[start : start + _BATCH]]

    model = portable.build(common, keras)
    difference = portable.largest_difference(model, common, images[:_CHECKED])
    if difference > _TOLERANCE:
        raise SystemExit(f"the Keras 2 twin's float outputs are off by {difference}")
    kernels = sum(int(np.prod(w.shape)) for w in model.trainable_weights if "kernel" in w.name)
    mixed = mct.core.MixedPrecisionQuantizationConfig(num_of_images=_SEARCH_IMAGES)
    with task.reasons(folder):
        quantized, info = mct.ptq.keras_post_training_quantization(
            model,
            batches,
            mct.core.ResourceUtilization(weights_memory=kernels * todo["weight_bits"] / 8),
            core_config=mct.core.CoreConfig(mixed_precision_config=mixed),
        )
        mct.exporter.keras_export_model(
            quantized,
            str(folder / task.MODEL),
            serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
            quantization_format=mct.exporter.QuantizationFormat.FAKELY_QUANT,
        )
    task.finish(
        folder,
        weight_bytes=float(info.final_resource_utilization.weights_memory),
        average_bits=8 * float(info.final_resource_utilization.weights_memory) / kernels,
        largest_float_difference=difference,
    )


if __name__ == "__main__":
    main()
