"""Peers on the same float weights and test images: stock converter, LiteRT, TFMOT, MCT, HGQ2.

    python benchmarks/peers.py resnet8 --float=runs/cifar10_resnet8/float.keras \
        --data=../shared/data --rows=float,stock_int8
    python benchmarks/peers.py resnet8 --float=... --rows=tfmot_qat --epochs=20 --peer_python=PATH
    python benchmarks/peers.py dog_breeds --float=../shared/models/dog_breeds/*.h5 --rows=...

Each row is a file benchmarks/results/peer_NETWORK_ROW[_EPOCHSe]_sSEED.json; rows whose file is
there are skipped. A peer runs in a process of its own under `--peer_python`, an interpreter that
has its packages; its work is kept in runs/ and an interrupted training resumes at its last epoch.
CIFAR-10-JPEG: accuracy on the 10,000 test images in LiteRT. dog_breeds: fidelity to the float
outputs on the images with index % 5 == 0, calibrated on the others. Latency: one thread, in turns
with the stock int8 file. `--smoke=STEPS` trains so few steps, measures 256 images, writes nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from peer_workers import portable, task
from provenance import is_there, write_result

import ddq_tf
from ddq_tf.export.interpreter import Runner
from ddq_tf.jobs.images import Images, open_for_model
from ddq_tf.jobs.measure import keras_accuracy, litert_accuracy
from ddq_tf.jobs.reconstruct import fidelity_of
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import DataOptions

WORKERS = Path(__file__).parent / "peer_workers"
CALIBRATION_IMAGES = 512  # as ddq_tf.DDQConfig
BATCH_SIZE = 128
LATENCY_RUNS = 600
SMOKE_IMAGES = 256
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet8": {"input_range": (0.0, 255.0), "weight_decay": 0.0},
    "mobilenet_v2": {"input_range": (-1.0, 1.0), "weight_decay": 1e-4},
    "dog_breeds": {"input_range": (-1.0, 1.0)},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        title: as the page shows it.
        weight_bits: nominal; None for float.
        activation_bits: likewise.
        worker: file in peer_workers, None where this process does the work.
        package: that the worker's interpreter needs.
        settings: for the worker.
        trains: whether it needs labels and epochs.
        note: what a reader must know to compare it.
    """

    title: str
    weight_bits: int | None = 8
    activation_bits: int | None = 8
    worker: str | None = None
    package: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    trains: bool = False
    note: str = ""


def _litert_row(title: str, bits: int, algorithm: str = "min_max_uniform_quantize") -> Row:
    return Row(
        title=title,
        weight_bits=bits,
        worker="run_litert_quantizer.py",
        package="litert-quantizer",
        settings={"weight_bits": bits, "algorithm": algorithm},
        note="depthwise weights of 8 bits: its policy has no others" if bits == 4 else "",
    )


ROWS: dict[str, Row] = {
    "float": Row(title="float", weight_bits=None, activation_bits=None),
    "float_trained_on": Row(
        title="float, trained on",
        weight_bits=None,
        activation_bits=None,
        worker="run_float.py",
        package="keras",
        trains=True,
        note="the float weights after the epochs of the rows that train, by the same recipe",
    ),
    "stock_int8": Row(title="stock converter, post-training"),
    "litert_quantizer_w8a8": _litert_row("litert-quantizer, post-training", 8),
    "litert_quantizer_w4a8": _litert_row("litert-quantizer, post-training", 4),
    "litert_quantizer_w4a8_octav": _litert_row("litert-quantizer OCTAV, post-training", 4, "OCTAV"),
    "tfmot_qat": Row(
        title="TFMOT, quantization-aware training",
        worker="run_tfmot.py",
        package="tensorflow-model-optimization",
        trains=True,
    ),
    "mct_mixed": Row(
        title="Sony MCT mixed precision, post-training",
        weight_bits=4,
        worker="run_mct.py",
        package="model-compression-toolkit",
        settings={"weight_bits": 4},
        note="LiteRT file with float32 weights on the grid: it packs none below 8 bits",
    ),
    "hgq2": Row(
        title="HGQ2, quantization-aware training",
        weight_bits=4,
        worker="run_hgq2.py",
        package="hgq2",
        settings={
            "weight_bits": 4,
            "activation_bits": 8,
            "optimizer": "adam",
            "learning_rate": 1e-3,
        },
        trains=True,
        note="accuracy in Keras: it exports to FPGAs, not to LiteRT; bits differ from weight to "
        "weight, and telling them apart is not counted",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and how its files are measured.

    Attributes:
        model: float.
        calibration: float32 training images.
        measure: from a .tflite file's content to figures.
        float_figures: of the Keras model, by the same names or "keras_accuracy".
    """

    model: keras.Model
    calibration: np.ndarray = dataclasses.field(repr=False)
    measure: Callable[[bytes], dict[str, Any]]
    float_figures: Callable[[], dict[str, Any]]


def classifier(options: argparse.Namespace) -> Subject:
    """Returns a CIFAR-10 network."""
    model: Any = keras.models.load_model(options.float, compile=False)
    network = NETWORKS[options.network]
    images: Images = open_for_model(
        DataOptions(
            spec=data_spec(options),
            input_range=network["input_range"],
            batch_size=BATCH_SIZE,
            limit=SMOKE_IMAGES if options.smoke else None,
        ),
        model,
    )
    screen = Screen()
    return Subject(
        model=model,
        calibration=np.concatenate(images.calibration(CALIBRATION_IMAGES, options.seed)),
        measure=lambda content: {
            "litert_accuracy": litert_accuracy(content, images, "test", screen)
        },
        float_figures=lambda: {"keras_accuracy": keras_accuracy(model, images, "test", screen)},
    )


def data_spec(options: argparse.Namespace) -> str:
    """Returns CIFAR-10-JPEG as `ddq_tf.data.load` takes it."""
    names = (f"{options.data}/cifar10-{split}.tfrecord" for split in ("train", "test"))
    return f"tfrecord:{','.join(names)}"


def dog_breeds(options: argparse.Namespace) -> Subject:
    """Returns the pretrained dog breed network, measured against its own float outputs."""
    model: Any = keras.models.load_model(options.float, compile=False)
    images = sample_images(Path(options.data) / "imagenet-sample-256.tfrecord", side=160)
    held = np.arange(len(images)) % 5 == 0
    rest, held_out = images[~held], images[held]
    chosen = np.random.default_rng(options.seed).choice(len(rest), CALIBRATION_IMAGES, False)
    expected = np.asarray(model.predict(held_out, verbose="0"))

    def measure(content: bytes) -> dict[str, Any]:
        runner = Runner(content, num_threads=2)
        (codes,) = runner.run(runner.quantize_input(held_out)).values()
        return fidelity(expected, runner.dequantize(codes))

    return Subject(
        model=model,
        calibration=rest[np.sort(chosen)],
        measure=measure,
        float_figures=dict,
    )


def sample_images(path: Path, side: int, crop: float = 1.0) -> np.ndarray:
    """Returns the images of a TFRecord, RGB/127.5 - 1, float32, (images, side, side, 3).

    Args:
        path: of the file.
        side: of the images, px.
        crop: share of the shorter side that the central square takes, before it is resized.
    """
    import tensorflow as tf

    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    images = []
    for record in tf.data.TFRecordDataset(str(path)):
        encoded = tf.io.parse_single_example(record, features)["image/encoded"]
        image: Any = tf.cast(tf.io.decode_jpeg(encoded, channels=3), tf.float32)
        height, width, _ = image.shape
        short = round(crop * min(height, width))
        top, left = (height - short) // 2, (width - short) // 2
        square = image[top : top + short, left : left + short]
        images.append(tf.image.resize(square, (side, side)).numpy() / 127.5 - 1)
    return np.stack(images).astype(np.float32)


def fidelity(expected: np.ndarray, outputs: np.ndarray) -> dict[str, Any]:
    """Returns how near outputs c are to the float model's p, both softmax, shape (n, classes).

    mean_kl is the mean over images of sum p (ln(p + 1e-6) - ln(c + 1e-6)); agreements are shares
    of equal largest outputs, the confident one among images with max p > 0.5.
    """
    p, c = np.asarray(expected, np.float64), np.asarray(outputs, np.float64)
    sure = p.max(axis=1) > 0.5
    every, confident = (
        fidelity_of(p[of], c[of], probabilities=True) for of in (np.full(len(p), True), sure)
    )
    return {
        "mean_kl": every.kl_divergence,
        "top1_agreement": every.top1_agreement,
        "confident_agreement": confident.top1_agreement,
        "images": every.num_samples,
        "confident_images": confident.num_samples,
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities, float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def prepare(subject: Subject, common: Path) -> None:
    """Writes what the rows share: float and stock files, calibration images, the portable twin."""
    common.mkdir(parents=True, exist_ok=True)
    if (common / "stock_int8.tflite").exists():
        return
    np.save(common / "calibration.npy", subject.calibration)
    outputs = subject.model.predict(subject.calibration[:64], verbose="0")
    np.save(common / "float_outputs.npy", outputs)
    portable.save(subject.model, common)
    (common / "float.tflite").write_bytes(float_tflite(subject.model))
    stock = ddq_tf.export.stock_int8(subject.model, [subject.calibration])
    (common / "stock_int8.tflite").write_bytes(stock)  # last: it says that all is there


def float_tflite(model: keras.Model) -> bytes:
    """Returns the stock converter's float file."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def work(name: str, options: argparse.Namespace, common: Path, folder: Path) -> dict[str, Any]:
    """Has a peer do its work in `folder`, unless it is done; returns what it tells.

    Raises:
        SystemExit: if the peer's interpreter lacks its package, or the work failed.
    """
    row = ROWS[name]
    told = {"peer_version": peer_version(row, options.peer_python)}
    if not (folder / task.DONE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        todo = {
            "common": str(common.resolve()),
            "data": data_spec(options),
            "input_range": NETWORKS[options.network]["input_range"],
            "weight_decay": NETWORKS[options.network].get("weight_decay", 0.0),
            "batch_size": BATCH_SIZE,
            "learning_rate": options.learning_rate,
            "epochs": options.epochs,
            "seed": options.seed,
            "steps": options.smoke,
            **row.settings,
        }
        (folder / task.TASK).write_text(json.dumps(todo, indent=1))
        command = [options.peer_python, str(WORKERS / str(row.worker)), str(folder)]
        done = subprocess.run(command, env=_environment(), check=False)
        if not (folder / task.DONE).exists():
            raise SystemExit(f"{name}: {row.worker} failed with status {done.returncode}")
    return told | json.loads((folder / task.DONE).read_text())


def peer_version(row: Row, python: str) -> str:
    """Returns the version of a row's package in an interpreter.

    Raises:
        SystemExit: if it is not there.
    """
    code = f"import importlib.metadata as m; print(m.version({row.package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{row.title} needs the package {row.package}, which {python} does not have. Install "
            "it in a virtual environment and pass its interpreter as --peer_python=PATH"
        )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def latency(content: bytes, stock: bytes) -> dict[str, Any]:
    """Returns the time of one inference beside the stock int8 file's, run in turns."""
    load = os.getloadavg()[0]
    files = {"stock": stock, "row": content}
    rows = ddq_tf.export.benchmark(files, runs=LATENCY_RUNS)
    return {
        "latency_ratio": rows[1].ratio,
        "latency_ms": rows[1].median_ms,
        "stock_latency_ms": rows[0].median_ms,
        "load_average": load,
    }


def run_row(name: str, options: argparse.Namespace, subject: Subject, runs: Path) -> None:
    """Makes one row's file, measures it and writes the result."""
    row = ROWS[name]
    common = runs / f"peers_{options.network}_{options.float_sha256[:8]}_s{options.seed}"
    prepare(subject, common)
    told: dict[str, Any] = {}
    file = common / f"{name}.tflite"
    if row.worker:
        file = common / label(name, options) / task.MODEL
        told = work(name, options, common, file.parent)
    figures = subject.float_figures() if name == "float" else {}
    if file.exists():
        content = file.read_bytes()
        stock = (common / "stock_int8.tflite").read_bytes()
        figures |= {"file_bytes": len(content), **subject.measure(content)}
        figures |= latency(content, stock)
    learning_rate = row.settings.get("learning_rate", options.learning_rate)
    results = {
        "network": options.network,
        "row": name,
        "title": row.title,
        "note": row.note,
        "weight_bits": row.weight_bits,
        "activation_bits": row.activation_bits,
        "epochs": options.epochs if row.trains else None,
        "learning_rate": learning_rate if row.trains else None,
        "calibration_images": None if name == "float" else CALIBRATION_IMAGES,
        "float_sha256": options.float_sha256,
        **({"settings": row.settings} if row.settings else {}),
        **told,
        **figures,
    }
    if options.smoke:
        print(json.dumps(results, indent=1, default=float))
    else:
        write_result(label(name, options), results, seed=options.seed)
        print(name, {key: results.get(key) for key in ("reason", *figures)})


def label(name: str, options: argparse.Namespace) -> str:
    """Returns the name of a row's result."""
    epochs = f"_{options.epochs}e" if ROWS[name].trains else ""
    return f"peer_{options.network}_{name}{epochs}_s{options.seed}"


def hash_of(parser: argparse.ArgumentParser, path: str) -> str:
    """Returns the SHA-256 of the float file, or ends with the parser's error."""
    if not Path(path).is_file():
        parser.error(f"--float must be a file. Received: {path!r}")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def arguments() -> argparse.Namespace:
    """Returns the checked command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--float", required=True, help="the float .keras or .h5 file")
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecords")
    parser.add_argument("--rows", help="comma-separated; all that suit the network by default")
    parser.add_argument("--epochs", type=int, default=20, help="of rows that train")
    parser.add_argument("--learning_rate", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer_python", default=sys.executable, help="interpreter of the peer")
    parser.add_argument("--smoke", type=int, default=0, metavar="STEPS")
    options = parser.parse_args()
    labelled = options.network != "dog_breeds"
    suiting = [name for name, row in ROWS.items() if labelled or not row.trains]
    rows = options.rows.split(",") if options.rows else suiting
    unknown = [name for name in rows if name not in suiting]
    if unknown:
        parser.error(f"--rows must be of {suiting} for {options.network}. Received: {unknown}")
    options.rows = rows
    options.float_sha256 = hash_of(parser, options.float)
    if options.smoke:
        options.epochs = 1
    return options


def main() -> None:
    """Runs the rows that are missing."""
    options = arguments()
    missing = [
        name
        for name in options.rows
        if options.smoke or not is_there(label(name, options), options.float_sha256)
    ]
    if not missing:
        return
    subject = (dog_breeds if options.network == "dog_breeds" else classifier)(options)
    with tempfile.TemporaryDirectory() as scratch:
        for name in missing:
            run_row(name, options, subject, Path(scratch if options.smoke else "runs"))


if __name__ == "__main__":
    main()
