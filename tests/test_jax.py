"""Keras on JAX, in a process that can import no TensorFlow."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_PROGRAM = Path(__file__).with_name("jax_run.py")
_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {
    **os.environ,
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), str(tmp_path_factory.mktemp("jax"))],
        cwd=_ROOT,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("training", ["aids", "fixed", "summing", "reconstructed", "one", "two"])
def test_files_have_the_codes_of_the_model_eager_and_compiled(told, training):
    assert told[training]["equal_codes"] == 1
    assert told[training]["first_difference"] == "None"
    assert told[training]["jitted_codes"] == 1


def test_sums_of_codes_in_bfloat16_are_whole(told):
    assert told["narrow_floats"]


def test_no_tensorflow_is_imported(told):
    assert told["tensorflow"] == []


def test_the_search_chooses_within_its_budget_and_aids_act(told):
    aids = told["aids"]
    history = aids["history"]
    assert history["weight_bits"][0] > history["weight_bits"][-1]
    assert len(set(aids["bits"])) > 1
    assert [bits[-1] for bits in aids["logged_bits"].values()] == aids["bits"]
    assert history["frozen_weights"][-1] > 0
    assert 0.09 < aids["dampening"] < 0.1
    assert aids["epochs_kept"] == 4


def test_saved_models_are_loaded_and_float_models_stay(told):
    assert told["aids"]["loaded_is_same"]
    assert told["aids"]["float_model_is_untouched"]


def test_reconstruction_lessens_the_error_of_every_block(told):
    assert all(after < before for before, after in told["reconstructed"]["errors"])
    assert len(set(told["reconstructed"]["bits"])) > 1


def test_two_devices_train_what_one_does(told):
    one, two = told["one"], told["two"]
    assert two["bits"] == one["bits"]
    for name, values in one["history"].items():
        np.testing.assert_allclose(two["history"][name], values, rtol=1e-5, err_msg=name)


def test_what_needs_tensorflow_says_so(told):
    assert len(told["refusals"]) == 6
    for said in told["refusals"]:
        assert "TensorFlow" in said, said
        assert "Received" in said, said


def test_the_code_of_the_page_runs():
    page = (_ROOT / "docs" / "distributed.md").read_text("utf-8")
    (code,) = re.findall(r"under JAX\n.*?```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 2 <= float(done.stdout.splitlines()[-1]) < 8
