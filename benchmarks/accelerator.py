"""What training costs on an accelerator, and whether it computes the codes of a file there.

    python benchmarks/accelerator.py [--sizes=32,224] [--alpha=1.0] [--steps=20]

On the device that Keras's backend finds, a GPU or not: a training step of the float network, of its
DDQ models (precisions searched, precisions final, activations of 4 bits) and of TensorFlow Model
Optimization's, where that is installed, one after the other as in step_time.py; and a step of the
float network at the policy mixed_bfloat16. DDQ models have float32 variables and compute in float32
whatever the policy; a GPU may take TF32 for their products, whose factors in inference are codes.
Then output codes of the DDQ model on the device, in all forms of `forward_forms`, are compared with
those of its file in LiteRT on the CPU. Writes benchmarks/results/accelerator.json.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import step_time  # first: sets what TensorFlow reads when it is imported
from forward_forms import codes_of_file, different_codes
from provenance import write_result

# isort: split
import keras
import numpy as np

import ddq_tf
from ddq_tf.export import export_tflite

SEED = 0
BATCHES = {32: 128, 224: 64}
CHECKED = 32  # images, whose codes are compared
VARIANTS = ("float", "uniform", "uniform_settled", "activations_4_bits")
HALF = "float_mixed_bfloat16"


def devices() -> list[str]:
    """Returns what the backend computes on: names of accelerators, or "cpu"."""
    if keras.backend.backend() == "jax":
        jax: Any = importlib.import_module("jax")  # optional
        return sorted({device.device_kind for device in jax.devices()})
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
    return [str(each.get("device_name", "GPU")) for each in details] or ["cpu"]


def network(size: int, alpha: float, policy: str = "float32") -> Any:
    """Returns the float MobileNetV2.

    Args:
        size: of its images, in pixels.
        alpha: its width.
        policy: Keras's dtype policy.
    """
    keras.utils.set_random_seed(SEED)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return ddq_tf.models.mobilenet_v2((size, size, 3), alpha=alpha, classes=10)
    finally:
        keras.config.set_dtype_policy(before)


def measure(options: argparse.Namespace, size: int) -> dict[str, Any]:
    """Returns the steps at one size of images, and how many codes differ."""
    rng = np.random.default_rng(SEED)
    batch = options.batch or BATCHES.get(size, 64)
    images = rng.uniform(-1, 1, (batch, size, size, 3)).astype("float32")
    labels = rng.integers(0, 10, batch)
    model = network(size, options.alpha)
    model(images[:2], training=True)
    names = options.variants.split(",")
    if step_time.has_peer() and keras.backend.backend() == "tensorflow":
        names.append("tfmot_int8")
    runs = {name: step_time.variant(name, model, images[:8]) for name in names}
    half = network(size, options.alpha, "mixed_bfloat16")
    runs[HALF] = step_time.compiled(half)
    rows = step_time.interleaved(runs, images, labels, options.steps)
    return {"batch_size": batch, "variants": rows, "codes": codes(runs["uniform"], size)}


def codes(model: Any, size: int) -> dict[str, Any]:
    """Compares output codes on the device with those of the file in LiteRT."""
    rng = np.random.default_rng(SEED + 1)
    images = rng.uniform(-1, 1, (CHECKED, size, size, 3)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        file = export_tflite(model, Path(folder, "model.tflite"))
        expected = codes_of_file(model, file.path, images)
    return {
        "output_codes": sum(part.size for part in expected),
        "distinct": int(np.unique(np.concatenate(expected, axis=None)).size),
        "forms": different_codes(model, images, expected),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--sizes", default="32,224", help="of images, comma-separated")
    parser.add_argument("--batch", type=int, help=f"images in a step; else by size {BATCHES}")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma-separated")
    options = parser.parse_args(arguments)
    sizes = [int(size) for size in options.sizes.split(",")]
    results = {
        "backend": keras.backend.backend(),
        "devices": devices(),
        "network": "mobilenet_v2",
        "alpha": options.alpha,
        "steps": options.steps,
        "sizes": {str(size): measure(options, size) for size in sizes},
    }
    write_result("accelerator", results, seed=SEED)
    for size, row in results["sizes"].items():
        print(size, row)


if __name__ == "__main__":
    main()
