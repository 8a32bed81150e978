"""A small Vision Transformer on digits: float, DDQ and stock int8 side by side.

    python benchmarks/vit_digits.py [--epochs N] [--fine-tuning N]

Patches of 4 x 4, 65 tokens of 64 channels, 4 blocks of 4 heads, a class token and learned
positions, as in Dosovitskiy et al., 2020, made of plain Keras layers. Writes
benchmarks/results/vit_digits.json.
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
from keras import ops
from provenance import write_result

import ddq_tf
from ddq_tf.export.host_benchmark import benchmark
from ddq_tf.export.interpreter import delegation

SEED = 0
SIDE = 32
PATCH, DIM, DEPTH, HEADS = 4, 64, 4, 4
L = keras.layers


class Tokens(L.Layer):
    """A class token before the patches, and learned positions."""

    def build(self, input_shape: Any) -> None:
        """Creates both."""
        self.token = self.add_weight((1, 1, input_shape[-1]), "random_normal", name="token")
        self.position = self.add_weight(
            (1, input_shape[1] + 1, input_shape[-1]), "random_normal", name="position"
        )

    def call(self, patches: Any) -> Any:
        """Returns (batch, patches + 1, channels)."""
        shape: Any = ops.shape(patches)
        token = ops.broadcast_to(self.token, (shape[0], 1, shape[2]))
        return ops.concatenate([token, patches], axis=1) + self.position


def vision_transformer() -> keras.Model:
    """Returns the float network."""
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = L.Conv2D(DIM, PATCH, PATCH, name="patches")(inputs)
    x = Tokens(name="tokens")(L.Reshape((-1, DIM))(x))
    for _ in range(DEPTH):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(HEADS, DIM // HEADS)(y, y)])
        y = L.Dense(2 * DIM, activation="gelu")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(DIM)(y)])
    x = L.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    return keras.Model(inputs, L.Dense(10, activation="softmax", name="answer")(x), name="vit")


def _trained(model: Any, data: Any, epochs: int, rate: float) -> None:
    steps = max(epochs * len(data), 1)
    schedule: Any = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(data, epochs=epochs, verbose=2)


def main() -> None:
    """Trains, exports, compares and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--fine-tuning", type=int, default=10)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    digits = ddq_tf.data.load("digits")
    train, test = (ddq_tf.data.batches(digits, split, batch_size=64) for split in ("train", "test"))
    model: Any = vision_transformer()
    _trained(model, train, arguments.epochs, 1e-3)
    _, accuracy = model.evaluate(test, verbose=0)
    config = ddq_tf.DDQConfig(target="litert")
    quantized = ddq_tf.quantize_model(model, config, calibration=train)
    _trained(quantized, train, arguments.fine_tuning, 3e-4)
    images = [np.asarray(batch[0]) for batch in train]
    stock = ddq_tf.export.stock_int8(model, images)
    with tempfile.TemporaryDirectory() as folder:
        file = ddq_tf.export.export_tflite(quantized, Path(folder) / "vit.tflite")
        found = ddq_tf.export.verify(quantized, file, test)
        content = file.path.read_bytes()
    files = {"stock_int8": stock, "ddq": content}
    times = {row.name: row for row in benchmark(files, runs=400, seed=SEED)}
    rows: dict[str, Any] = {}
    for name, data in files.items():
        parts = delegation(data)
        rows[name] = {
            "accuracy": ddq_tf.export.tflite_accuracy(data, test),
            "size_bytes": len(data),
            "partitions": parts.partitions,
            "undelegated_operators": len(parts.undelegated),
            "median_ms": times[name].median_ms,
            "latency_ratio": times[name].ratio,
        }
    results: dict[str, Any] = {
        "float_accuracy": accuracy,
        "num_params": model.count_params(),
        "epochs": arguments.epochs,
        "fine_tuning_epochs": arguments.fine_tuning,
        "files": rows,
        "average_bits": quantized.weight_budget.average_bits,
        "equal_codes_share": found.equal_codes_share,
        "weight_codes_identical": found.weight_codes_identical,
    }
    write_result("vit_digits", results, seed=SEED)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
