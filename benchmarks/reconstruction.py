"""Pretrained networks quantized without labels, by `reconstruct_model`.

    python benchmarks/reconstruction.py dog_breeds --data=../shared/data --models=../shared/models
    python benchmarks/reconstruction.py vww --rows=half
    python benchmarks/reconstruction.py dog_breeds --rows=channels4 --images=400

Learns from the sample images with index % 5 != 0, or fewer of them, and measures the fidelity to
the float outputs on the 200 others, in LiteRT. Each row is a file
benchmarks/results/ours_NETWORK_ROW_sSEED.json, with fewer images ROW_IMAGESimages; rows whose file
is there are skipped. Latency: one thread, in turns with the stock int8 file.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import fidelity, latency, sample_images
from provenance import RESULTS, write_result

import ddq_tf
from ddq_tf.export.interpreter import Runner
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.layers import weighted_layers

STOCK_CALIBRATION_IMAGES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A pretrained network and what it takes.

    Attributes:
        path: below the folder of models.
        side: of its input images, px.
        scale: of RGB/127.5 - 1, then `offset` is added.
        offset: see scale.
    """

    path: str
    side: int
    scale: float = 1.0
    offset: float = 0.0


NETWORKS = {
    "dog_breeds": Network(path="dog_breeds/dog_breed_mobilenetv2.h5", side=160),
    "vww": Network(path="mlperf_tiny/vww_96.h5", side=96, scale=0.5, offset=0.5),
}
# Code bits count against a budget in bits; the files store them as INT4 and INT8, 6 bits as 8.
CODES: dict[str, Any] = {"target": "litert-int8", "precisions": (3, 4, 8)}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "channels4": (
        "2 to 8 bits for each channel, 4.0 on average, in 1,245,000 weight bytes",
        {
            "precisions": (2, 3, 4, 5, 6, 7, 8),
            "budget": "1245000bytes",
            "code_bits": 4.0,
            "channel_precision": True,
        },
    ),
    "mixed4": ("mixed, 4.0 bits on average", {**CODES, "budget": "4bits"}),
    "int4_int8": ("INT4 and INT8 in 1,365,000 weight bytes", {"budget": "1365000bytes"}),
    "int4_int8_small": (
        "INT4 and INT8 in 1,245,000 weight bytes",
        {"budget": "1245000bytes"},
    ),
    "int4": ("INT4 and few INT8, 4.2 stored bits on average", {"budget": "4.2bits"}),
    "half": ("INT4 and INT8, 60 % of the int8 bytes", {"budget": 0.6}),
    **{
        f"{widths}_{percent}": (
            f"INT{', INT'.join(map(str, bits))}, {percent} % of the int8 bytes",
            {"budget": percent / 100, "precisions": bits},
        )
        for widths, bits in (("int4_int8", (4, 8)), ("int2_int4_int8", (2, 4, 8)))
        for percent in (40, 50, 55, 60, 70)
    },
    "int8": ("8 bits", {"precisions": (8,), "budget": None}),
}


def run_row(name: str, options: argparse.Namespace) -> None:
    """Reconstructs, exports, measures and writes one row."""
    network, (title, fields) = NETWORKS[options.network], ROWS[name]
    model: Any = load_float_model(Path(options.models) / network.path)
    images = sample_images(Path(options.data) / "imagenet-sample-256.tfrecord", network.side)
    images = images * np.float32(network.scale) + np.float32(network.offset)
    held = np.arange(len(images)) % 5 == 0
    learned = thinned(images[~held], options.images)
    config = ddq_tf.DDQConfig(seed=options.seed, narrow_range=False, **fields)
    recipe = ddq_tf.ReconstructionConfig(seed=options.seed)
    start = time.monotonic()
    quantized, errors = ddq_tf.reconstruct_model(model, learned, config, recipe)
    wall_s = time.monotonic() - start
    folder = Path("runs") / label(name, options)
    folder.mkdir(parents=True, exist_ok=True)
    quantized.save(folder / "ddq.keras")
    ddq_tf.export.export_tflite(quantized, folder / "ddq.tflite", target="litert")
    content = (folder / "ddq.tflite").read_bytes()
    stock = ddq_tf.export.stock_int8(model, [images[~held][:STOCK_CALIBRATION_IMAGES]])
    check = ddq_tf.export.verify(quantized, content, [images[held]], target="litert")
    stock_fidelity = measured(model, stock, images[held])
    layers = weighted_layers(quantized)
    weights = sum(layer.quantizer.num_weights for layer in layers)
    results = {
        "network": options.network,
        "row": name,
        "float_sha256": hashlib.sha256(
            (Path(options.models) / network.path).read_bytes()
        ).hexdigest(),
        "title": f"reconstructed, {title}"
        + (f", from {len(learned)} images" if options.images else ""),
        "images": len(learned),
        "weight_bits": sum(x.quantizer.mean_bits * x.quantizer.num_weights for x in layers)
        / weights,
        "activation_bits": 8,
        "epochs": None,
        "training_s": wall_s,
        "file_bytes": len(content),
        "stock_file_bytes": len(stock),
        **measured(model, content, images[held]),
        "stock": stock_fidelity,
        **latency(content, stock),
        "note": f"the stock int8 file has {len(stock):,} bytes, a mean KL of "
        f"{stock_fidelity['mean_kl']:.3f} and {100 * stock_fidelity['top1_agreement']:.1f} % "
        f"equal answers, calibrated on {STOCK_CALIBRATION_IMAGES} images that are not held out",
        "equal_codes_share": check.equal_codes_share,
        "weight_codes_identical": check.weight_codes_identical,
        "delegation": dataclasses.asdict(check.delegation),
        "recipe": dataclasses.asdict(recipe),
        "bits": {layer.name: layer.quantizer.mean_bits for layer in layers},
        "block_errors": [dataclasses.asdict(error) for error in errors],
    }
    write_result(label(name, options), results, seed=options.seed)
    shown = ("weight_bits", "file_bytes", "mean_kl", "top1_agreement", "latency_ratio")
    print(name, {key: results[key] for key in shown}, f"{wall_s:.0f} s", flush=True)


def measured(model: Any, content: bytes, images: np.ndarray) -> dict[str, float]:
    """Returns a file's fidelity to the float model."""
    runner = Runner(content, num_threads=2)
    (codes,) = runner.run(runner.quantize_input(images)).values()
    return fidelity(model.predict(images, verbose=0), runner.dequantize(codes))


def label(name: str, options: argparse.Namespace) -> str:
    """Returns the name of a row's result file, without its ending."""
    images = f"_{options.images}images" if options.images else ""
    return f"ours_{options.network}_{name}{images}_s{options.seed}"


def thinned(images: np.ndarray, count: int | None) -> np.ndarray:
    """Returns `count` of the images, evenly spaced; all, if None."""
    return images if count is None else images[np.arange(count) * len(images) // count]


def main() -> None:
    """Runs the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecord")
    parser.add_argument("--models", default="../shared/models", help="folder of the networks")
    parser.add_argument("--rows", default="channels4", help="comma-separated")
    parser.add_argument("--images", type=int, help="to learn from; by default all 800")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    unknown = [name for name in options.rows.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"rows are {sorted(ROWS)}. Unknown: {unknown}")
    for name in options.rows.split(","):
        if (RESULTS / f"{label(name, options)}.json").exists():
            print(name, "is there", json.dumps(label(name, options)))
        else:
            run_row(name, options)


if __name__ == "__main__":
    main()
