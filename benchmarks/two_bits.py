"""Whether two bits belong among the precisions that `litert` learns by default: short trainings.

    python benchmarks/two_bits.py [--epochs=10] [--seeds=3]

A network of pointwise and depthwise convolutions on the embedded digits, once trained in float and
then, from each seed, with the same budgets over 4 and 8 bits and over 2, 4 and 8. The accuracy is
LiteRT's, on the test images. Writes benchmarks/results/two_bits.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras
from provenance import write_result

import ddq_tf

K = keras.layers
PRECISIONS = ((4, 8), (2, 4, 8))
BUDGETS = (0.6, 0.7)
TWO_BITS_ONLY = (0.45,)  # below what 4 and 8 bits take
FLOAT_EPOCHS = 12


def float_model(train: Any) -> Any:
    """Returns the trained float network."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = K.Conv2D(16, 3, strides=4, padding="same", use_bias=False)(image)
    x = K.ReLU(6.0)(K.BatchNormalization()(x))
    for filters in (32, 64, 64):
        x = K.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = K.ReLU(6.0)(K.BatchNormalization()(x))
        x = K.Conv2D(filters, 1, use_bias=False)(x)
        x = K.ReLU(6.0)(K.BatchNormalization()(x))
    model: Any = keras.Model(image, K.Dense(10)(K.GlobalAveragePooling2D()(x)))
    compiled(model, 0.003)
    model.fit(train, epochs=FLOAT_EPOCHS, verbose=0)
    return model


def compiled(model: keras.Model, rate: float) -> None:
    """Compiles a classifier."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])


def measured(model: Any, train: Any, test: Any, config: ddq_tf.DDQConfig, epochs: int) -> Any:
    """Trains within a budget and returns what its file is worth."""
    keras.utils.set_random_seed(config.seed)
    q: Any = ddq_tf.quantize_model(model, config, calibration=train)
    compiled(q, 0.001)
    q.fit(train, epochs=epochs, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        file = ddq_tf.export.export_tflite(q, Path(folder) / "net.tflite")
        accuracy = ddq_tf.export.evaluate(file, test)["accuracy"]
    budget = q.weight_budget
    return {
        "seed": config.seed,
        "precisions": config.precisions,
        "budget": getattr(config.budget, "fraction", None),
        "bytes": file.size_bytes,
        "weight_bytes": budget.used_bits // 8,
        "least_runtime": file.min_runtime,
        "loss": float(q.evaluate(test, verbose=0)[0]),
        "accuracy": accuracy,
        "bits": {layer.name: layer.num_bits for layer in budget.layers},
    }


def main() -> None:
    """Trains all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    digits = ddq_tf.data.load("digits")
    train, test = (ddq_tf.data.batches(digits, split, batch_size=64) for split in ("train", "test"))
    model: Any = float_model(train)
    loss, accuracy = model.evaluate(test, verbose=0)
    rows = []
    for seed in range(options.seeds):
        for precisions in PRECISIONS:
            budgets = BUDGETS + (TWO_BITS_ONLY if 2 in precisions else ())
            for budget in budgets:
                config = ddq_tf.DDQConfig(precisions=precisions, budget=budget, seed=seed)
                rows.append(measured(model, train, test, config, options.epochs))
                print(rows[-1], flush=True)
        results = {"float": {"loss": loss, "accuracy": accuracy}, "rows": rows}
        write_result(
            "two_bits", results, seed=0
        )  # each seed, so that an end in between leaves rows


if __name__ == "__main__":
    main()
