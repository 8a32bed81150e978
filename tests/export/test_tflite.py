import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import operators, tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph, Op
from tests.export import integer
from tests.export.fuzzing import MUTATIONS, fuzz
from tests.export.graphs import Builder, small_network


def complete(graph: Graph) -> Graph:
    """Writes out the attributes that ops leave at their defaults."""
    return dataclasses.replace(graph, ops=tuple(operators.completed(op) for op in graph.ops))


def images(examples: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (examples, 8, 8, 3)).astype(np.int8)


def expected(graph: Graph, codes: np.ndarray) -> np.ndarray:
    """The small network in plain integer numpy."""
    conv, depthwise, pointwise, add, mean, dense = graph.ops

    def quantization(name):
        return graph.tensors[name].quantization

    def weighted(op, values, accumulate, *stride):
        image, weights, bias = (graph.tensors[name] for name in op.inputs)
        accumulator = accumulate(
            values, image.quantization.zero_point, weights.data, bias.data, *stride
        )
        return integer.requantize(
            accumulator,
            image.quantization,
            weights.quantization,
            quantization(op.outputs[0]),
            op.attrs.get("fused_activation_function", "NONE"),
        )

    first = weighted(conv, codes, integer.convolution, 2)
    second = weighted(depthwise, first, integer.depthwise, 1)
    third = weighted(pointwise, second, integer.fully_connected)
    total = integer.add(
        third,
        quantization(add.inputs[0]),
        first,
        quantization(add.inputs[1]),
        quantization(add.outputs[0]),
    )
    average = integer.mean(total, quantization(mean.inputs[0]), quantization(mean.outputs[0]))
    return weighted(dense, average, integer.fully_connected)


def test_round_trip_is_exact():
    graph = complete(small_network())
    data = tflite.write(graph, keep_names=True)
    assert tflite.read(data) == graph
    assert list(tflite.read(data).tensors) == list(graph.tensors)
    assert tflite.write(tflite.read(data), keep_names=True) == data


def test_round_trip_of_every_operator():
    make = Builder()
    image = make.tensor((-1, 4, 4, 2), scale=0.1, zero_point=1)
    weights = make.tensor((), scale=[0.1, 0.2], data=np.ones((2, 1, 1, 2)))
    for kind in sorted(operators.OPERATORS):
        optional = ("",) if kind in ("CONV_2D", "FULLY_CONNECTED") else ()
        make.op(kind, (image, weights, *optional), (-1, 4, 4, 2), 0.1, 1)
    output = make.ops[-1].outputs[0]
    graph = complete(make.graph({"image": image}, {"codes": output}))
    assert tflite.read(tflite.write(graph, keep_names=True)) == graph


@pytest.mark.parametrize("dtype", list(DType))
def test_round_trip_of_every_type(dtype):
    make = Builder()
    image = make.tensor((3,), DType.FLOAT32)
    make.tensor((), dtype, data=[1, 0, 1])
    make.tensor((), dtype, data=1)
    graph = make.graph({"image": image}, {"image": image})
    assert tflite.read(tflite.write(graph, keep_names=True)) == graph


def test_without_names_the_graph_is_the_same():
    graph = small_network()
    data = tflite.write(graph)
    again = tflite.read(data)
    assert tflite.write(again) == data
    assert len(data) < len(tflite.write(graph, keep_names=True))
    model = schema.ModelT.InitFromPackedBuf(data)
    names = [tensor.name for tensor in model.subgraphs[0].tensors if tensor.name]
    assert names == [b"t0", b"t15"]
    assert again.inputs == {"image": "t0"}
    assert again.outputs == {"logits": "t15"}
    assert again.metadata == {"made_by": b"hand"}
    assert {op.source for op in again.ops} == {""}


def test_equal_vectors_and_constants_are_stored_once():
    def size_bytes(layers: int) -> int:
        make = Builder()
        image = make.tensor((-1, 2, 2, 256), scale=0.1)
        for _ in range(layers):
            scale = np.linspace(0.1, 0.2, 256)
            weights = make.tensor((), scale=scale, axis=3, data=np.ones((1, 1, 1, 256)))
            image = make.op("DEPTHWISE_CONV_2D", (image, weights, ""), (-1, 2, 2, 256), 0.1)
        return len(tflite.write(make.graph({"x": make.ops[0].inputs[0]}, {"y": image})))

    # A layer's own scale, zero point and weights would be 256 * (4 + 8 + 1) bytes.
    assert size_bytes(2) - size_bytes(1) < 200


def test_buffers_are_aligned():
    graph = small_network()
    data = tflite.write(graph)
    for tensor in graph.tensors.values():
        if tensor.dtype is DType.INT8 and tensor.data is not None:
            assert data.index(tensor.data.tobytes()) % 16 == 0


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize(
    ("dtype", "version"), [(DType.INT8, 4), (DType.INT4, 10), (DType.INT2, 14)]
)
def test_fully_connected_versions(dtype, version, keep_dims):
    make = Builder()
    image = make.tensor((-1, 4), scale=0.1)
    output = make.weighted(
        "FULLY_CONNECTED", image, (2, 4), (-1, 2), limit=1, dtype=dtype, keep_num_dims=keep_dims
    )
    if dtype is DType.INT8 and keep_dims:
        version = 5
    model = schema.ModelT.InitFromPackedBuf(tflite.write(make.graph({"x": image}, {"y": output})))
    assert model.operatorCodes[0].version == version


@pytest.mark.parametrize(("dtype", "limit"), [(DType.INT4, 7), (DType.INT2, 1)])
def test_runs_exactly(dtype, limit):
    graph = small_network(dtype, limit)
    data = tflite.write(graph)
    codes = images(7)
    runner = Runner(data, batch_size=3)
    logits = runner.run(codes)["logits"]
    assert delegation(data).is_complete
    assert len(np.unique(logits)) > 10
    np.testing.assert_array_equal(logits, expected(graph, codes))
    wide = Runner(tflite.write(small_network(DType.INT8, limit))).run(codes)["logits"]
    np.testing.assert_array_equal(logits, wide)


def test_built_in_kernels_agree_but_for_rounding():
    data = tflite.write(small_network())
    codes = images(3)
    built_in = Runner(data, delegate=False).run(codes)["logits"].astype(int)
    assert np.abs(built_in - Runner(data).run(codes)["logits"]).max() <= 4


@pytest.mark.parametrize("kind", sorted(MUTATIONS))
def test_damaged_files_are_refused(kind):
    """Whatever raises something else than DDQError fails; 7 times 300 mutations."""
    data = tflite.write(small_network(), keep_names=True)
    outcome = fuzz(data, kind, mutations=300, seed=0)
    assert outcome.read + outcome.refused == 300
    assert outcome.refused > 50
    assert outcome.slowest_s < 10


def test_every_shorter_file_is_refused_or_equal():
    """Every truncation of a file; what is cut off at the end may be alignment only."""
    graph = small_network()
    data = tflite.write(graph)
    for size in range(len(data)):
        try:
            assert tflite.read(data[:size]) == tflite.read(data), size
        except DDQError:
            continue


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x89PNG\r\n\x1a\n" * 9, b"\x00\x00\x00\x00TFL3"])
def test_foreign_files_are_refused(data):
    with pytest.raises(DDQError):
        tflite.read(data)


def test_too_wide_codes_are_refused():
    make = Builder()
    image = make.tensor((-1, 2), scale=0.1)
    output = make.weighted("FULLY_CONNECTED", image, (2, 2), (-1, 2), limit=7, dtype=DType.INT4)
    weights = make.tensors[make.ops[0].inputs[1]]
    make.tensors[weights.name] = dataclasses.replace(weights, data=np.full((2, 2), 9, np.int8))
    with pytest.raises(DDQError, match=r"INT4 constant 't1'.*\[-8, 7\]"):
        tflite.write(make.graph({"x": image}, {"y": output}))


@pytest.mark.parametrize(
    ("kind", "attrs", "message"),
    [
        ("CONV_9D", {}, "operators must be among"),
        ("RELU6", {"alpha": 1}, r"RELU6 has the attributes \[\]"),
        ("ADD", {"fused_activation_function": "GELU"}, "must be one of"),
    ],
)
def test_unknown_operators_and_attributes_are_refused(kind, attrs, message):
    make = Builder()
    image = make.tensor((-1, 2), scale=0.1)
    output = make.op(kind, (image, image), (-1, 2), 0.1, **attrs)
    with pytest.raises(DDQError, match=message):
        tflite.write(make.graph({"x": image}, {"y": output}))


def test_every_problem_of_a_graph_is_named():
    graph = small_network()
    tensors = dict(graph.tensors)
    tensors["t1"] = dataclasses.replace(tensors["t1"], shape=(1, 2))
    extra = Op(kind="RELU", inputs=("nowhere",), outputs=("t3",))
    broken = dataclasses.replace(graph, tensors=tensors, ops=(*graph.ops, extra))
    with pytest.raises(DDQError) as caught:
        tflite.write(broken)
    for part in ("'t1': data must have shape", "'nowhere' is not written", "'t3' is already"):
        assert part in str(caught.value)
