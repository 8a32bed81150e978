"""What each part of DDQ is worth: the same float weights, recipe and seed, one part changed.

    python benchmarks/ablations.py resnet8 --float=runs/cifar10_resnet8/float.keras \
        --data=../shared/data [--rows=fixed4,mixed4] [--epochs=6] [--seed=0]

Trains one row after the other on CIFAR-10-JPEG, exports it, and measures it in LiteRT on the 10,000
test images: with the codes in INT8, and in the smallest file that holds them. Each row is a file
benchmarks/results/ablation_NETWORK_ROW_EPOCHSe_sSEED.json; rows whose file is there are skipped, an
interrupted row resumes at its last epoch. ablations_page.py makes docs/ablations.md of all of them.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from peers import BATCH_SIZE, CALIBRATION_IMAGES, NETWORKS, data_spec, hash_of, latency
from provenance import is_there, write_result

import ddq_tf
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.jobs.measure import compare, litert_accuracy
from ddq_tf.jobs.quantize import Quantized, quantize_float
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import DataOptions
from ddq_tf.training import TrainConfig

CODES: dict[str, Any] = {"target": "litert-int8"}
MIXED: dict[str, Any] = {"precisions": (2, 3, 4, 6, 8)}


@dataclasses.dataclass(frozen=True)
class Row:
    """What a row changes.

    Attributes:
        title: what the page calls it.
        ddq: fields of DDQConfig.
        distill: share of the float model's opinion in the loss.
    """

    title: str
    ddq: dict[str, Any]
    distill: float = 0.0


def fixed(title: str, bits: int, **ddq: Any) -> Row:
    """Returns a row with one precision for all layers."""
    return Row(title, {**CODES, "precisions": (bits,), "budget": None, **ddq})


def mixed(title: str, budget: str, **ddq: Any) -> Row:
    """Returns a row whose layers find their precisions within a budget."""
    return Row(title, {**CODES, **MIXED, "budget": budget, **ddq})


def distilled(row: Row, distill: float = 0.5, suffix: str = "", **ddq: Any) -> Row:
    """Returns a row that also learns from the float model."""
    return Row(f"{row.title}, distilled from float{suffix}", {**row.ddq, **ddq}, distill)


ROWS: dict[str, Row] = {
    "fixed4": fixed("4 bits everywhere", 4),
    "mixed4": mixed("mixed, 4 bits on average", "4bits"),
    "fixed4_per_tensor": fixed("4 bits, one range per tensor", 4, per_channel=False),
    "free4": fixed("4 bits, free levels", 4, levels="free"),
    "free4_kmeans": fixed(
        "4 bits, free levels from k-means", 4, levels="free", level_init="kmeans"
    ),
    "free4_uncorrected": fixed(
        "4 bits, free levels, no gradient correction", 4, levels="free", correction=0.0
    ),
    "free4_per_tensor": fixed(
        "4 bits, free levels, one range per tensor", 4, levels="free", per_channel=False
    ),
    "mixed4_free": mixed("mixed, 4 bits on average, free levels", "4bits", levels="free"),
    "fixed3": fixed("3 bits everywhere", 3),
    "mixed3": mixed("mixed, 3 bits on average", "3bits"),
    "mixed3_free": mixed("mixed, 3 bits on average, free levels", "3bits", levels="free"),
    "fixed2_free": fixed("2 bits, free levels", 2, levels="free"),
    "fixed2": fixed("2 bits everywhere", 2),
    "mixed2.5": mixed("mixed, 2.5 bits on average", "2.5bits"),
    "mixed2.3": mixed("mixed, 2.3 bits on average", "2.3bits"),
    "mixed2.3_free": mixed("mixed, 2.3 bits on average, free levels", "2.3bits", levels="free"),
    "w4a4": fixed("4 bits everywhere, 4-bit activations", 4, activation_bits=4),
    "mixed_w4a4": mixed(
        "mixed, 4 bits on average for weights and for activations",
        "4bits",
        activation_bits=(2, 3, 4, 6, 8),
        activation_budget=4.0,
    ),
}
ROWS |= {
    f"{name}_distilled": distilled(ROWS[name])
    for name in ("mixed4", "mixed3", "mixed2.5", "mixed_w4a4")
}
ROWS["w4a4_distilled"] = Row(
    "4 bits, 4-bit activations, distilled from float", ROWS["w4a4"].ddq, distill=0.5
)
ROWS["mixed_w4a4_distilled0.9"] = distilled(
    ROWS["mixed_w4a4"], 0.9, " by 0.9, search in 0.3 of the epochs", search_fraction=0.3
)
PACKED = {"resnet8": "litert-compact", "mobilenet_v2": "litert"}  # targets of the smallest files


def train_row(name: str, options: argparse.Namespace) -> None:
    """Trains, exports and measures one row, and writes its result."""
    folder = Path("runs") / label(name, options)
    folder.mkdir(parents=True, exist_ok=True)
    row = ROWS[name]
    screen = Screen()
    start = time.monotonic()
    done = quantize_float(
        options.float,
        data_options(options),
        ddq_tf.DDQConfig(seed=options.seed, **row.ddq),
        train_config(name, options),
        out=folder / "ddq.keras",
        checkpoint_dir=folder / "checkpoint",
        screen=screen,
    )
    results = {
        "row": name,
        "title": row.title,
        "network": options.network,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "training_s": time.monotonic() - start,
        "keras_accuracy": done.accuracy,
        "average_bits": done.average_bits,
        "weights_size_bytes": done.weights_size_bytes,
        **plain_figures(done, folder / "ddq.tflite", screen),
        **packed_figures(done, folder / "packed.tflite", options, screen),
        "float_sha256": options.float_sha256,
        "bits": done.bits,
        "activation_bits": {
            layer.name: layer.quantizer.num_bits
            for layer in ddq_tf.layers.activation_layers(done.model)
        },
        "history": done.history,
    }
    write_result(label(name, options), results, seed=options.seed)


def data_options(options: argparse.Namespace) -> DataOptions:
    """Returns CIFAR-10-JPEG as the network takes it."""
    input_range = NETWORKS[options.network]["input_range"]
    return DataOptions(spec=data_spec(options), input_range=input_range, batch_size=BATCH_SIZE)


def train_config(name: str, options: argparse.Namespace) -> TrainConfig:
    """Returns the recipe that all rows share but for distillation."""
    return TrainConfig(
        epochs=options.epochs,
        batch_size=BATCH_SIZE,
        optimizer="sgd",
        learning_rate=options.learning_rate,
        weight_decay=NETWORKS[options.network]["weight_decay"],
        seed=options.seed,
        distill=ROWS[name].distill,
    )


def plain_figures(done: Quantized, file: Path, screen: Screen) -> dict[str, Any]:
    """Exports the codes in INT8, and compares file and model."""
    content = export(done, file, "litert-int8")
    same = compare(done.model, content, done.images, "test", screen, target="litert-int8")
    return {
        "litert_accuracy": litert_accuracy(content, done.images, "test", screen),
        "top1_agreement": same.top1_agreement,
        "equal_codes_share": same.equal_codes_share,
        "max_lsb": same.max_lsb,
    }


def packed_figures(
    done: Quantized, file: Path, options: argparse.Namespace, screen: Screen
) -> dict[str, Any]:
    """Exports the smallest file that holds the codes, and times it beside the stock int8 file."""
    content = export(done, file, PACKED[options.network])
    calibration = done.images.calibration(CALIBRATION_IMAGES, options.seed)
    stock = ddq_tf.export.stock_int8(load_float_model(options.float), calibration)
    return {
        "packed_target": PACKED[options.network],
        "file_bytes": len(content),
        "packed_litert_accuracy": litert_accuracy(content, done.images, "test", screen),
        **latency(content, stock),
    }


def export(done: Quantized, file: Path, target: str) -> bytes:
    """Returns the content of the .tflite file that it writes."""
    ddq_tf.export.export_tflite(done.model, file, target=target)
    return file.read_bytes()


def label(name: str, options: argparse.Namespace) -> str:
    """Returns the name of a row's result."""
    return f"ablation_{options.network}_{name}_{options.epochs}e_s{options.seed}"


def arguments() -> argparse.Namespace:
    """Returns the checked command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(PACKED))
    parser.add_argument("--float", required=True, help="the float .keras file")
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecords")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.rows = options.rows.split(",")
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"--rows must be of {sorted(ROWS)}. Received: {unknown}")
    options.float_sha256 = hash_of(parser, options.float)
    return options


def main() -> None:
    """Trains the rows that are not there yet."""
    options = arguments()
    for name in options.rows:
        if not is_there(label(name, options), options.float_sha256):
            train_row(name, options)


if __name__ == "__main__":
    main()
