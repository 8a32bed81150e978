"""A pretrained network, quantized on ImageNet on all GPUs of one computer, measured in LiteRT.

    python examples/imagenet.py --out=runs/imagenet
    python examples/imagenet.py --network=EfficientNetV2B0 --budget=0.5 --epochs=20 --out=runs/v2

The same command after an interruption goes on where it was. Without ImageNet, any data will do
that `ddq` takes, and any .keras file: --data=tfrecord:... --network=FILE.keras
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from ddq_tf import DDQConfig, jobs
from ddq_tf.files import atomic_write_bytes
from ddq_tf.training import TrainConfig, forget_training

RATE_OF_256 = 0.01  # with SGD; it grows with the batch
BATCHES_REESTIMATED = 100


def main() -> None:
    """Quantizes, trains, exports, proves and measures."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    images = jobs.DataOptions(
        spec=options.data, crop=options.crop, batch_size=options.batch_size, limit=options.limit
    )
    recipe = TrainConfig(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=RATE_OF_256 * options.batch_size / 256,
        distill=0.5,
        reestimate_batch_norm=BATCHES_REESTIMATED,
        seed=options.seed,
    )
    config = DDQConfig(budget=options.budget, precisions=options.precisions, seed=options.seed)
    screen, kept = jobs.Screen(Console()), options.out / "checkpoint"
    strategy = strategy_of(tf.config.list_logical_devices(options.device))
    with strategy.scope():
        trained = jobs.quantize_float(
            network(options.network),
            images,
            config,
            recipe,
            out=options.out / "ddq.keras",
            augment=options.augment,
            checkpoint_dir=kept,
            screen=screen,
        )
    forget_training(kept)
    file = jobs.export_file(trained.path, options.out / "ddq.tflite")
    proof: Any = jobs.verify_file(trained.path, file.path, images, split="val", screen=screen)
    measured = jobs.evaluate_file(
        file.path,
        images,
        metrics=("accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5")),
        screen=screen,
    )
    results = {
        "replicas": strategy.num_replicas_in_sync,
        "budget": options.budget,
        "file_bytes": file.size_bytes,
        "keras": trained.accuracy,
        "litert": measured.metrics,
        "images": measured.num_samples,
        "equal_codes_share": proof.equal_codes_share,
        "delegated": f"{proof.delegation.delegated_ops} of {proof.delegation.total_ops}",
        "recipe": dataclasses.asdict(recipe),
    }
    text = json.dumps(results, indent=1)
    atomic_write_bytes(options.out / "results.json", f"{text}\n".encode())
    print(text)


def strategy_of(devices: list[Any]) -> tf.distribute.Strategy:
    """Returns what spreads each batch over several devices, or the default for one."""
    if len(devices) < 2:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def network(name: str) -> Any:
    """Returns a network of keras.applications with its ImageNet weights, or a file's."""
    if name.endswith((".keras", ".h5")):
        return jobs.load_float_model(name)
    return getattr(keras.applications, name)(weights="imagenet")


def arguments() -> argparse.Namespace:
    """Returns what the user asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="MobileNetV2", help="keras.applications, or a file")
    parser.add_argument("--data", default="tfds:imagenet2012")
    parser.add_argument("--crop", type=float, default=0.875, help="share seen in evaluation")
    parser.add_argument("--augment", default="flip,least_area=0.25")
    parser.add_argument("--budget", default="0.55", help="of the weights, as DDQConfig takes it")
    parser.add_argument("--precisions", type=json.loads, help="as in [2,4,8]; by default 4 and 8")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=256, help="of all devices together")
    parser.add_argument("--limit", type=int, help="at most so many images of each split")
    parser.add_argument("--device", default="GPU", choices=("GPU", "CPU"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
