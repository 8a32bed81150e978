"""Files compute the same codes under XNNPACK on ARM as on this machine, bit for bit.

Runs an emulated core with dot products (Cortex-A76) and one without (Cortex-A53): XNNPACK has other
kernels for each. `tests/arm64/setup.sh DIR` makes the emulator, DDQ_ARM64=DIR names it.

MEAN is the one operator here that needs care. ARM multiplies and adds in one rounding (fma), x86 in
two, so the last bit of the float that is rounded to a code may differ; that shows where it lies on
the middle of two codes. The exporter never writes such scales: `grids.align` makes each multiplier
a fraction with an odd denominator q, whose multiples stay 1/2q away from every middle. The graphs
below, made by hand, keep to that.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.stream import zero_states
from ddq_tf.kinds import FUNCTIONS
from tests.export.graphs import Builder
from tests.toys import images, shake

CORES = ("cortex-a76", "cortex-a53")
SCRIPT = Path(__file__).parents[1] / "arm64" / "run_models.py"
EXAMPLES = 40
SHAPE = (-1, 7, 7, 24)
MEAN_SCALE = 0.1 / 49 * 37 / 5  # so that 0.1 / (49 * MEAN_SCALE) is 5/37


def fully_connected(dtype: DType, limit: int, depth: int = 24, units: int = 40) -> Graph:
    make = Builder(1)
    image = make.tensor((*SHAPE[:3], depth), scale=0.1, zero_point=9)
    shape = (*SHAPE[:3], units)
    output = make.weighted(
        "FULLY_CONNECTED",
        image,
        (units, depth),
        shape,
        dtype=dtype,
        limit=limit,
        keep_num_dims=True,
    )
    return make.graph({"image": image}, {"codes": output})


def convolution() -> Graph:
    make = Builder(2)
    image = make.tensor(SHAPE, scale=0.1, zero_point=-17)
    output = make.weighted(
        "CONV_2D",
        image,
        (16, 3, 3, 24),
        (-1, 4, 4, 16),
        padding="SAME",
        stride_h=2,
        stride_w=2,
        fused_activation_function="RELU6",
        zero_point=-128,
        scale=6 / 255,
    )
    return make.graph({"image": image}, {"codes": output})


def depthwise() -> Graph:
    make = Builder(3)
    image = make.tensor(SHAPE, scale=0.1, zero_point=-128)
    output = make.weighted("DEPTHWISE_CONV_2D", image, (1, 3, 3, 24), SHAPE, axis=3, padding="SAME")
    return make.graph({"image": image}, {"codes": output})


def addition() -> Graph:
    make = Builder(4)
    image = make.tensor(SHAPE, scale=0.1, zero_point=9)
    other = make.weighted(
        "FULLY_CONNECTED", image, (24, 24), SHAPE, dtype=DType.INT4, limit=7, keep_num_dims=True
    )
    output = make.op("ADD", (other, image), SHAPE, 0.13, -7)
    return make.graph({"image": image}, {"codes": output})


def mean() -> Graph:
    make = Builder(5)
    image = make.tensor(SHAPE, scale=0.1, zero_point=9)
    axes = make.indices([1, 2])
    output = make.op("MEAN", (image, axes), (-1, 24), MEAN_SCALE, -20, keep_dims=False)
    return make.graph({"image": image}, {"codes": output})


def of_one_code(kind: str, **attrs: float) -> Graph:
    make = Builder(6)
    image = make.tensor(SHAPE, scale=0.04, zero_point=9)
    output = make.op(kind, (image,), SHAPE, 0.03, -31, **attrs)
    return make.graph({"image": image}, {"codes": output})


def bilinear() -> Graph:
    make = Builder(7)
    image = make.tensor(SHAPE, scale=0.1, zero_point=9)
    shape = (-1, 14, 17, 24)
    output = make.op(
        "RESIZE_BILINEAR", (image, make.indices([14, 17])), shape, 0.1, 9, half_pixel_centers=True
    )
    return make.graph({"image": image}, {"codes": output})


def transposed() -> Graph:
    make = Builder(8)
    image = make.tensor(SHAPE, scale=0.1, zero_point=9)
    output = make.weighted(
        "TRANSPOSE_CONV",
        image,
        (10, 3, 4, 24),
        (-1, 14, 14, 10),
        padding="SAME",
        stride_h=2,
        stride_w=2,
    )
    shape = make.indices([1, 14, 14, 10])
    *_, last = make.ops
    weights, bias = last.inputs[1:]
    make.ops[-1] = dataclasses.replace(last, inputs=(shape, weights, image, bias))
    return make.graph({"image": image}, {"codes": output})


def exported_block(precisions: tuple[int, ...] | None = None) -> keras.Model:
    """An inverted residual, ready for export: aligned scales, 4 bits where there is a choice."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    skip = x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(48, 1, activation="relu6")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Add()([layers.BatchNormalization()(layers.Conv2D(16, 1)(x)), skip])
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = shake(keras.Model(inputs, x))
    config = ddq_tf.DDQConfig(budget=0.7, precisions=precisions)
    q = ddq_tf.quantize_model(model, config, calibration=images(32, (16, 16, 3)))
    for layer in q.weight_budget.layers:
        layer.quantizer.choice.assign(0)  # the fewest bits
    return q


def with_function(function: Callable[[Any], Any]) -> keras.Model:
    """A small network around a function, ready for export."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(10, 3, kernel_initializer="random_normal")(inputs)
    q = keras.Model(inputs, function(keras.layers.Rescaling(8.0)(x)))
    return ddq_tf.quantize_model(
        q, ddq_tf.DDQConfig(target="litert"), calibration=images(32, (8, 8, 3))
    )


def causal_attention(x: Any) -> Any:
    """With positions: numbers that are added."""
    positions = np.random.default_rng(0).normal(size=(1, 36, 10)).astype("float32")
    tokens = keras.layers.Reshape((36, 10))(x) + positions
    return keras.layers.MultiHeadAttention(2, 5)(tokens, tokens, use_causal_mask=True)


# Functions that are computed in float between two integer tensors.
IN_FLOAT: dict[str, Callable[[Any], Any]] = {
    "softmax": keras.layers.Softmax(),
    "causal_attention": causal_attention,
    "threshold": lambda x: keras.ops.threshold(x, 0.2, -0.1),
    "relu": keras.layers.ReLU(1.0, 0.2, 0.5),
    "layer_norm": keras.layers.LayerNormalization(),
    "long_layer_norm": lambda x: keras.layers.LayerNormalization(epsilon=1e-6)(
        keras.layers.Dense(1100, kernel_initializer="random_normal")(x)
    ),
    "group_norm": keras.layers.GroupNormalization(5),
    "rms_norm": keras.layers.RMSNormalization(),
    "unit_norm": keras.layers.UnitNormalization(),
    **{
        name: keras.layers.Activation(name)
        for name, function in FUNCTIONS.items()
        if function.formula is not None
    },
}

HAND_MADE = {
    "fully_connected_int8": lambda: fully_connected(DType.INT8, 127),
    "fully_connected_int4": lambda: fully_connected(DType.INT4, 7),
    "fully_connected_int2": lambda: fully_connected(DType.INT2, 1),
    **{
        f"fully_connected_int2_{depth}_{units}": lambda d=depth, u=units: fully_connected(
            DType.INT2, 1, d, u
        )
        for depth, units in ((4, 1), (12, 1001), (20, 3), (36, 5), (1280, 9))
    },
    "convolution": convolution,
    "depthwise": depthwise,
    "addition": addition,
    "mean": mean,
    "elu": lambda: of_one_code("ELU"),
    "leaky_relu": lambda: of_one_code("LEAKY_RELU", alpha=51 / 256),
    "bilinear": bilinear,
    "transposed": transposed,
}


@pytest.fixture(scope="module")
def emulator() -> Path:
    folder = os.environ.get("DDQ_ARM64")
    if not folder:
        pytest.skip("DDQ_ARM64 names no emulator; tests/arm64/setup.sh DIR makes one")
    return Path(folder) / "python"


@pytest.fixture(scope="module")
def models(tmp_path_factory, emulator) -> Path:
    """A folder with models, inputs and the outputs of this machine."""
    folder = tmp_path_factory.mktemp("arm")
    for name, make in HAND_MADE.items():
        (folder / f"{name}.tflite").write_bytes(tflite.write(make()))
    two_bits = exported_block((2, 4, 8))
    made = ddq_tf.export.export_tflite(two_bits, folder / "block_of_two_bits.tflite")
    assert made.min_runtime == "2.1.2"
    block = exported_block()
    for target in ("litert", "litert-int8"):
        ddq_tf.export.export_tflite(block, folder / f"block_{target}.tflite", target=target)
    for name, function in IN_FLOAT.items():
        ddq_tf.export.export_tflite(with_function(function), folder / f"in_float_{name}.tflite")
    for path in folder.glob("*.tflite"):
        runner = Runner(path)
        rng = np.random.default_rng(6)
        codes = rng.integers(-128, 128, (EXAMPLES, *runner.input.shape[1:])).astype(np.int8)
        np.save(path.with_suffix(".input.npy"), codes)
        np.save(path.with_suffix(".expected.npy"), next(iter(runner.run(codes).values())))
    return folder


def test_int8_containers_hold_the_same_network(models):
    narrow, wide = (models / f"block_{name}.expected.npy" for name in ("litert", "litert-int8"))
    np.testing.assert_array_equal(np.load(narrow), np.load(wide))
    files = [path.with_suffix("").with_suffix(".tflite") for path in (narrow, wide)]
    assert files[0].stat().st_size < files[1].stat().st_size


@pytest.mark.parametrize("core", CORES)
def test_arm_computes_the_same_codes(core, models, emulator):
    command = [emulator, core, SCRIPT, models]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert ran.returncode == 0, ran.stderr
    partitions = json.loads(ran.stdout.splitlines()[-1])
    for path in sorted(models.glob("*.tflite")):
        assert delegation(path).is_complete, path.stem
        assert partitions[path.stem] == 1, path.stem
        expected = np.load(path.with_suffix(".expected.npy"))
        assert len(np.unique(expected)) > 20, f"{path.stem}: outputs that hardly vary prove nothing"
        computed = np.load(path.with_suffix(".output.npy"))
        np.testing.assert_array_equal(computed, expected, err_msg=path.stem)
        path.with_suffix(".output.npy").unlink()


@pytest.mark.parametrize("core", CORES)
def test_arm_computes_the_same_steps(core, emulator, tmp_path):
    """A streaming file, at all steps at once: each reads the states that this machine had."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6), name="features")
    x = keras.layers.LSTM(9, return_sequences=True)(keras.layers.LayerNormalization()(inputs))
    model = shake(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GRU(7)(x))))
    values = images(EXAMPLES, (4, 6))
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(budget=None), calibration=values)
    path = ddq_tf.export.export_tflite(q, tmp_path / "step.tflite", streaming=True).path
    stream, runner, read, written = ddq_tf.export.Stream(path), Runner(path), [], []
    for step in range(4):
        codes = {"features": stream.inputs["features"].quantize(values[:, step])}
        read.append({**zero_states(runner.inputs, EXAMPLES), **stream.states, **codes})
        written.append(stream.step(codes) | stream.states)
    joined = {
        str(info.index): np.concatenate([codes[name] for codes in read])
        for name, info in runner.inputs.items()
    }
    np.savez(path.with_suffix(".input.npz"), **joined)
    command = [emulator, core, SCRIPT, tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=540, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == {"step": 1}
    computed = dict(np.load(path.with_suffix(".output.npz")))
    expected = [np.concatenate([codes[name] for codes in written]) for name in runner.outputs]
    for received, wanted in zip(computed.values(), expected, strict=True):
        np.testing.assert_array_equal(received, wanted)
        assert len(np.unique(wanted)) > 20
