"""Damaged .tflite files for the reader: how many, and what became of them.

    python benchmarks/reader_fuzz.py [--mutations=1500]

Files: ResNet-8 as `litert-compact` with labels, and as `litert-int8` with all names; both are first
read and written again. Seven kinds of damage (tests/export/fuzzing.py), `--mutations` of each
for each file. Any outcome but a graph or a DDQError ends the run. Writes
benchmarks/results/reader_fuzz.json.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import dataclasses
import json
import tempfile
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf
from ddq_tf.export import ModelMetadata, model_metadata, tflite
from tests.export.fuzzing import MUTATIONS, fuzz

SEED = 0


def files() -> dict[str, bytes]:
    """Returns the whole files by name."""
    keras.utils.set_random_seed(SEED)
    model = ddq_tf.models.resnet8((32, 32, 3))
    images = np.random.default_rng(SEED).uniform(0, 255, (16, 32, 32, 3)).astype("float32")
    config = ddq_tf.DDQConfig(target="litert-compact", precisions=(4,))
    q = ddq_tf.quantize_model(model, config, calibration=images)
    described = ModelMetadata.for_range(0, 255, labels=[f"class {index}" for index in range(10)])
    with tempfile.TemporaryDirectory() as folder:
        compact, wide = Path(folder) / "compact.tflite", Path(folder) / "int8.tflite"
        ddq_tf.export.export_tflite(q, compact, metadata=described)
        ddq_tf.export.export_tflite(q, wide, target="litert-int8", keep_names=True)
        return {"litert-compact": compact.read_bytes(), "litert-int8": wide.read_bytes()}


def is_stable(data: bytes, *, keep_names: bool) -> bool:
    """Whether reading and writing a file gives the same bytes, but for what is attached."""
    return (
        tflite.write(tflite.read(data), keep_names=keep_names)
        == data[: len(data) - model_metadata.attached_bytes(data)]
    )


def main() -> None:
    """Fuzzes and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1500)
    mutations = parser.parse_args().mutations
    results: dict[str, Any] = {"mutations": 0}
    for name, data in files().items():
        outcomes = {
            kind: fuzz(data, kind, mutations=mutations, seed=SEED) for kind in sorted(MUTATIONS)
        }
        results["mutations"] += mutations * len(outcomes)
        results[name] = {
            "size_bytes": len(data),
            "written_again_identically": is_stable(data, keep_names=name == "litert-int8"),
            **{kind: dataclasses.asdict(outcome) for kind, outcome in outcomes.items()},
        }
    write_result("reader_fuzz", results, seed=SEED)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
