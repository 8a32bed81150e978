"""Where the divergence of a quantized network comes from: activations, kernels, probabilities.

    taskset -c 0 python benchmarks/reconstruction_parts.py dog_breeds

Rounds one thing at a time to 8 bits, all else float: activations, kernels to the nearest levels
(all together, and each by itself), the same kernels in closed form with the shift of the means
mended (`reconstruction.rounding.round_block`), and the float network's own probabilities to the
codes of an int8 output. Calibrated on the 600 sample images with index % 5 > 1, measured on the 200
with index % 5 = 1; none of them are those that rows are measured on. Writes
benchmarks/results/reconstruction_parts_NETWORK.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from peers import fidelity, softmax
from provenance import write_result
from reconstruction import NETWORKS

import ddq_tf
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.reconstruction.blocks import blocks_of
from ddq_tf.reconstruction.blockwise import outputs_of
from ddq_tf.reconstruction.rounding import round_block
from ddq_tf.training import fixed_statistics, output_activation
from ddq_tf.transform.calibrate import float_network

ROUNDED_FOR = 300  # images
BATCH = 50
STEP = 1 / 256  # of an int8 output of probabilities


@contextlib.contextmanager
def only(model: Any, kernels: Collection[str], *, activations: bool):
    """Rounds the kernels of some layers alone, and activations or none."""
    with float_network(model):
        for layer in activation_layers(model) if activations else []:
            layer.observer = None
        for layer in weighted_layers(model):
            layer.quantizer.bypass = layer.name not in kernels
        yield


def outputs(model: Any, images: np.ndarray) -> np.ndarray:
    """Returns what the model gives, its own outputs unrounded."""
    import tensorflow as tf

    with fixed_statistics(model.layers):
        run = tf.function(lambda x: model(x, training=True))
        parts = [run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    return np.concatenate([np.asarray(part) for part in parts])


def round_kernels(model: Any, images: np.ndarray) -> None:
    """Gives all kernels what rounding in closed form does, from what the float network gives."""
    stream = images
    for block in blocks_of(model):
        after = outputs_of(block, stream, of_float=True)
        round_block(block, stream, stream)
        stream = after


def main() -> None:
    """Measures one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecord")
    parser.add_argument("--models", default="../shared/models", help="folder of the networks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = NETWORKS[options.network]
    model: Any = load_float_model(Path(options.models) / network.path)
    images = network.images(Path(options.data))
    place = np.arange(len(images)) % 5
    learned, measured = images[place > 1], images[place == 1]
    del images
    gives_logits = output_activation(model) != "softmax"
    config = ddq_tf.DDQConfig(
        seed=options.seed, narrow_range=False, precisions=(8,), budget=None, target="litert"
    )
    quantized = ddq_tf.quantize_model(model, config, learned)
    names = [layer.name for layer in weighted_layers(quantized)]

    def probabilities(of: Any) -> np.ndarray:
        given = outputs(of, measured)
        return softmax(given) if gives_logits else given

    with only(quantized, (), activations=False):
        wanted = probabilities(quantized)

    def lost(kernels: Collection[str], *, activations: bool = False) -> dict[str, Any]:
        with only(quantized, kernels, activations=activations):
            return fidelity(wanted, probabilities(quantized))

    found = {
        "activations": lost((), activations=True),
        "kernels_to_nearest": lost(names),
        "both": lost(names, activations=True),
        "output_codes": fidelity(wanted, np.clip(np.rint(wanted / STEP), 0, 255) * STEP),
    }
    alone = {name: lost([name])["mean_kl"] for name in names}
    round_kernels(quantized, learned[:ROUNDED_FOR])
    found["kernels_in_closed_form"] = lost(names)
    results = {
        "network": options.network,
        "images": len(measured),
        "parts": found,
        "mean_kl_of_one_kernel_to_nearest": alone,
    }
    write_result(f"reconstruction_parts_{options.network}", results, seed=options.seed)
    for name, part in found.items():
        print(f"{name:24} KL {part['mean_kl']:.4f}, {part['top1_agreement']:.1%} equal answers")
    for name, kl in sorted(alone.items(), key=lambda item: -item[1])[:5]:
        print(f"  {name}: {kl:.4f}")


if __name__ == "__main__":
    main()
