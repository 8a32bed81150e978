"""Quantizing N values takes memory for N values, not for N times the number of levels."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_VALUES = 1 << 22
_PROGRAM = f"""
import numpy as np
import tensorflow as tf
from ddq_tf.quantizers import ActivationQuantizer, WeightQuantizer, activation

def memory(what):
    # Not ru_maxrss: a process inherits that of the one that started it.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))

def step(quantizer, count):
    block = np.random.default_rng(0).normal(0, 0.3, 4096).astype(np.float32)
    x = tf.Variable(np.resize(block, (count // 64, 64)))
    quantizer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(tf.convert_to_tensor(x), training=True))
    tape.gradient(loss, [x, *(v.value for v in quantizer.trainable_variables)])

def portable(precisions):
    activation.has_native_kernels = lambda: False
    return ActivationQuantizer(precisions)

# From little to much: a peak is never forgotten.
makers = {{
    "activation": lambda: ActivationQuantizer((8,)),
    "searching activation": lambda: ActivationQuantizer((4, 8)),
    "portable activation": lambda: portable((8,)),
    "uniform": lambda: WeightQuantizer((8,)),
    "free": lambda: WeightQuantizer((8,), levels="free"),
    "searching free": lambda: WeightQuantizer((4, 8), levels="free"),
}}
native = activation.has_native_kernels
for make in makers.values():
    step(make(), 6400)
activation.has_native_kernels = native
before = memory("VmRSS")
for name, make in makers.items():
    step(make(), {_VALUES})
    taken = memory("VmHWM") - before
    print(name, taken / (4 * {_VALUES}))
"""


@pytest.fixture(scope="module")
def peaks():
    """The peak memory of a step, forward and backward, in tensors of the input's size.

    The input itself counts, and what earlier steps took.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("resident memory is read from /proc")
    # Every thread keeps freed memory of its own, so the peak would grow with the cores.
    one = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "MALLOC_ARENA_MAX")
    environment = {**os.environ, **dict.fromkeys(one, "1"), "KERAS_BACKEND": "tensorflow"}
    environment["PYTHONPATH"] = str(_ROOT)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {n: float(v) for n, v in re.findall(r"^([a-z ]+) ([-\d.]+)$", done.stdout, re.MULTILINE)}


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("activation", 12),
        ("searching activation", 16),
        ("portable activation", 18),
        ("uniform", 20),
        ("free", 24),
        ("searching free", 28),
    ],
)
def test_a_step_at_8_bits_takes_a_few_tensors(peaks, name, tensors):
    """Comparing with all levels would take 256."""
    assert 0 < peaks[name] < tensors
