"""What each part of DDQ is worth: the same float weights, recipe and seed, one part changed.

    python benchmarks/ablations.py resnet8 --float=runs/cifar10_resnet8/float.keras \
        --data=../shared/data [--rows=fixed4,mixed4] [--epochs=6] [--seed=0]
    python benchmarks/ablations.py --write

Trains one row after the other on CIFAR-10-JPEG, exports it, and measures it in LiteRT on the 10,000
test images: with the codes in INT8, and in the smallest file that holds them. Each row is a file
benchmarks/results/ablation_NETWORK_ROW_EPOCHSe_sSEED.json; rows whose file is there are skipped, an
interrupted row resumes at its last epoch. `--write` makes docs/ablations.md of all of them.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import hashlib
import itertools
import json
import time
from pathlib import Path
from typing import Any

from peers import latency
from provenance import RESULTS, write_result

PAGE = Path(__file__).parent.parent / "docs" / "ablations.md"
CURVES = ("free4", "free4_uncorrected")  # with and without gradient correction
CODES: dict[str, Any] = {"target": "litert-int8"}
FREE: dict[str, Any] = {**CODES, "levels": "free"}
MIXED: dict[str, Any] = {"precisions": (2, 3, 4, 6, 8)}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "fixed4": ("4 bits everywhere", {**CODES, "precisions": (4,), "budget": None}),
    "mixed4": ("mixed, 4 bits on average", {**CODES, **MIXED, "budget": "4bits"}),
    "fixed4_per_tensor": (
        "4 bits, one range per tensor",
        {**CODES, "precisions": (4,), "budget": None, "per_channel": False},
    ),
    "free4": ("4 bits, free levels", {**FREE, "precisions": (4,), "budget": None}),
    "free4_kmeans": (
        "4 bits, free levels from k-means",
        {**FREE, "precisions": (4,), "budget": None, "level_init": "kmeans"},
    ),
    "free4_uncorrected": (
        "4 bits, free levels, no gradient correction",
        {**FREE, "precisions": (4,), "budget": None, "correction": 0.0},
    ),
    "free4_per_tensor": (
        "4 bits, free levels, one range per tensor",
        {**FREE, "precisions": (4,), "budget": None, "per_channel": False},
    ),
    "mixed4_free": (
        "mixed, 4 bits on average, free levels",
        {**FREE, **MIXED, "budget": "4bits"},
    ),
    "fixed3": ("3 bits everywhere", {**CODES, "precisions": (3,), "budget": None}),
    "mixed3": ("mixed, 3 bits on average", {**CODES, **MIXED, "budget": "3bits"}),
    "mixed3_free": (
        "mixed, 3 bits on average, free levels",
        {**FREE, **MIXED, "budget": "3bits"},
    ),
    "fixed2_free": ("2 bits, free levels", {**FREE, "precisions": (2,), "budget": None}),
    "fixed2": ("2 bits everywhere", {**CODES, "precisions": (2,), "budget": None}),
    "mixed2.5": ("mixed, 2.5 bits on average", {**CODES, **MIXED, "budget": "2.5bits"}),
    "mixed2.3": ("mixed, 2.3 bits on average", {**CODES, **MIXED, "budget": "2.3bits"}),
    "mixed2.3_free": (
        "mixed, 2.3 bits on average, free levels",
        {**FREE, **MIXED, "budget": "2.3bits"},
    ),
    "w4a4": (
        "4 bits everywhere, 4-bit activations",
        {**CODES, "precisions": (4,), "budget": None, "activation_bits": 4},
    ),
    "mixed_w4a4": (
        "mixed, 4 bits on average for weights and for activations",
        {
            **CODES,
            **MIXED,
            "budget": "4bits",
            "activation_bits": (2, 3, 4, 6, 8),
            "activation_budget": 4.0,
        },
    ),
}
ROWS["w4a4_distilled"] = ("4 bits, 4-bit activations, distilled from float", ROWS["w4a4"][1])
for _name in ("mixed4", "mixed3", "mixed2.5", "mixed_w4a4"):
    ROWS[f"{_name}_distilled"] = (f"{ROWS[_name][0]}, distilled from float", ROWS[_name][1])
DISTILL = 0.5
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet8": {"input_range": (0.0, 255.0), "weight_decay": 0.0, "packed": "litert-compact"},
    "mobilenet_v2": {"input_range": (-1.0, 1.0), "weight_decay": 1e-4, "packed": "litert"},
}


def train_row(name: str, options: argparse.Namespace) -> None:
    """Trains, exports and measures one row, and writes its result."""
    import ddq_tf
    from ddq_tf.jobs.images import DataOptions
    from ddq_tf.jobs.loading import load_float_model
    from ddq_tf.jobs.measure import compare, litert_accuracy
    from ddq_tf.jobs.quantize import quantize_float
    from ddq_tf.jobs.screen import Screen
    from ddq_tf.training import TrainConfig

    network = NETWORKS[options.network]
    title, fields = ROWS[name]
    label = f"ablation_{options.network}_{name}_{options.epochs}e_s{options.seed}"
    folder = Path("runs") / label
    folder.mkdir(parents=True, exist_ok=True)
    splits = (f"{options.data}/cifar10-{split}.tfrecord" for split in ("train", "test"))
    data = DataOptions(
        spec=f"tfrecord:{','.join(splits)}", input_range=network["input_range"], batch_size=128
    )
    config = TrainConfig(
        epochs=options.epochs,
        batch_size=128,
        optimizer="sgd",
        learning_rate=options.learning_rate,
        weight_decay=network["weight_decay"],
        seed=options.seed,
        distill=DISTILL if name.endswith("_distilled") else 0.0,
    )
    screen = Screen()
    start = time.monotonic()
    done = quantize_float(
        options.float,
        data,
        ddq_tf.DDQConfig(seed=options.seed, **fields),
        config,
        out=folder / "ddq.keras",
        checkpoint_dir=folder / "checkpoint",
        screen=screen,
    )
    training_s = time.monotonic() - start
    file = folder / "ddq.tflite"
    ddq_tf.export.export_tflite(done.model, file, target="litert-int8")
    content = file.read_bytes()
    same = compare(done.model, content, done.images, "test", screen, target="litert-int8")
    packed = folder / "packed.tflite"
    ddq_tf.export.export_tflite(done.model, packed, target=network["packed"])
    calibration = done.images.calibration(ddq_tf.DDQConfig().calibration_images, options.seed)
    stock = ddq_tf.export.stock_int8(load_float_model(options.float), calibration)
    results = {
        "row": name,
        "title": title,
        "network": options.network,
        "epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "keras_accuracy": done.accuracy,
        "litert_accuracy": litert_accuracy(content, done.images, "test", screen),
        "top1_agreement": same.top1_agreement,
        "equal_codes_share": same.equal_codes_share,
        "max_lsb": same.max_lsb,
        "average_bits": done.average_bits,
        "weights_size_bytes": done.weights_size_bytes,
        "packed_target": network["packed"],
        "file_bytes": packed.stat().st_size,
        "packed_litert_accuracy": litert_accuracy(packed.read_bytes(), done.images, "test", screen),
        **latency(packed.read_bytes(), stock),
        "training_s": training_s,
        "float_sha256": hashlib.sha256(Path(options.float).read_bytes()).hexdigest(),
        "bits": done.bits,
        "activation_bits": {
            layer.name: layer.quantizer.num_bits
            for layer in ddq_tf.layers.activation_layers(done.model)
        },
        "history": done.history,
    }
    write_result(label, results, seed=options.seed)


def page() -> str:
    """Returns docs/ablations.md, and draws its figure."""
    lines = [
        "# Ablations",
        "",
        "CIFAR-10-JPEG, accuracy in LiteRT on the 10,000 test images; written by",
        "`python benchmarks/ablations.py --write` from benchmarks/results. Weight bytes count code",
        "bits; the error is the sum of (w - x_q)^2 over that of w^2 after the last epoch, where it",
        "was recorded. One standard error of an accuracy is about 0.37 points: rows closer to each",
        "other do not differ. A mixed row spends half of its epochs on the search. Float files go",
        "by the beginning of their SHA-256.",
    ]
    records = [
        json.loads(path.read_text())["results"] | {"seed": json.loads(path.read_text())["seed"]}
        for path in sorted(RESULTS.glob("ablation_*.json"))
    ]
    order = [title for title, _ in ROWS.values()]
    records.sort(key=lambda r: (list(NETWORKS).index(r["network"]), r["float_sha256"]))
    for start, group in itertools.groupby(records, lambda r: (r["network"], r["float_sha256"][:8])):
        rows = sorted(group, key=lambda r: (r["epochs"], order.index(r["title"]), r["seed"]))
        lines += ["", f"## {start[0]}, float file {start[1]}", ""]
        lines += ["| | bits | weight bytes | epochs | seed | error | val % | LiteRT test % |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r['title']} | {r['average_bits']:.2f} | {r['weights_size_bytes']:,} "
            f"| {r['epochs']} | {r['seed']} | {last_error(r)} "
            f"| {100 * r['keras_accuracy']['val']:.2f} | {100 * r['litert_accuracy']:.2f} |"
            for r in rows
        ]
    curves = {r["title"]: r["history"]["quantization_error"] for r in curve_rows(records)}
    if curves:
        from ddq_tf.report.plots import error_figure, save_png

        save_png(error_figure(curves), PAGE.with_name("ablations_error.png"))
        lines += ["", "## Gradient correction", ""]
        lines += ["Quantization error of ResNet-8's weights over the epochs, free levels:", ""]
        lines += ["![Quantization error with and without correction](ablations_error.png)"]
    return "\n".join(lines) + "\n"


def last_error(record: dict[str, Any]) -> str:
    """Returns the quantization error of the weights after training, or nothing."""
    errors = record["history"].get("quantization_error")
    return f"{errors[-1]:.4f}" if errors else ""


def curve_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with and without gradient correction."""
    titles = [ROWS[name][0] for name in CURVES]
    rows = [r for r in records if r["network"] == "resnet8" and r["title"] in titles]
    return sorted(rows, key=lambda r: titles.index(r["title"]))


def main() -> None:
    """Trains the rows asked for, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", choices=sorted(NETWORKS))
    parser.add_argument("--write", action="store_true", help="write docs/ablations.md")
    parser.add_argument("--float", help="the float .keras file")
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecords")
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(page())
        return
    unknown = [name for name in options.rows.split(",") if name not in ROWS]
    if unknown or not options.network or not options.float:
        parser.error(f"needs a network, --float, and rows of {sorted(ROWS)}. Unknown: {unknown}")
    for name in options.rows.split(","):
        label = f"ablation_{options.network}_{name}_{options.epochs}e_s{options.seed}"
        if not (RESULTS / f"{label}.json").exists():
            train_row(name, options)


if __name__ == "__main__":
    main()
