"""What `ddq_tf.xnnpack` and `runtime_check` say, against LiteRT: at each limit and beyond."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddq_tf import xnnpack
from ddq_tf.errors import DDQError
from ddq_tf.export import runtime_check, tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.operators import takes_weights
from ddq_tf.export.operators.weighted import reached_sums
from ddq_tf.export.simulation import simulate
from tests.export.graphs import Builder

SCRIPT = Path(__file__).with_name("load_files.py")
ALL_CODES = np.arange(-128, 128, dtype=np.int8)[None]


def below(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def above(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


def weighted(kind: str, multiplier: float, dtype: DType = DType.INT8) -> Graph:
    """An op whose first channel has the multiplier; its scales of input and output are 1."""
    make = Builder()
    shape, reads, writes = {
        "CONV_2D": ((4, 3, 3, 8), (-1, 5, 5, 8), (-1, 3, 3, 4)),
        "DEPTHWISE_CONV_2D": ((1, 3, 3, 4), (-1, 5, 5, 4), (-1, 3, 3, 4)),
        "FULLY_CONNECTED": ((4, 8), (-1, 8), (-1, 4)),
        "TRANSPOSE_CONV": ((4, 3, 3, 8), (-1, 5, 5, 8), (-1, 7, 7, 4)),
    }[kind]
    scale = np.array([multiplier, *[min(multiplier, 0.5)] * 3], np.float32)
    image = make.tensor(reads, scale=1, zero_point=-3)
    codes = make.rng.integers(-1, 2, shape)
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    weights = make.tensor((), dtype, scale, axis=axis, data=codes)
    bias = make.tensor((), DType.INT32, scale, data=[3, -5, 0, 1])
    names = (image, weights, bias)
    if kind == "TRANSPOSE_CONV":
        names = (make.indices([1, *writes[1:]]), weights, image, bias)
    return make.graph({"x": image}, {"y": make.op(kind, names, writes, 1, 5)})


def elementwise(kind: str, *ratios: float, **attrs) -> Graph:
    """An op on inputs of these scales, the output's is 1."""
    make = Builder()
    reads = [make.tensor((-1, 256), scale=ratio, zero_point=-3) for ratio in ratios]
    output = make.op(kind, reads, (-1, 256), 1, 5, **attrs)
    return make.graph({f"x{i}": name for i, name in enumerate(reads)}, {"y": output})


def matmul(multiplier: float, zero_point: int = 0) -> Graph:
    make = Builder()
    left = make.tensor((-1, 5, 8), scale=multiplier, zero_point=-3)
    right = make.tensor((-1, 8, 16), scale=1, zero_point=zero_point)
    output = make.op("BATCH_MATMUL", (left, right), (-1, 5, 16), 1, 5)
    return make.graph({"a": left, "b": right}, {"y": output})


def mean(ratio: float) -> Graph:
    make = Builder()
    image = make.tensor((-1, 4, 4, 8), scale=ratio, zero_point=-3)
    output = make.op("MEAN", (image, make.indices([1, 2])), (-1, 8), 1, 5)
    return make.graph({"x": image}, {"y": output})


def cases() -> dict[str, tuple[Graph, str]]:
    """Graphs by name, and what becomes of them."""
    found: dict[str, tuple[Graph, str]] = {}
    kinds = [("FULLY_CONNECTED", DType.INT4), ("FULLY_CONNECTED", DType.INT2)]
    kinds += [
        (kind, DType.INT8)
        for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
    ]
    multipliers = [(2.0**-100, "delegated"), (below(256), "delegated"), (256, "refused")]
    for (kind, dtype), (value, verdict) in itertools.product(kinds, multipliers):
        found[f"{kind}-{dtype.value}-{value:.9g}"] = weighted(kind, value, dtype), verdict
    ratios = [(below(2**-10), "built-in"), (2**-10, "delegated"), (below(256), "delegated")]
    ratios += [(256, "built-in"), (2**19, "aborted")]
    for kind, (value, verdict) in itertools.product(("ADD", "SUB"), ratios):
        found[f"{kind}-{value:.9g}-1"] = elementwise(kind, value, 1), verdict
        found[f"{kind}-1-{value:.9g}"] = elementwise(kind, 1, value), verdict
    ratios = [(below(2**-16), "built-in"), (2**-16, "delegated"), (below(256), "delegated")]
    for value, verdict in [*ratios, (256, "built-in")]:
        found[f"MUL-{value:.9g}"] = elementwise("MUL", 1, value), verdict
    ratios = [(below(2**-8), "built-in"), (2**-8, "delegated"), (128, "delegated")]
    for value, verdict in [*ratios, (above(128), "built-in")]:
        found[f"QUANTIZE-{value:.9g}"] = elementwise("QUANTIZE", value), verdict
        alpha = 2.0 if value < 1 else 0.5
        found[f"LEAKY_RELU-{value:.9g}"] = elementwise("LEAKY_RELU", value, alpha=alpha), verdict
    steepest = -127.99609375
    slopes = [(2**-8, True), (-(2**-8), True), (128, True), (steepest, True)]
    slopes += [(below(2**-8), False), (above(-(2**-8)), False), (0, False)]
    for value, taken in [*slopes, (above(128), False), (below(steepest), False)]:
        graph = elementwise("LEAKY_RELU", 1, alpha=float(value))
        found[f"slope-{value:.9g}"] = graph, "delegated" if taken else "built-in"
    found |= {f"BATCH_MATMUL-{v:.9g}": (matmul(v), "delegated") for v in (2.0**-100, 2.0**60)}
    found |= {f"MEAN-{value}": (mean(value), "delegated") for value in (2.0**-40, 2.0**32)}
    return found


CASES = cases()


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("limits")
    for name, (graph, _) in CASES.items():
        (folder / f"{name}.tflite").write_bytes(tflite.write(graph))
    command = [sys.executable, str(SCRIPT), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", sorted(CASES))
def test_limits(name, verdicts):
    graph, expected = CASES[name]
    assert verdicts[name] == expected
    lines = runtime_check.problems(graph) + runtime_check.left_to_built_in_kernels(graph)
    assert bool(lines) == (expected != "delegated")
    assert all(line.startswith("layer 'layer_0'") for line in lines)
    if expected in ("refused", "aborted"):
        with pytest.raises(
            DDQError, match=r"needs input scale .*/ output scale of at most 255\.99998"
        ):
            runtime_check.check(graph)
    if expected == "delegated":
        shapes = {key: graph.tensors[tensor].shape[1:] for key, tensor in graph.inputs.items()}
        codes = {key: np.resize(ALL_CODES, (4, *shape)) for key, shape in shapes.items()}
        expected_codes = Runner(tflite.write(graph)).run(codes)["y"]
        np.testing.assert_array_equal(simulate(graph, codes)["y"], expected_codes)


def test_second_factors_have_no_zero_point():
    assert delegation(tflite.write(matmul(0.01))).is_complete
    assert not delegation(tflite.write(matmul(0.01, zero_point=3))).is_complete


@pytest.mark.parametrize(
    ("kind", "dtype", "depth", "per_channel"),
    [
        *itertools.product(["FULLY_CONNECTED"], [DType.INT8, DType.INT4], [7, 8], [True, False]),
        *itertools.product(["FULLY_CONNECTED"], [DType.INT2], [6, 8], [True, False]),
        ("CONV_2D", DType.INT8, 7, True),
        ("CONV_2D", DType.INT4, 8, True),
        ("DEPTHWISE_CONV_2D", DType.INT8, 4, True),
        ("DEPTHWISE_CONV_2D", DType.INT4, 4, True),
    ],
)
def test_weights(kind, dtype, depth, per_channel):
    make = Builder()
    image = make.tensor((-1, 3, 3, depth), scale=0.1, zero_point=7)
    shape = {
        "CONV_2D": (4, 3, 3, depth),
        "DEPTHWISE_CONV_2D": (1, 3, 3, depth),
        "FULLY_CONNECTED": (4, depth),
    }[kind]
    size = 3 if kind == "FULLY_CONNECTED" else 1
    keep = {"keep_num_dims": True} if kind == "FULLY_CONNECTED" else {}
    scale = [0.02, 0.03, 0.01, 0.05] if per_channel else [0.02]
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    weights = make.tensor((), dtype, scale, axis=axis, data=make.rng.integers(-2, 2, shape))
    bias_scale = np.float32(0.1) * np.array(scale, np.float32)
    bias = make.tensor((), DType.INT32, bias_scale, data=[1, 2, 3, 4])
    output = make.op(kind, (image, weights, bias), (-1, size, size, 4), 0.1, **keep)
    graph = make.graph({"x": image}, {"y": output})
    assert takes_weights(graph.ops[0], graph.tensors) is delegation(tflite.write(graph)).is_complete


def long_sum(dtype: DType, total: int) -> Graph:
    """One sum that reaches `total` and no further, where all codes are 127."""
    make = Builder()
    image = make.tensor((-1, 8), scale=1)
    sign = int(np.sign(total))
    bias = total - sign * 8 * 127
    if total < 0:  # the least code is -128: as a sum of positive products
        bias, sign = total + 8 * 128, 1
    scale = [2.0**-24]
    weights = make.tensor((), dtype, scale, data=np.full((1, 8), sign))
    biases = make.tensor((), DType.INT32, scale, data=[bias])
    output = make.op("FULLY_CONNECTED", (image, weights, biases), (-1, 1), 2.0**-5)
    return make.graph({"x": image}, {"y": output})


@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT4, DType.INT2])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums(dtype, sign):
    limit = xnnpack.sum_limit(dtype.bits)
    furthest = limit - 1 if sign > 0 else -limit
    codes = np.full((1, 8), 127 if sign > 0 else -128, np.int8)
    right = 127 if sign > 0 else -128
    graph = long_sum(dtype, furthest)
    assert runtime_check.problems(graph) == []
    assert Runner(tflite.write(graph)).run(codes)["y"].item() == right
    graph = long_sum(dtype, furthest + sign)
    (line,) = runtime_check.problems(graph)
    assert f"needs sums below 2^{limit.bit_length() - 1} with {dtype.value} weights" in line
    assert ("precisions=(8,)" in line) is (dtype is DType.INT4)
    wrapped = -128 if sign > 0 else 127
    received = Runner(tflite.write(graph)).run(codes)["y"].item()
    assert received in ((wrapped, right) if dtype is DType.INT4 else (wrapped,))


def test_sums_of_built_in_kernels_have_32_bits():
    make = Builder()
    image = make.tensor((-1, 1, 1, 2), scale=1)
    codes = np.ones((1, 1, 1, 2))
    weights = make.tensor((), DType.INT4, [1e-7, 1e-7], axis=3, data=codes)
    bias = make.tensor((), DType.INT32, [1e-7, 1e-7], data=[2**28, 0])
    output = make.op("DEPTHWISE_CONV_2D", (image, weights, bias), (-1, 1, 1, 2), 1.0)
    graph = make.graph({"x": image}, {"y": output})
    assert runtime_check.problems(graph) == []
    received = Runner(tflite.write(graph)).run(np.zeros((1, 1, 1, 2), np.int8))["y"]
    assert received.ravel().tolist() == [27, 0]


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_reached_sums(kind):
    make = Builder(3)
    image = make.tensor((-1, 3, 3, 4), scale=0.1, zero_point=-40)
    shape = {"CONV_2D": (5, 3, 3, 4), "DEPTHWISE_CONV_2D": (1, 3, 3, 4), "FULLY_CONNECTED": (5, 4)}
    axis = 3 if kind == "DEPTHWISE_CONV_2D" else 0
    output = make.weighted(kind, image, shape[kind], (-1, 1, 1, 5), axis=axis)
    graph = make.graph({"x": image}, {"y": output})
    op = graph.ops[0]
    weights, bias = (graph.tensors[name].data for name in op.inputs[1:])
    least, greatest = [], []
    for channel, offset in enumerate(bias):
        row = np.take(weights, channel, axis).ravel().astype(int)
        for sign, found in ((-1, least), (1, greatest)):
            worst = np.where(row * sign > 0, 127, -128)
            found.append(int(row @ (worst + 40)) + int(offset))
    received = reached_sums(op, graph.tensors)
    assert received is not None
    np.testing.assert_array_equal(received, [least, greatest])
