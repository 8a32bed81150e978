"""What a precision for each channel would save, if a file stored each channel at its own width.

    taskset -c 0 python benchmarks/channel_groups.py dog_breeds

Measures, as `reconstruct_model` does, what each precision of each channel loses, and chooses
precisions of pointwise and dense layers within shares of the int8 bytes: one for each layer, as
files store them, or one for each channel, as if a tensor could be cut into groups of one width at
no cost. Logits keep one precision: their order is fixed. Writes
benchmarks/results/channel_groups_NETWORK.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from provenance import write_result
from reconstruction import NETWORKS

import ddq_tf
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.layers import weighted_layers
from ddq_tf.reconstruction import reconstruct
from ddq_tf.search.allocate import allocate
from ddq_tf.targets import OpKind

PRECISIONS = (2, 4, 8)
WIDTHS = ((4, 8), (2, 4, 8))
SHARES = (0.40, 0.44, 0.48, 0.52, 0.56, 0.60, 0.65, 0.70)
_HALVINGS = 60


class StopError(Exception):
    """Carries the losses out of `reconstruct_model`, the rest of which is not needed."""


def measured_losses(model: Any, images: np.ndarray, seed: int) -> list[tuple[OpKind, int, Any]]:
    """Returns kind, number of weights and losses (precisions, channels) of each layer."""
    measure = reconstruct.precision_losses

    def stop(quantized: Any, *arguments: Any) -> Any:
        losses = measure(quantized, *arguments)
        layers = weighted_layers(quantized)
        raise StopError([(x.kind, x.quantizer.num_weights, losses[x.name]) for x in layers])

    config = ddq_tf.DDQConfig(
        precisions=PRECISIONS, channel_precision=True, narrow_range=False, budget=None, seed=seed
    )
    recipe = ddq_tf.ReconstructionConfig(seed=seed)
    with mock.patch.object(reconstruct, "precision_losses", stop):
        try:
            ddq_tf.reconstruct_model(model, images, config, recipe)
        except StopError as found:
            return found.args[0]
    raise AssertionError("nothing was measured")


def rows_of(layer: tuple[OpKind, int, Any], widths: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns losses (widths, channels) and bits (widths,) of what a layer may be stored at."""
    kind, num_weights, losses = layer
    stored = widths if kind in (OpKind.POINTWISE, OpKind.DENSE) else (8,)
    return (
        losses[[PRECISIONS.index(width) for width in stored]],
        np.array(stored, np.float64) * num_weights,
    )


def by_layers(layers: list[Any], widths: tuple[int, ...], capacity: float) -> float | None:
    """Returns the least sum of losses with a precision for each layer; None if none fits."""
    rows = [rows_of(layer, widths) for layer in layers]
    if sum(bits[0] for _, bits in rows) > capacity:
        return None
    sums = [losses.sum(axis=1) for losses, _ in rows]
    chosen = allocate([s[0] - s for s in sums], [bits for _, bits in rows], capacity)
    return float(sum(s[i] for s, i in zip(sums, chosen, strict=True)))


def by_channels(layers: list[Any], widths: tuple[int, ...], capacity: float) -> float | None:
    """Returns the sum with a precision for each channel, at the least price that keeps to it."""
    rows = []
    for layer in layers:
        losses, bits = rows_of(layer, widths)
        if layer[0] is OpKind.DENSE:
            losses = losses.sum(axis=1, keepdims=True)
        rows.append((losses, np.repeat(bits[:, None] / losses.shape[1], losses.shape[1], axis=1)))
    best, low, high = None, -30.0, 10.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        picked = [np.argmin(losses + 10.0**middle * bits, axis=0) for losses, bits in rows]
        lost, taken = (
            sum(
                float(np.take_along_axis(row[which], pick[None], axis=0).sum())
                for row, pick in zip(rows, picked, strict=True)
            )
            for which in (0, 1)
        )
        if taken <= capacity:
            best, high = lost, middle
        else:
            low = middle
    return best


def main() -> None:
    """Measures one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = NETWORKS[options.network]
    images = network.images(options.data)
    learned = images[np.arange(len(images)) % 5 != 0]
    del images
    layers = measured_losses(load_float_model(options.models / network.path), learned, options.seed)
    int8_bits = 8.0 * sum(num_weights for _, num_weights, _ in layers)
    rows = []
    for share in SHARES:
        for widths in WIDTHS:
            row = {
                "share": share,
                "widths": widths,
                "layers": by_layers(layers, widths, share * int8_bits),
                "channels": by_channels(layers, widths, share * int8_bits),
            }
            rows.append(row)
            print(row, flush=True)
    results = {"network": options.network, "int8_weight_bytes": int8_bits / 8, "rows": rows}
    write_result(f"channel_groups_{options.network}", results, seed=options.seed)


if __name__ == "__main__":
    main()
