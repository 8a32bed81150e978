"""The ImageNet example on sample images and two devices: all steps, of a network made for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras

_ROOT = Path(__file__).parents[2]
_ON_TWO_DEVICES = """
import runpy, sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def small_network() -> keras.Model:
    """1000 classes, 32 px; pixels from 0 to 255 go in."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    x = layers.Conv2D(8, 3, strides=4, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(synchronized=True)(x))
    x = layers.Conv2D(16, 1, activation="relu")(x)
    return keras.Model(image, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))


def test_all_steps(shared_dir: Path, tmp_path: Path) -> None:
    small_network().save(tmp_path / "float.keras")
    data = shared_dir / "data" / "imagenet-sample-256.tfrecord"
    command = [
        *(sys.executable, "-c", _ON_TWO_DEVICES, str(_ROOT / "examples" / "imagenet.py")),
        f"--network={tmp_path / 'float.keras'}",
        f"--data=tfrecord:{data}",
        *("--epochs=1", "--batch_size=32", "--limit=64", "--budget=0.6", "--device=CPU"),
        f"--out={tmp_path / 'out'}",
    ]
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mirrored, a random part of at least 25%" in " ".join(done.stdout.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["replicas"] == 2
    assert results["equal_codes_share"] == 1.0
    assert results["images"] == 64
    assert results["litert"]["top5"] >= results["litert"]["accuracy"]
    assert results["file_bytes"] == (tmp_path / "out" / "ddq.tflite").stat().st_size
    assert not (tmp_path / "out" / "checkpoint").exists()
