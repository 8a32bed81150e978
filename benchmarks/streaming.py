"""Recurrent networks on the rows of digits: the whole sequence, and one time step a call.

    python benchmarks/streaming.py [--epochs N] [--fine-tuning N]

16 steps of 48 features; LSTM and GRU of 64 units and a dense layer. Beside the two DDQ files stands
the stock converter's int8 file of the same float network: what it says of the network as it is, and
the file that it writes of one with `unroll=True`. Writes benchmarks/results/streaming.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from provenance import write_result

import ddq_tf
from ddq_tf.export.host_benchmark import benchmark
from ddq_tf.export.interpreter import delegation

SEED = 0
SIDE, UNITS = 16, 64
RUNS = 400
L = keras.layers
KINDS = {"lstm": L.LSTM, "gru": L.GRU}


def network(kind: Any, *, unroll: bool = False) -> keras.Model:
    """Returns a float network that reads one row after the other."""
    inputs = keras.Input((SIDE, SIDE, 3), name="rows")
    x = kind(UNITS, unroll=unroll, name="memory")(L.Reshape((SIDE, 3 * SIDE))(inputs))
    return keras.Model(inputs, L.Dense(10, name="answer")(x), name="net")


def _trained(model: Any, data: Any, epochs: int, rate: float) -> None:
    steps = max(epochs * len(data), 1)
    schedule: Any = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(data, epochs=epochs, verbose=2)


def _stock(model: keras.Model, data: Any) -> tuple[bytes, str]:
    """The stock converter's int8 file, or b"" and what it says."""
    try:
        return ddq_tf.export.stock_int8(model, [np.asarray(batch[0]) for batch in data]), ""
    except Exception as error:  # of any kind: it is the result
        return b"", f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"


def measured(kind: Any, epochs: int, fine_tuning: int) -> dict[str, Any]:
    """Trains, exports and compares one network."""
    keras.utils.set_random_seed(SEED)
    digits = ddq_tf.data.load("digits")
    train, test = (
        ddq_tf.data.batches(
            digits, split, batch_size=64, image_size=SIDE, shuffle=split == "train", seed=SEED
        )
        for split in ("train", "test")
    )
    model: Any = network(kind)
    _trained(model, train, epochs, 3e-3)
    _, accuracy = model.evaluate(test, verbose=0)
    quantized = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(target="litert"), calibration=train)
    _trained(quantized, train, fine_tuning, 1e-3)
    unrolled = network(kind, unroll=True)
    unrolled.set_weights(model.get_weights())
    _, failure = _stock(model, train)
    stock, failure_unrolled = _stock(unrolled, train)
    with tempfile.TemporaryDirectory() as folder:
        whole = ddq_tf.export.export_tflite(quantized, Path(folder) / "whole.tflite")
        step = ddq_tf.export.export_tflite(quantized, Path(folder) / "step.tflite", streaming=True)
        proofs = [ddq_tf.export.verify(quantized, file, test) for file in (whole, step)]
        files = {"ddq_step": step.path.read_bytes(), "ddq_whole": whole.path.read_bytes()}
    if stock:
        files["stock_int8_unrolled"] = stock
    times = {row.name: row for row in benchmark(files, runs=RUNS, seed=SEED)}
    rows: dict[str, Any] = {}
    for name, content in files.items():
        parts = delegation(content)
        rows[name] = {
            "size_bytes": len(content),
            "operators": parts.total_ops,
            "partitions": parts.partitions,
            "undelegated_operators": len(parts.undelegated),
            "median_ms": times[name].median_ms,
            "latency_ratio": times[name].ratio,
        }
        if name != "ddq_step":  # which has the accuracy of the whole, as its codes are the same
            rows[name]["accuracy"] = ddq_tf.export.tflite_accuracy(content, test)
    images = np.concatenate([np.asarray(batch[0]) for batch in test.take(1)])
    return {
        "float_accuracy": accuracy,
        "steps": SIDE,
        "files": rows,
        "stock_failure": failure,
        "stock_failure_unrolled": failure_unrolled,
        "average_bits": quantized.weight_budget.average_bits,
        "equal_codes_share": {
            "whole": proofs[0].equal_codes_share,
            "step": proofs[1].equal_codes_share,
        },
        "is_exact_operator_by_operator": ddq_tf.export.first_difference(
            quantized, images, streaming=True
        )
        is None,
    }


def main() -> None:
    """Measures both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--fine-tuning", type=int, default=10)
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        name: measured(kind, arguments.epochs, arguments.fine_tuning)
        for name, kind in KINDS.items()
    }
    results |= {"epochs": arguments.epochs, "fine_tuning_epochs": arguments.fine_tuning}
    write_result("streaming", results, seed=SEED)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
