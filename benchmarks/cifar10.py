"""CIFAR-10 from float to LiteRT through the command line, on all 10,000 test images.

    python benchmarks/cifar10.py resnet8 --data=../shared/data --models=../shared/models
    python benchmarks/cifar10.py mobilenet_v2 --data=../shared/data

Each step writes into runs/cifar10_NAME and is skipped where its file is there already, so an
interrupted run goes on. Writes benchmarks/results/cifar10_NAME.json. The images are CIFAR-10-JPEG:
re-encoded, so accuracies lie below those on the lossless set.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
from peers import data_spec
from provenance import write_result

import ddq_tf
from ddq_tf.data import Augment, batches, load
from ddq_tf.training import TrainConfig, fit_classifier

SEED = 0
RECIPES: dict[str, dict[str, Any]] = {
    "resnet8": {
        "input_range": "0,255",
        "float": {"epochs": 6, "learning_rate": 0.02},
        "ddq": ["--target=litert-compact", "--budget=4.3bits", "--epochs=16"],
        "targets": ("litert-int8", "litert-compact"),
    },
    "mobilenet_v2": {
        "input_range": "-1,1",
        "float": {"epochs": 24, "learning_rate": 0.1, "weight_decay": 1e-4},
        "ddq": ["--target=litert", "--budget=4.5bits", "--epochs=8", "--weight_decay=1e-4"],
        "targets": ("litert",),
    },
}
_TUNING = ["--optimizer=sgd", "--learning_rate=0.02", "--batch_size=128"]


def float_model(name: str, options: argparse.Namespace) -> Any:
    """Returns the untrained MobileNetV2, or the pretrained ResNet-8 of MLPerf Tiny."""
    if name == "resnet8":
        path = Path(options.models) / "mlperf_tiny" / "pretrainedResnet.h5"
        return keras.models.load_model(path, compile=False)
    return ddq_tf.models.mobilenet_v2(
        (32, 32, 3), alpha=0.5, classes=10, output_stride=16, batch_norm_momentum=0.95
    )


def train_float(name: str, options: argparse.Namespace, folder: Path, spec: str) -> None:
    """Trains or fine-tunes the float model."""
    recipe = RECIPES[name]
    keras.utils.set_random_seed(SEED)
    dataset = load(spec)
    low, high = (float(v) for v in recipe["input_range"].split(","))
    model = float_model(name, options)
    config = TrainConfig(batch_size=128, optimizer="sgd", seed=SEED, **recipe["float"])
    train = batches(
        dataset,
        "train",
        batch_size=128,
        input_range=(low, high),
        augment=Augment(flip=True, pad_crop=4),
        shuffle=True,
        seed=SEED,
        drop_remainder=True,
    )
    fit_classifier(
        model,
        train,
        batches(dataset, "val", batch_size=250, input_range=(low, high)),
        config,
        steps_per_epoch=dataset.sizes["train"] // 128,
        checkpoint_dir=folder / "float",
        verbose=2,
    )
    model.save(folder / "float.keras")


def ddq(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Runs a `ddq` command unless its JSON is there; returns its results."""
    record = folder / f"{name}.json"
    if not record.exists():
        command = [sys.executable, "-m", "ddq_tf", *arguments, f"--json={record}"]
        done = subprocess.run(command, check=False)
        if not record.exists():
            raise SystemExit(done.returncode)
    values = json.loads(record.read_text())
    return {"wall_s": values["wall_s"], **values["results"]}


def main() -> None:
    """Runs what is missing and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecords")
    parser.add_argument("--models", default="../shared/models", help="folder of mlperf_tiny/")
    options = parser.parse_args()
    name, recipe = options.model, RECIPES[options.model]
    folder = Path("runs") / f"cifar10_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    spec = data_spec(options)
    data = [f"--data={spec}", f"--input_range={recipe['input_range']}"]
    if not (folder / "float.keras").exists():
        train_float(name, options, folder, spec)
    floating, trained = f"{folder}/float.keras", f"{folder}/ddq.keras"
    results: dict[str, Any] = {
        "float": ddq(folder, "float_accuracy", "evaluate", floating, *data),
        "quantize": ddq(
            folder,
            "quantize",
            "quantize",
            floating,
            *data,
            *recipe["ddq"],
            *_TUNING,
            f"--out={trained}",
            f"--checkpoint_dir={folder}/checkpoint",
            "--resume",
        ),
    }
    for target in recipe["targets"]:
        file = f"{folder}/{target}.tflite"
        exported = ["export", trained, f"--out={file}", f"--target={target}"]
        checked = ["verify", trained, file, *data, f"--target={target}"]
        results[target] = {
            "export": ddq(folder, f"{target}_export", *exported),
            "verify": ddq(folder, f"{target}_verify", *checked),
            "evaluate": ddq(folder, f"{target}_evaluate", "evaluate", file, *data),
        }
    page = ["--out", f"{folder}/report.html", "--float", floating]
    report = ddq(
        folder, "report", "report", trained, *data, *page, f"--target={recipe['targets'][0]}"
    )
    results["variants"] = report["variants"]
    write_result(f"cifar10_{name}", results, seed=SEED)
    print(json.dumps(results["variants"], indent=1))


if __name__ == "__main__":
    main()
