"""Bytes, partitions and latency of networks beyond CNNs, beside the stock converter's int8 files.

    python benchmarks/beyond_cnn.py [--go_on] [NETWORK ...]

The networks are those of exactness.py's family beyond_cnn: untrained, so that nothing here tells of
accuracy; bytes, partitions and latency do not depend on the values of weights. DDQ's files have
the default configuration, and take a few steps of `fit` on random targets. Latency: one thread on
this computer, in turns. Where the stock converter refuses a network for its random augmentation,
which does nothing in inference, it gets the network without. Writes
benchmarks/results/beyond_cnn.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import exactness
import keras
import numpy as np
from networks import transformers
from provenance import RESULTS, write_result

import ddq_tf
from ddq_tf.export.host_benchmark import benchmark
from ddq_tf.export.interpreter import delegation

SEED = 0
RUNS = 200
NAME = "beyond_cnn"


# What the stock converter takes where it does not take the network: without random augmentation.
PLAINER = {"vit": lambda: transformers.vit(augmented=False)}


def stock(model: keras.Model, inputs: np.ndarray) -> tuple[bytes | None, str]:
    """Returns the stock converter's file, or None and what it says of which operations."""
    try:
        return ddq_tf.export.stock_int8(model, [inputs]), ""
    except Exception as error:  # of whatever kind the converter has
        said = re.findall(r"'tf\.\w+' op [^\n,]{1,90}", str(error))
        return None, "; ".join(dict.fromkeys(said)) or str(error)[:300]


def measured(name: str) -> dict[str, Any]:
    """Returns the row of a network."""
    model, inputs = exactness.network(name, Path())
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(target="litert"), inputs)
    exactness.fitted(q, inputs, epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        file = ddq_tf.export.export_tflite(q, Path(folder, "net.tflite"))
        proof = ddq_tf.export.verify(q, file, [inputs])
        files = {"ddq": file.path.read_bytes()}
    baseline, said = stock(model, inputs)
    if baseline is None and name in PLAINER:
        baseline, _ = stock(PLAINER[name](), inputs)
    if baseline is not None:
        files = {"stock_int8": baseline, **files}
    timed = {row.name: row for row in benchmark(files, runs=RUNS, seed=SEED)}
    rows = {}
    for label, content in files.items():
        parts = delegation(content)
        rows[label] = {
            "size_bytes": len(content),
            "partitions": parts.partitions,
            "undelegated_operators": len(parts.undelegated),
            "median_ms": timed[label].median_ms,
            "peak_memory_mib": timed[label].peak_memory_mib,
        }
    if baseline is not None:
        rows["ddq"]["latency_ratio"] = timed["ddq"].ratio
        rows["ddq"]["bytes_ratio"] = len(files["ddq"]) / len(baseline)
    return {
        "num_params": model.count_params(),
        "average_bits": q.weight_budget.average_bits,
        "equal_codes_share": proof.equal_codes_share,
        "stock_failure": said,
        "files": rows,
    }


def main() -> None:
    """Measures and writes the result, after each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="some networks only")
    parser.add_argument("--go_on", action="store_true", help="keep the rows that are there")
    options = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["results"]["networks"] if options.go_on else {}
    for name in options.names or exactness.FAMILIES[NAME]:
        rows[name] = measured(name)
        print(name, json.dumps(rows[name]), flush=True)
        keras.backend.clear_session()
        write_result(NAME, {"runs": RUNS, "networks": rows}, seed=SEED)


if __name__ == "__main__":
    main()
