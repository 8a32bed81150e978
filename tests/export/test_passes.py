import dataclasses

import numpy as np
import pytest

from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph, check
from ddq_tf.export.passes import (
    bare_biases,
    explicit_padding,
    narrow_storage,
    pointwise_to_fully_connected,
    run_passes,
)
from ddq_tf.targets import TARGETS, OpKind
from tests.export.graphs import Builder

LITERT = TARGETS["litert"]
EVERY_WIDTH = dataclasses.replace(LITERT, storage_bits=dict.fromkeys(OpKind, (2, 4, 8)))


def pointwise(limit=7, channels=8, **attrs) -> Graph:
    make = Builder()
    image = make.tensor((-1, 4, 4, channels), scale=0.05, zero_point=-3)
    output = make.weighted(
        "CONV_2D", image, (6, 1, 1, channels), (-1, 4, 4, 6), limit=limit, **attrs
    )
    return make.graph({"x": image}, {"y": output})


def padded(kind="CONV_2D", size=8, before=(0, 0), after=(1, 1), stride=2, kernel=3) -> Graph:
    make = Builder()
    image = make.tensor((-1, size, size, 4), scale=0.05, zero_point=-3)
    sizes = [size + before[axis] + after[axis] for axis in (0, 1)]
    paddings = make.indices([[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]])
    wide = make.op("PAD", (image, paddings), (-1, *sizes, 4), 0.05, -3)
    out = [(length - kernel) // stride + 1 for length in sizes]
    shape = (4, kernel, kernel, 4) if kind == "CONV_2D" else (1, kernel, kernel, 4)
    output = make.weighted(
        kind,
        wide,
        shape,
        (-1, *out, 4),
        axis=0 if kind == "CONV_2D" else 3,
        stride_h=stride,
        stride_w=stride,
    )
    return make.graph({"x": image}, {"y": output})


def assert_same_codes(before: Graph, after: Graph):
    check(after)
    shape = (3, *next(iter(before.tensors.values())).shape[1:])
    codes = np.random.default_rng(2).integers(-128, 128, shape).astype(np.int8)
    np.testing.assert_array_equal(
        Runner(tflite.write(before)).run(codes)["y"], Runner(tflite.write(after)).run(codes)["y"]
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pointwise_becomes_fully_connected(padding):
    graph = pointwise(padding=padding, fused_activation_function="RELU6")
    after = pointwise_to_fully_connected.run(graph, LITERT)
    (op,) = after.ops
    assert op.kind == "FULLY_CONNECTED"
    assert op.attrs == {"fused_activation_function": "RELU6", "keep_num_dims": True}
    assert op.source == "layer_0"
    assert after.tensors[op.inputs[1]].shape == (6, 8)
    assert len(after.tensors) == len(graph.tensors)
    assert_same_codes(graph, after)


def test_other_convolutions_stay():
    strided = pointwise(stride_h=2)
    assert pointwise_to_fully_connected.run(strided, LITERT) == strided
    grouped = pointwise()
    grouped.tensors["t0"] = dataclasses.replace(grouped.tensors["t0"], shape=(-1, 4, 4, 16))
    assert pointwise_to_fully_connected.run(grouped, LITERT) == grouped
    assert pointwise_to_fully_connected.run(pointwise(), TARGETS["litert-int8"]) == pointwise()


@pytest.mark.parametrize(
    ("target", "limit", "channels", "dtype"),
    [
        (LITERT, 7, 8, DType.INT4),
        (LITERT, 8, 8, DType.INT8),
        (LITERT, 7, 7, DType.INT8),
        (LITERT, 1, 8, DType.INT2),
        (LITERT, 1, 6, DType.INT4),
        (LITERT, 1, 3, DType.INT8),
        (LITERT.at_least(4), 1, 8, DType.INT4),
        (LITERT.at_least(8), 1, 8, DType.INT8),
        (EVERY_WIDTH, 1, 8, DType.INT2),
        (EVERY_WIDTH, 1, 6, DType.INT4),
        (TARGETS["litert-int8"], 1, 8, DType.INT8),
        (TARGETS["litert-compact"], 7, 8, DType.INT4),
    ],
)
def test_storage(target, limit, channels, dtype):
    graph = pointwise(limit, channels)
    after = run_passes(graph, target)
    assert after.tensors[after.ops[0].inputs[1]].dtype is dtype
    assert_same_codes(graph, after)
    assert delegation(tflite.write(after)).is_complete


def test_storage_of_other_convolutions():
    graph = pointwise(stride_h=2, stride_w=2)
    dtypes = {
        name: narrow_storage.run(graph, target).tensors["t1"].dtype
        for name, target in TARGETS.items()
        if name in ("litert", "litert-compact")
    }
    assert dtypes == {"litert": DType.INT8, "litert-compact": DType.INT4}


def test_shared_weights_fit_every_reader():
    graph = pointwise(limit=1)
    op = graph.ops[0]
    second = dataclasses.replace(op, kind="DEPTHWISE_CONV_2D", outputs=("other",))
    tensors = {**graph.tensors, "other": dataclasses.replace(graph.tensors["t3"], name="other")}
    shared = dataclasses.replace(graph, tensors=tensors, ops=(op, second))
    widths = {**LITERT.storage_bits, OpKind.CONV: (2, 4, 8), OpKind.DEPTHWISE: (4, 8)}
    after = narrow_storage.run(shared, dataclasses.replace(LITERT, storage_bits=widths))
    assert after.tensors["t1"].dtype is DType.INT4


@pytest.mark.parametrize(
    ("size", "before", "after", "stride", "kernel"),
    [
        (8, (0, 0), (1, 1), 2, 3),  # keras.applications on even sizes
        (7, (1, 1), (1, 1), 2, 3),
        (8, (1, 1), (1, 1), 1, 3),
        (8, (0, 0), (2, 2), 2, 3),  # one row more than any window reaches
        (8, (1, 1), (2, 2), 2, 5),
    ],
)
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_padding_is_folded(kind, size, before, after, stride, kernel):
    graph = padded(kind, size, before, after, stride, kernel)
    folded = explicit_padding.run(graph, LITERT)
    assert [op.kind for op in folded.ops] == [kind]
    assert folded.ops[0].attrs["padding"] == "SAME"
    assert_same_codes(graph, folded)


@pytest.mark.parametrize(
    ("size", "before", "after", "stride"),
    [
        (7, (0, 0), (1, 1), 2),  # keras.applications on odd sizes
        (8, (1, 1), (1, 1), 2),  # PyTorch's habit
        (8, (0, 1), (1, 0), 2),
        (8, (0, 0), (0, 0), 1),
        (8, (2, 2), (2, 2), 1),
    ],
)
def test_other_padding_stays(size, before, after, stride):
    graph = padded("CONV_2D", size, before, after, stride)
    assert explicit_padding.run(graph, LITERT) == graph


def test_padding_that_others_read_stays():
    graph = padded()
    wide = graph.ops[0].outputs[0]
    shown = dataclasses.replace(graph, outputs={**graph.outputs, "wide": wide})
    assert explicit_padding.run(shown, LITERT) == shown


@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
@pytest.mark.parametrize("dtype", [DType.INT4, DType.INT8])
def test_biases_of_built_in_convolutions_lose_their_scales(kind, dtype):
    make = Builder()
    image = make.tensor((-1, 6, 6, 4), scale=0.05, zero_point=-3)
    shape, axis = ((4, 3, 3, 4), 0) if kind == "CONV_2D" else ((1, 3, 3, 4), 3)
    output = make.weighted(kind, image, shape, (-1, 4, 4, 4), axis=axis, limit=7, dtype=dtype)
    graph = make.graph({"x": image}, {"y": output})
    after = bare_biases.run(graph, LITERT)
    bias = graph.ops[0].inputs[2]
    assert (after.tensors[bias].quantization is None) == (dtype is DType.INT4)
    assert_same_codes(graph, after)
    assert delegation(tflite.write(graph)) == delegation(tflite.write(after))


def test_a_bias_that_xnnpack_reads_too_keeps_its_scales():
    make = Builder()
    image = make.tensor((-1, 6, 6, 4), scale=0.05, zero_point=-3)
    make.weighted("CONV_2D", image, (4, 3, 3, 4), (-1, 4, 4, 4), limit=7, dtype=DType.INT4)
    output = make.weighted("CONV_2D", image, (4, 3, 3, 4), (-1, 4, 4, 4))
    first, second = make.ops
    make.ops[1] = dataclasses.replace(second, inputs=(*second.inputs[:2], first.inputs[2]))
    graph = make.graph({"x": image}, {"y": output})
    assert bare_biases.run(graph, LITERT) == graph


@pytest.mark.parametrize(("window", "dtype"), [(1, DType.INT8), (3, DType.INT4)])
def test_one_weight_per_channel_stays_int8(window, dtype):
    """As a rescaling has: four bits save nothing, and leave XNNPACK's exact kernel."""
    make = Builder()
    image = make.tensor((-1, 4, 4, 4), scale=0.05, zero_point=-3)
    output = make.weighted(
        "DEPTHWISE_CONV_2D", image, (1, window, window, 4), (-1, 5 - window, 5 - window, 4), limit=7
    )
    graph = make.graph({"x": image}, {"y": output})
    after = narrow_storage.run(graph, TARGETS["litert-compact"])
    assert after.tensors[after.ops[0].inputs[1]].dtype is dtype
