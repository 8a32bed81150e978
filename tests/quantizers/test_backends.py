"""The same mathematics gives the same numbers on Keras's TensorFlow and JAX backends."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_PROGRAM = Path(__file__).with_name("backend_numbers.py")
_ROOT = Path(__file__).parents[2]


def numbers(backend, folder):
    path = folder / f"{backend}.npz"
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as found:
        return dict(found)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_computes_what_tensorflow_does(tmp_path):
    tensorflow, jax = numbers("tensorflow", tmp_path), numbers("jax", tmp_path)
    assert set(tensorflow) == set(jax)
    assert len(tensorflow) > 90
    for name, expected in tensorflow.items():
        np.testing.assert_allclose(jax[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
