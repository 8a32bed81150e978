"""Latency and memory of MobileNetV2 1.0/224/1000 on this host: DDQ `litert` against stock int8.

    python benchmarks/latency.py [--runs=400]

The model of mobilenet_v2_size.py; the DDQ files hold pointwise and dense weights of 4 and of 8
bits. One thread, one image, the files in turns, five sets of `--runs` rounds; figures are medians
of the sets'. `ratio` is the median ratio of two times in one round, `ratio_of_medians` that of
median times. Memory is measured in fresh processes; single operators' times are added by kind. Use
a quiet machine. Writes benchmarks/results/latency.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import keras
from mobilenet_v2_size import SEED, at_bits, calibration_images, lively_mobilenet_v2
from provenance import write_result

import ddq_tf
from ddq_tf.export.host_benchmark import BenchmarkRow
from ddq_tf.export.operator_profile import by_kind

BITS = (4, 8)
SETS = 5
PROFILE_RUNS = 100


def files(model: keras.Model, folder: Path) -> dict[str, Path]:
    """Writes the files to compare; the first is the yardstick."""
    images = calibration_images()
    paths = {"stock int8": folder / "stock.tflite"}
    paths["stock int8"].write_bytes(ddq_tf.export.stock_int8(model, [images[:4]]))
    for bits in BITS:
        name = f"litert {bits} bits"
        paths[name] = folder / f"{bits}.tflite"
        ddq_tf.export.export_tflite(at_bits(model, images, "litert", bits), paths[name])
    return paths


def figures(pairs: list[tuple[BenchmarkRow, BenchmarkRow]]) -> dict[str, Any]:
    """Returns the medians over the sets of a file's row and the yardstick's."""
    rows = [dataclasses.asdict(row) for row, _ in pairs]
    found: dict[str, Any] = {
        name: None if value is None else statistics.median(row[name] for row in rows)
        for name, value in rows[0].items()
        if name != "name"
    }
    ratios = [row.median_ms / yardstick.median_ms for row, yardstick in pairs]
    found["ratio_of_medians"] = statistics.median(ratios)
    found["ratio_of_sets"] = [row["ratio"] for row in rows]
    return found


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        paths = files(lively_mobilenet_v2(), Path(folder))
        load_before = os.getloadavg()
        sets = [ddq_tf.export.benchmark(paths, runs=runs) for _ in range(SETS)]
        results: dict[str, Any] = {"load_average": [load_before, os.getloadavg()], "threads": 1}
        for index, (name, path) in enumerate(paths.items()):
            results[name] = figures([(rows[index], rows[0]) for rows in sets])
            results[name]["operators_ms"] = by_kind(ddq_tf.export.profile(path, runs=PROFILE_RUNS))
    write_result("latency", results, seed=SEED)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
