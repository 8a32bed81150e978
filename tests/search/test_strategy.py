"""MirroredStrategy: a process of its own, since devices are split before TensorFlow begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import sys
import keras, numpy as np, tensorflow as tf
import ddq_tf
from ddq_tf.export import export_tflite, verify
from ddq_tf.search.callback import is_frozen
from tests.toys import images, labels, mixed_net

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = images(32), labels(32)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    config = ddq_tf.DDQConfig(target="litert-int8", precisions=(4, 8), budget=0.7)
    model = ddq_tf.quantize_model(mixed_net(), config, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.02), loss)
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
history = model.fit(data, epochs=4, verbose=0).history
assert is_frozen(model)
assert history["weight_bits"][0] > history["weight_bits"][-1]
assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits
found = verify(model, export_tflite(model, sys.argv[1]), [x])
assert found.equal_codes_share == 1, found
"""


def test_two_replicas_train_one_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "model.tflite")],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
