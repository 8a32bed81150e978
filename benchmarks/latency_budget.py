"""A budget of time beside bytes: does the clock agree with what the table of times promised?

    taskset -c 0 python benchmarks/latency_budget.py [--images=100] [--sets=5]

Three networks: the pretrained dog-breeds MobileNetV2 (160 px), reconstructed from sample images
without labels; and two small networks, trained on the embedded digits: one of wide pointwise and
dense layers, and one that has spatial convolutions too, for target litert-compact, whose INT4
convolutions run in scalar built-in kernels. Of each, at some numbers of bytes, once with the bytes
alone and once with a limit of time beside them, by a table of times that is measured first (`ddq
benchmark --table`; the medians of several tables count). Then all files run in turns, one thread,
beside the first one's codes in INT8; figures are medians of the sets'. Fidelity is that to the
float outputs on the sample images with index % 5 == 0, which nothing learns from; accuracy that on
the digits' test images. Use a quiet machine. Writes benchmarks/results/latency_budget.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from provenance import write_result
from reconstruction import NETWORKS, Measured, thinned

import ddq_tf
from ddq_tf.export import tflite
from ddq_tf.jobs.latency import host_table
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.latency import LatencyTable

K = keras.layers
INT8 = "int8"
DOGS, DIGITS, SPATIAL = "dog_breeds", "digits", "digits_spatial"
TARGETS = {SPATIAL: "litert-compact"}
FLOAT_EPOCHS, EPOCHS = 12, 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What is asked for.

    Attributes:
        precisions: to choose from.
        budget: share of the int8 bytes.
        latency_budget: beside it, or None.
    """

    precisions: tuple[int, ...]
    budget: float
    latency_budget: str | None = None

    @property
    def name(self) -> str:
        """In words."""
        words = f"{','.join(map(str, self.precisions))} bits, {self.budget:.0%} of the bytes"
        return words if self.latency_budget is None else f"{words}, {self.latency_budget}"


ALL, USUAL = (2, 4, 8), (4, 8)
ROWS = {
    DOGS: (
        Row(precisions=ALL, budget=0.40),
        Row(precisions=ALL, budget=0.40, latency_budget="1.05x"),
        Row(precisions=ALL, budget=0.44),
        Row(precisions=ALL, budget=0.44, latency_budget="1.03x"),
        Row(precisions=USUAL, budget=0.65),
        Row(precisions=USUAL, budget=0.65, latency_budget="0.985x"),
    ),
    DIGITS: (
        Row(precisions=ALL, budget=0.40),
        Row(precisions=ALL, budget=0.40, latency_budget="1.05x"),
        Row(precisions=ALL, budget=0.32),
        Row(precisions=ALL, budget=0.32, latency_budget="1.3x"),
    ),
    SPATIAL: (
        Row(precisions=USUAL, budget=0.65),
        Row(precisions=USUAL, budget=0.65, latency_budget="1.02x"),
    ),
}
# Learns from a configuration, and measures a file.
Learn = Callable[[ddq_tf.DDQConfig], Any]
Worth = Callable[[bytes], dict[str, float]]


def measured_table(model: Any, target: str, tables: int, runs: int) -> LatencyTable:
    """Returns the row by row medians of several tables."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.json"
        made = [host_table([model], out, target=target, runs=runs) for _ in range(tables)]
    rows = []
    for same in zip(*(table.rows for table in made), strict=True):
        numbers = {
            name: round(statistics.median(getattr(row, name) for row in same), 3)
            for name in ("median_us", "low_us", "high_us")
        }
        rows.append(dataclasses.replace(same[0], **numbers))
    return dataclasses.replace(made[0], rows=tuple(rows))


def learned(
    row: Row, target: str, learn: Learn, worth: Worth, table: LatencyTable, path: Path
) -> Any:
    """Learns one row's model, writes its file and returns what was promised of it."""
    config = ddq_tf.DDQConfig(
        **dataclasses.asdict(row), target=target, latency_table=table, narrow_range=False
    )
    quantized = learn(config)
    file = ddq_tf.export.export_tflite(quantized, path)
    budget, told = quantized.weight_budget, file.prediction
    assert told is not None
    assert budget.used_bits <= (budget.capacity_bits or np.inf)
    assert budget.used_ns <= (budget.capacity_ns or np.inf)
    assert abs(budget.used_ns / 1e3 - told.us) < 1e-6
    twin = path.with_name(f"{INT8}.tflite")
    if not twin.exists():
        assert file.int8_graph is not None
        twin.write_bytes(tflite.write(file.int8_graph))
    return {
        **dataclasses.asdict(row),
        "weight_bytes": budget.used_bits // 8,
        "file_bytes": file.size_bytes,
        "predicted_us": told.us,
        "predicted_int8_us": told.int8_us,
        "bits": {layer.name: layer.num_bits for layer in budget.layers},
        **worth(path.read_bytes()),
    }


def compared(name: str, model: Any, learn: Learn, worth: Worth, options: Any) -> dict[str, Any]:
    """Learns all rows of a network, runs all files and returns what came out."""
    target, load = TARGETS.get(name, "litert"), [os.getloadavg()]
    table = measured_table(model, target, options.sets, options.runs)
    load.append(os.getloadavg())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Path] = {INT8: Path(folder) / f"{INT8}.tflite"}
        for number, row in enumerate(ROWS[name]):
            paths[row.name] = Path(folder) / f"{number}.tflite"
            rows.append(learned(row, target, learn, worth, table, paths[row.name]))
            print(row.name, {k: v for k, v in rows[-1].items() if k != "bits"}, flush=True)
        load.append(os.getloadavg())
        sets = [ddq_tf.export.benchmark(paths, runs=options.runs) for _ in range(options.sets)]
        load.append(os.getloadavg())
    int8_ms = statistics.median(found[0].median_ms for found in sets)
    for number, row in enumerate(rows, 1):
        saved_us = row["predicted_int8_us"] - row["predicted_us"]
        row |= {
            "measured_ms": statistics.median(found[number].median_ms for found in sets),
            "measured_ratio": statistics.median(found[number].ratio for found in sets),
            "measured_ratios": [found[number].ratio for found in sets],
            "predicted_ratio": 1 - saved_us / 1e3 / int8_ms,
        }
        shown = ("budget", "latency_budget", "predicted_ratio", "measured_ratio")
        print(name, {key: row[key] for key in shown}, flush=True)
    return {
        "target": target,
        "int8_ms": int8_ms,
        "load_average": load,
        "rows": rows,
        "table": table.to_dict(),
    }


def dog_breeds(options: argparse.Namespace) -> tuple[Any, Learn, Worth]:
    """The pretrained MobileNetV2, how it learns, and how near a file is to it."""
    network = NETWORKS[DOGS]
    model: Any = load_float_model(Path(options.models) / network.path)
    images = network.images(Path(options.data))
    held = np.arange(len(images)) % 5 == 0
    given = images[thinned(np.flatnonzero(~held), options.images)]
    both = Measured.of(model, images[held], network.labels)

    def worth(content: bytes) -> dict[str, float]:
        answers = both.answers(content)
        return both.fidelity(answers, np.arange(len(answers)))

    return model, lambda config: ddq_tf.reconstruct_model(model, given, config)[0], worth


def digits(name: str) -> tuple[Any, Learn, Worth]:
    """A float network, trained; how it learns precisions; and how good a file is."""
    data = ddq_tf.data.load("digits")
    train, test = (ddq_tf.data.batches(data, split, batch_size=64) for split in ("train", "test"))
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = K.Conv2D(64, 4, strides=4, use_bias=False)(image)
    x = K.ReLU(6.0)(K.BatchNormalization(momentum=0.9)(x))
    for number in range(2 if name == SPATIAL else 0):
        x = K.Conv2D(64, 3, padding="same", use_bias=False, name=f"spatial_{number}")(x)
        x = K.ReLU(6.0)(K.BatchNormalization(momentum=0.9)(x))
    for number in range(4):  # of 64 rows
        x = K.Conv2D(192, 1, use_bias=False, name=f"pointwise_{number}")(x)
        x = K.ReLU(6.0)(K.BatchNormalization(momentum=0.9)(x))
    x = K.Flatten()(K.AveragePooling2D(4)(x))
    for number in range(2):  # of one row
        x = K.Dense(256, activation="relu", name=f"dense_{number}")(x)
    model: Any = keras.Model(image, K.Dense(10, name="logits")(x), name=name)

    def fit(net: Any, epochs: int) -> Any:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
        net.fit(train, epochs=epochs, verbose=0)
        return net

    fit(model, FLOAT_EPOCHS)
    print("float", model.evaluate(test, verbose=0), flush=True)
    return (
        model,
        lambda config: fit(ddq_tf.quantize_model(model, config, calibration=train), EPOCHS),
        lambda content: {"accuracy": ddq_tf.export.evaluate(content, test)["accuracy"]},
    )


def main() -> None:
    """Measures both networks and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecord")
    parser.add_argument("--models", default="../shared/models", help="folder of the networks")
    parser.add_argument("--images", type=int, default=100, help="to learn from")
    parser.add_argument("--sets", type=int, default=5, help="of timed runs, and tables")
    parser.add_argument("--runs", type=int, default=300, help="of each file in a set")
    parser.add_argument("--networks", default=",".join((DIGITS, SPATIAL, DOGS)))
    options = parser.parse_args()
    results: dict[str, Any] = {"images": options.images, "threads": 1}
    for name in options.networks.split(","):
        found = dog_breeds(options) if name == DOGS else digits(name)
        results[name] = compared(name, *found, options)
    write_result("latency_budget", results, seed=0)


if __name__ == "__main__":
    main()
