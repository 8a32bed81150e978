"""MirroredStrategy: a process of its own, since devices are split before TensorFlow begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import contextlib, json, sys
import keras, numpy as np, tensorflow as tf
import ddq_tf
from ddq_tf import training
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import weighted_layers
from ddq_tf.search.callback import is_frozen
from tests.toys import images, labels

file, options = sys.argv[1], json.loads(sys.argv[2])
layers = keras.layers

def net():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(synchronized=True)(x)
    skip = x = layers.ReLU(6.0)(x)
    x = layers.Conv2D(8, 1, name="project")(layers.Conv2D(16, 1, activation="relu")(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, skip]))
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x, y = images(32), labels(32)

def trained(devices):
    names = [f"CPU:{n}" for n in range(devices)]
    several = tf.distribute.MirroredStrategy(names).scope if devices > 1 else contextlib.nullcontext
    with several():
        config = ddq_tf.DDQConfig(target="litert-int8", precisions=(2, 4, 8), budget=0.7, **options)
        model, teacher = ddq_tf.quantize_model(net(), config, x), net()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss)
    aids = [
        training.Distillation(teacher, 0.5),
        training.OscillationDampening(0.1),
        training.OscillationFreezing(0.01),
        training.BatchNormReestimation([x]),
    ]
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    history = model.fit(data, epochs=5, verbose=0, shuffle=False, callbacks=aids).history
    assert is_frozen(model)
    assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits
    found = verify(model, export_tflite(model, file), [x])
    assert found.equal_codes_share == 1, found
    evidence = [
        keras.ops.convert_to_numpy(layer.quantizer.evidence).tolist()
        for layer in weighted_layers(model)
    ]
    bits = [layer.num_bits for layer in weighted_layers(model)]
    return {"history": history, "bits": bits, "evidence": evidence}

print(json.dumps([trained(devices) for devices in (1, 2)]))
"""


def trained(tmp_path, options):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "m.tflite"), options],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("levels", ["uniform", pytest.param("free", marks=pytest.mark.slow)])
def test_two_replicas_train_what_one_device_does(tmp_path, levels):
    options = json.dumps({"levels": levels})
    one, two = trained(tmp_path, options)
    assert two["bits"] == one["bits"]
    assert len(set(one["bits"])) > 1
    assert one["history"]["frozen_weights"][-1] > 0
    for name, values in one["history"].items():
        np.testing.assert_allclose(two["history"][name], values, rtol=1e-5, err_msg=name)
    # What the gates saw: sums over the batch, in which large terms cancel.
    np.testing.assert_allclose(two["evidence"], one["evidence"], rtol=1e-3, atol=1e-6)
