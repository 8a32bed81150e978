"""File size of ResNet-8 (MLPerf Tiny) with all weights at 4 bits, against stock int8.

    python benchmarks/resnet8_size.py [PRETRAINED.h5]

Without a file: the network of ddq_tf.models with random weights, on which the size does not depend.
Nothing is trained. Writes benchmarks/results/resnet8_size.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf
from ddq_tf.jobs.loading import load_float_model

SEED = 0


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pretrained", nargs="?")
    pretrained = parser.parse_args().pretrained
    keras.utils.set_random_seed(SEED)
    model = load_float_model(pretrained) if pretrained else ddq_tf.models.resnet8((32, 32, 3))
    images = np.random.default_rng(SEED).uniform(0, 255, (64, 32, 32, 3)).astype("float32")
    config = ddq_tf.DDQConfig(target="litert-compact", precisions=(4,), budget=None)
    q = ddq_tf.quantize_model(model, config, calibration=images)
    with tempfile.TemporaryDirectory() as folder:
        result = ddq_tf.export.export_tflite(q, Path(folder) / "resnet8.tflite")
        check = ddq_tf.export.verify(q, result, [images])
    results: dict[str, Any] = {
        "pretrained": Path(pretrained).name if pretrained else None,
        "size_bytes": result.size_bytes,
        "floor_bytes": result.sizes.floor,
        "items_bytes": dataclasses.asdict(result.sizes),
        "stock_int8_size_bytes": len(ddq_tf.export.stock_int8(model, [images])),
        "average_bits": q.weight_budget.average_bits,
        "min_runtime": result.min_runtime,
        "weight_codes_identical": check.weight_codes_identical,
    }
    write_result("resnet8_size", results, seed=SEED)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
