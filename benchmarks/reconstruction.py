"""Pretrained networks quantized without labels, by `reconstruct_model`.

    python benchmarks/reconstruction.py dog_breeds --data=../shared/data --models=../shared/models
    python benchmarks/reconstruction.py vww --rows=half
    python benchmarks/reconstruction.py dog_breeds --rows=channels4 --images=400
    python benchmarks/reconstruction.py efficientnet_lite0 --rows=half --images=200

Learns from the sample images with index % 5 != 0, or fewer of them, and measures the fidelity to
the float outputs on the 200 others, in LiteRT; where it learns from fewer, also on all that it did
not learn from, as "unseen". Each row is a file
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
from peers import fidelity, latency, sample_images, softmax
from provenance import RESULTS, write_result

import ddq_tf
from ddq_tf.export.interpreter import Runner
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.layers import weighted_layers
from ddq_tf.training import output_activation

STOCK_CALIBRATION_IMAGES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A pretrained network and what it takes.

    Attributes:
        path: below the folder of models.
        side: of its input images, px.
        scale: of RGB/127.5 - 1, then `offset` is added.
        offset: see scale.
        crop: share of an image's shorter side that it sees.
        labels: whether class i is that of sample image i.
    """

    path: str
    side: int
    scale: float = 1.0
    offset: float = 0.0
    crop: float = 1.0
    labels: bool = False

    def images(self, data: Path) -> np.ndarray:
        """Returns the sample images as the network takes them."""
        images = sample_images(data / "imagenet-sample-256.tfrecord", self.side, self.crop)
        return images * np.float32(self.scale) + np.float32(self.offset)


NETWORKS = {
    "dog_breeds": Network(path="dog_breeds/dog_breed_mobilenetv2.h5", side=160),
    "vww": Network(path="mlperf_tiny/vww_96.h5", side=96, scale=0.5, offset=0.5),
    "efficientnet_lite0": Network(
        path="efficientnet_lite0/efficientnet_lite0.keras",
        side=224,
        scale=127.5 / 128,  # to (RGB - 127) / 128
        offset=0.5 / 128,
        crop=224 / 256,
        labels=True,
    ),
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
    "int4_int8_half": (
        "INT4 and INT8 in 1,176,000 weight bytes",
        {"budget": "1176000bytes"},
    ),
    "int2_int4_int8_less": (
        "INT2, INT4 and INT8 in 1,005,000 weight bytes",
        {"budget": "1005000bytes", "precisions": (2, 4, 8)},
    ),
    "int2_int4_int8_2355000": (
        "INT2, INT4 and INT8 in 2,355,000 weight bytes",
        {"budget": "2355000bytes", "precisions": (2, 4, 8)},
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
    images = network.images(Path(options.data))
    held = np.arange(len(images)) % 5 == 0
    chosen = thinned(np.flatnonzero(~held), options.images)
    unseen = np.setdiff1d(np.arange(len(images)), chosen)
    learned = images[chosen]
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
    calibration = images[chosen[:STOCK_CALIBRATION_IMAGES]]
    stock = ddq_tf.export.stock_int8(model, [calibration])
    check = ddq_tf.export.verify(quantized, content, [images[held]], target="litert")
    both = Measured.of(model, images, network.labels)
    ours, theirs = both.answers(content), both.answers(stock)
    stock_fidelity = both.fidelity(theirs, np.flatnonzero(held))
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
        **both.fidelity(ours, np.flatnonzero(held)),
        "stock": stock_fidelity,
        "unseen": both.fidelity(ours, unseen),
        "stock_unseen": both.fidelity(theirs, unseen),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """The sample images, and what the float network says of them.

    Attributes:
        images: as the network takes them.
        expected: the float probabilities, float64.
        gives_logits: whether the network's own outputs are no probabilities yet.
        labels: whether class i is that of image i.
    """

    images: np.ndarray
    expected: np.ndarray
    gives_logits: bool
    labels: bool

    @classmethod
    def of(cls, model: Any, images: np.ndarray, labels: bool) -> Measured:
        """Asks the float network."""
        gives_logits = output_activation(model) != "softmax"
        outputs = model.predict(images, verbose=0)
        expected = softmax(outputs) if gives_logits else outputs
        return cls(images=images, expected=expected, gives_logits=gives_logits, labels=labels)

    def answers(self, content: bytes) -> np.ndarray:
        """Returns a file's probabilities of all images, in LiteRT."""
        runner = Runner(content, num_threads=2)
        (codes,) = runner.run(runner.quantize_input(self.images)).values()
        outputs = runner.dequantize(codes)
        return softmax(outputs) if self.gives_logits else outputs

    def fidelity(self, answers: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        """Returns how near answers are to the float network's on some images, by their numbers."""
        found = fidelity(self.expected[chosen], answers[chosen])
        if self.labels:
            for name, given in (("top1", answers), ("float_top1", self.expected)):
                found[name] = float(np.mean(given[chosen].argmax(axis=-1) == chosen))
        return found


def label(name: str, options: argparse.Namespace) -> str:
    """Returns the name of a row's result file, without its ending."""
    images = f"_{options.images}images" if options.images else ""
    return f"ours_{options.network}_{name}{images}_s{options.seed}"


def thinned(numbers: np.ndarray, count: int | None) -> np.ndarray:
    """Returns `count` of the numbers, evenly spaced; all, if None."""
    return numbers if count is None else numbers[np.arange(count) * len(numbers) // count]


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
