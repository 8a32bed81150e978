"""Peak memory and seconds of `reconstruct_model`, beside the quality of what it gives.

    taskset -c 0 python benchmarks/reconstruction_cost.py dog_breeds
    taskset -c 0 python benchmarks/reconstruction_cost.py efficientnet_lite0

On one core, from the 800 sample images with index % 5 != 0. The peak is VmHWM of the process while
`reconstruct_model` runs, its images included; seconds are of the processor, so that other work on
the machine does not count, and of wall. Divergence and equal answers are those of the Keras model,
on the 200 other images. Writes benchmarks/results/reconstruction_cost_NETWORK.json, or another by
--name.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers import softmax
from provenance import write_result
from reconstruction import NETWORKS, ROWS

import ddq_tf
from ddq_tf.jobs.loading import load_float_model
from ddq_tf.training import output_activation

TINY = 1e-6
# What the DDQ model of a network may take.
CASES: dict[str, dict[str, Any]] = {
    "dog_breeds": ROWS["int4_int8_small"][1],
    "efficientnet_lite0": ROWS["half"][1],
}


def peak_mib() -> float:
    """Returns VmHWM: the largest resident set since `start_over`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def start_over() -> None:
    """Sets VmHWM to the present resident set."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Measures one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(CASES))
    parser.add_argument("--data", default="../shared/data", help="folder of the TFRecord")
    parser.add_argument("--models", default="../shared/models", help="folder of the networks")
    parser.add_argument("--name", help="of the result file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network, fields = NETWORKS[options.network], CASES[options.network]
    model: Any = load_float_model(Path(options.models) / network.path)
    images = network.images(Path(options.data))
    is_held = np.arange(len(images)) % 5 == 0
    learned, held = images[~is_held], images[is_held]
    del images
    config = ddq_tf.DDQConfig(seed=options.seed, narrow_range=False, **fields)
    recipe = ddq_tf.ReconstructionConfig(seed=options.seed)
    start_over()
    before_mib, cpu, wall = peak_mib(), time.process_time(), time.monotonic()
    quantized, errors = ddq_tf.reconstruct_model(model, learned, config, recipe)
    cpu, wall, peak = time.process_time() - cpu, time.monotonic() - wall, peak_mib()
    networks: tuple[Any, Any] = model, quantized
    wanted, given = (net.predict(held, verbose=0) for net in networks)
    if output_activation(model) != "softmax":
        wanted, given = softmax(wanted), softmax(given)
    divergence = np.sum(wanted * (np.log(wanted + TINY) - np.log(given + TINY)), axis=-1)
    results = {
        "network": options.network,
        "side": network.side,
        "images": len(learned),
        "views": recipe.views,
        "config": fields,
        "cores": len(os.sched_getaffinity(0)),
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_mib": peak,
        "mib_before_the_call": before_mib,
        "held_out_images": len(held),
        "mean_kl": float(divergence.mean()),
        "standard_error_of_mean_kl": float(divergence.std(ddof=1) / np.sqrt(len(divergence))),
        "top1_agreement": float(np.mean(wanted.argmax(axis=-1) == given.argmax(axis=-1))),
        "block_errors": {error.name: [error.before, error.after] for error in errors},
    }
    name = options.name or f"reconstruction_cost_{options.network}"
    write_result(name, results, seed=options.seed)
    print({key: value for key, value in results.items() if key != "block_errors"})


if __name__ == "__main__":
    main()
