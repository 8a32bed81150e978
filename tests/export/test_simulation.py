import dataclasses
import itertools

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import simulate, with_all_outputs
from ddq_tf.targets import TARGETS
from tests.export.graphs import Builder, small_network
from tests.toys import images, shake

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def random_inputs(graph: Graph, rng: np.random.Generator, examples: int) -> dict[str, np.ndarray]:
    inputs = {}
    for name, tensor_name in graph.inputs.items():
        tensor = graph.tensors[tensor_name]
        shape = (examples, *tensor.shape[1:]) if tensor.shape[0] == -1 else tensor.shape
        if tensor.dtype is DType.FLOAT32:
            inputs[name] = rng.normal(0, 1, shape).astype(np.float32)
        else:
            limits = np.iinfo(tensor.dtype.numpy)
            codes = rng.integers(limits.min, limits.max + 1, shape)
            inputs[name] = codes.astype(tensor.dtype.numpy)
    return inputs


def assert_equals_interpreter(graph: Graph, *, seed=0, examples=4, delegated=True):
    inputs = random_inputs(graph, np.random.default_rng(seed), examples)
    file = tflite.write(graph)
    assert delegation(file).is_complete is delegated
    expected = Runner(file, batch_size=examples).run(inputs)
    received = simulate(graph, inputs)
    assert set(received) == set(expected)
    for name, values in expected.items():
        assert received[name].dtype == values.dtype
        np.testing.assert_array_equal(received[name], values, err_msg=name)


def scale_of(rng):
    return float(np.exp(rng.uniform(np.log(0.005), np.log(0.2))))


def code(rng):
    return int(rng.integers(-128, 128))


def one_op(kind, shape, output_shape, *, same_grid=False, inputs=1, constants=(), seed=0, **attrs):
    """A graph of one op on inputs of one shape, grids at random."""
    rng = np.random.default_rng(seed)
    make = Builder(seed)
    first = (scale_of(rng), code(rng))
    grids = [first] * (inputs + 1) if same_grid else [first]
    grids += [(first[0] * float(rng.uniform(0.3, 3)), code(rng)) for _ in range(inputs)]
    reads = [make.tensor(shape, scale=s, zero_point=z) for s, z in grids[:inputs]]
    more = [make.indices(values) for values in constants]
    scale, zero_point = grids[inputs]
    output = make.op(kind, (*reads, *more), output_shape, scale, zero_point, **attrs)
    return make.graph({f"x{i}": name for i, name in enumerate(reads)}, {"y": output})


WEIGHTED = list(
    itertools.product(
        ["CONV_2D", "DEPTHWISE_CONV_2D"], ["SAME", "VALID"], [(1, 1), (2, 2), (2, 1)], ACTIVATIONS
    )
)


@pytest.mark.parametrize(
    ("case", "kind", "padding", "strides", "activation"),
    [(i, *case) for i, case in enumerate(WEIGHTED)],
)
def test_convolutions(case, kind, padding, strides, activation):
    rng = np.random.default_rng(case)
    height, width, depth = (int(n) for n in rng.integers(5, 9, 3))
    kernel = [int(n) for n in rng.integers(1, 4, 2)]
    dilations = (1, 1) if strides != (1, 1) else tuple(int(n) for n in rng.integers(1, 3, 2))
    multiplier = int(rng.integers(1, 3)) if kind == "DEPTHWISE_CONV_2D" else 1
    channels = depth * multiplier if kind == "DEPTHWISE_CONV_2D" else int(rng.integers(1, 9))
    extents = [(n - 1) * d + 1 for n, d in zip(kernel, dilations, strict=True)]
    sizes = [
        -(-n // s) if padding == "SAME" else (n - e) // s + 1
        for n, e, s in zip((height, width), extents, strides, strict=True)
    ]
    make = Builder(case)
    image = make.tensor((-1, height, width, depth), scale=scale_of(rng), zero_point=code(rng))
    depthwise = kind == "DEPTHWISE_CONV_2D"
    output = make.weighted(
        kind,
        image,
        (1, *kernel, channels) if depthwise else (channels, *kernel, depth),
        (-1, *sizes, channels),
        axis=3 if depthwise else 0,
        scale=scale_of(rng),
        zero_point=code(rng),
        padding=padding,
        stride_h=strides[0],
        stride_w=strides[1],
        dilation_h_factor=dilations[0],
        dilation_w_factor=dilations[1],
        fused_activation_function=activation,
        **({"depth_multiplier": multiplier} if depthwise else {}),
    )
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), seed=case)


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolution(groups):
    make = Builder()
    image = make.tensor((-1, 6, 6, 8), scale=0.05, zero_point=3)
    output = make.weighted("CONV_2D", image, (12, 3, 3, 8 // groups), (-1, 4, 4, 12))
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}))


@pytest.mark.parametrize(("dtype", "limit"), [(DType.INT8, 127), (DType.INT4, 7), (DType.INT2, 1)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fully_connected(dtype, limit, keep, activation):
    make = Builder(limit)
    image = make.tensor((-1, 5, 3, 24) if keep else (-1, 24), scale=0.04, zero_point=-11)
    output = make.weighted(
        "FULLY_CONNECTED",
        image,
        (10, 24),
        (-1, 5, 3, 10) if keep else (-1, 10),
        dtype=dtype,
        limit=limit,
        scale=0.03,
        keep_num_dims=keep,
        fused_activation_function=activation,
    )
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), examples=64)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["ADD", "SUB", "MUL"])
def test_sums_and_products(kind, seed):
    graph = one_op(
        kind,
        (-1, 9, 9, 8),
        (-1, 9, 9, 8),
        inputs=2,
        seed=seed,
        fused_activation_function=ACTIVATIONS[seed % 4],
    )
    assert_equals_interpreter(graph, seed=seed, examples=16)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("adj_x", "adj_y"), [(False, False), (False, True), (True, False)])
def test_products_of_matrices(seed, adj_x, adj_y):
    rng = np.random.default_rng(seed)
    rows, terms, columns = (int(n) for n in rng.integers(1, 40, 3))
    around = [(), (2,), (3, 2)][seed % 3]
    left, right = (rows, terms), (terms, columns)
    shapes = (left[::-1] if adj_x else left, right[::-1] if adj_y else right)
    make = Builder(seed)
    scales, zero_points = (scale_of(rng), scale_of(rng)), (code(rng), 0)
    reads = [
        make.tensor((-1, *around, *shape), scale=scale, zero_point=zero_point)
        for shape, scale, zero_point in zip(shapes, scales, zero_points, strict=True)
    ]
    scale = 40 * scales[0] * scales[1] * np.sqrt(terms)
    shape = (-1, *around, rows, columns)
    output = make.op("BATCH_MATMUL", reads, shape, scale, code(rng), adj_x=adj_x, adj_y=adj_y)
    graph = make.graph({"x": reads[0], "y": reads[1]}, {"z": output})
    assert_equals_interpreter(graph, seed=seed, examples=8)


def test_second_factors_with_a_zero_point_are_refused():
    graph = one_op("BATCH_MATMUL", (-1, 4, 4), (-1, 4, 4), inputs=2)
    codes = {name: np.zeros((1, 4, 4), np.int8) for name in graph.inputs}
    with pytest.raises(DDQError, match="zero point must be 0"):
        simulate(graph, codes)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep", [False, True])
def test_mean(seed, keep):
    size = 3 + 2 * seed
    shape = (-1, 1, 1, 40) if keep else (-1, 40)
    graph = one_op(
        "MEAN", (-1, size, size, 40), shape, constants=[[1, 2]], seed=seed, keep_dims=keep
    )
    assert_equals_interpreter(graph, seed=seed, examples=16)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["QUANTIZE", "LOGISTIC", "TANH"])
def test_functions_of_one_code(kind, seed):
    make = Builder()
    rng = np.random.default_rng(seed)
    image = make.tensor((-1, 2048), scale=scale_of(rng), zero_point=code(rng))
    bounds = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
    scale, zero_point = bounds.get(kind, (scale_of(rng), code(rng)))
    output = make.op(kind, (image,), (-1, 2048), scale, zero_point)
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), seed=seed)


ALL_CODES = {"x": np.arange(-128, 128, dtype=np.int8)[None]}


@pytest.mark.parametrize(
    ("kind", "attrs", "delegated"),
    [
        ("ELU", {}, True),
        ("GELU", {}, False),
        ("GELU", {"approximate": True}, False),
        ("LEAKY_RELU", {"alpha": 0.2}, True),
        ("LEAKY_RELU", {"alpha": 51 / 256}, True),
    ],
)
def test_every_code_of_a_function(kind, attrs, delegated):
    rng = np.random.default_rng(0)
    for _ in range(40):
        make = Builder()
        image = make.tensor((-1, 256), scale=scale_of(rng), zero_point=code(rng))
        output = make.op(kind, (image,), (-1, 256), scale_of(rng), code(rng), **attrs)
        graph = make.graph({"x": image}, {"y": output})
        file = tflite.write(graph)
        assert delegation(file).is_complete is delegated
        expected = Runner(file).run(ALL_CODES)["y"]
        np.testing.assert_array_equal(simulate(graph, ALL_CODES)["y"], expected)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("attrs", [{}, {"align_corners": True}, {"half_pixel_centers": True}])
def test_bilinear_resizing(attrs, seed):
    rng = np.random.default_rng(seed)
    height, width, rows, columns = (int(n) for n in rng.integers(1, 12, 4))
    size = (rows, columns) if seed % 2 else (height * (1 + rows % 5), width * (1 + columns % 5))
    graph = one_op(
        "RESIZE_BILINEAR",
        (-1, height, width, 5),
        (-1, *size, 5),
        same_grid=True,
        constants=[list(size)],
        seed=seed,
        **attrs,
    )
    assert_equals_interpreter(graph, seed=seed, examples=16)


def transposed(seed, padding, kernel, strides):
    rng = np.random.default_rng(seed)
    height, width, depth, channels = (int(n) for n in rng.integers(1, 7, 4))
    rows = zip((height, width), kernel, strides, strict=True)
    size = [n * s if padding == "SAME" else (n - 1) * s + max(k, s) for n, k, s in rows]
    make = Builder(seed)
    image = make.tensor((-1, height, width, depth), scale=0.05, zero_point=code(rng))
    output = make.weighted(
        "TRANSPOSE_CONV",
        image,
        (channels, *kernel, depth),
        (-1, *size, channels),
        padding=padding,
        stride_h=strides[0],
        stride_w=strides[1],
    )
    shape = make.indices([1, *size, channels])
    last = make.ops[-1]
    make.ops[-1] = dataclasses.replace(last, inputs=(shape, *np.array(last.inputs)[[1, 0, 2]]))
    return make.graph({"x": image}, {"y": output})


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (4, 3)])
def test_transposed_convolution(padding, strides, kernel):
    for seed in range(3):
        assert_equals_interpreter(transposed(seed, padding, kernel, strides), seed=seed)


def test_transposed_convolution_with_short_kernels():
    assert_equals_interpreter(transposed(0, "VALID", (1, 2), (2, 3)))
    graph = transposed(0, "SAME", (1, 2), (2, 2))
    assert not delegation(tflite.write(graph)).is_complete
    with pytest.raises(DDQError, match="does not take SAME padding"):
        simulate(graph, random_inputs(graph, np.random.default_rng(0), 1))


def test_float_interface():
    make = Builder()
    image = make.tensor((-1, 500), DType.FLOAT32)
    codes = make.op("QUANTIZE", (image,), (-1, 500), 0.013, -7)
    output = make.op("DEQUANTIZE", (codes,), (-1, 500), dtype=DType.FLOAT32)
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), examples=40)


def test_uint8_interface():
    make = Builder()
    image = make.tensor((-1, 500), DType.UINT8, 0.02, 121)
    codes = make.op("QUANTIZE", (image,), (-1, 500), 0.02, -7)
    output = make.op("QUANTIZE", (codes,), (-1, 500), 0.02, 121, DType.UINT8)
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), delegated=False)


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize(("scale", "classes"), [(0.02, 10), (0.15, 1000), (0.3, 7)])
def test_softmax(scale, classes, beta):
    make = Builder()
    image = make.tensor((-1, classes), scale=scale, zero_point=5)
    output = make.op("SOFTMAX", (image,), (-1, classes), 1 / 256, -128, beta=beta)
    graph = make.graph({"x": image}, {"y": output})
    assert_equals_interpreter(graph, examples=100, delegated=False)


POOL = {"filter_height": 3, "filter_width": 2}


@pytest.mark.parametrize(
    ("kind", "delegated", "constants", "shape", "attrs"),
    [
        ("MAX_POOL_2D", True, (), (3, 3, 4), {**POOL, "stride_h": 2, "stride_w": 2}),
        ("MAX_POOL_2D", True, (), (7, 6, 4), {**POOL, "padding": "SAME"}),
        ("AVERAGE_POOL_2D", False, (), (3, 3, 4), {**POOL, "stride_h": 2, "stride_w": 2}),
        ("AVERAGE_POOL_2D", False, (), (7, 6, 4), {**POOL, "padding": "SAME"}),
        ("RESHAPE", True, ([-1, 42, 4],), (42, 4), {"new_shape": (-1, 42, 4)}),
        ("PAD", True, ([[0, 0], [1, 2], [0, 1], [0, 0]],), (10, 7, 4), {}),
        ("TRANSPOSE", True, ([0, 2, 1, 3],), (6, 7, 4), {}),
        ("RELU", False, (), (7, 6, 4), {}),
        ("RELU6", False, (), (7, 6, 4), {}),
        ("RELU_N1_TO_1", False, (), (7, 6, 4), {}),
        ("SLICE", False, ([0, 1, 2, 0], [-1, 4, 3, -1]), (4, 3, 4), {}),
        (
            "STRIDED_SLICE",
            False,
            ([0, 1, 0, 0], [0, 7, 6, 4], [1, 2, 3, 1]),
            (3, 2, 4),
            {"begin_mask": 1, "end_mask": 1},
        ),
        ("RESIZE_NEAREST_NEIGHBOR", False, ([11, 9],), (11, 9, 4), {}),
        ("RESIZE_NEAREST_NEIGHBOR", False, ([11, 9],), (11, 9, 4), {"align_corners": True}),
        ("RESIZE_NEAREST_NEIGHBOR", False, ([11, 9],), (11, 9, 4), {"half_pixel_centers": True}),
    ],
)
def test_one_input_on_one_grid(kind, delegated, constants, shape, attrs):
    graph = one_op(kind, (-1, 7, 6, 4), (-1, *shape), same_grid=True, constants=constants, **attrs)
    assert_equals_interpreter(graph, delegated=delegated)


@pytest.mark.parametrize(
    ("kind", "delegated", "shape", "attrs"),
    [
        ("CONCATENATION", True, (4, 4, 16), {"axis": 3}),
        ("MAXIMUM", False, (4, 4, 8), {}),
        ("MINIMUM", False, (4, 4, 8), {}),
    ],
)
def test_two_inputs_on_one_grid(kind, delegated, shape, attrs):
    graph = one_op(kind, (-1, 4, 4, 8), (-1, *shape), same_grid=True, inputs=2, **attrs)
    assert_equals_interpreter(graph, delegated=delegated)


@pytest.mark.parametrize(
    ("kind", "shape"), [("SPACE_TO_DEPTH", (2, 2, 32)), ("DEPTH_TO_SPACE", (8, 8, 2))]
)
def test_blocks(kind, shape):
    graph = one_op(kind, (-1, 4, 4, 8), (-1, *shape), same_grid=True, block_size=2)
    assert_equals_interpreter(graph, delegated=True)


def test_padding_with_a_value():
    make = Builder()
    image = make.tensor((-1, 4, 4, 2), scale=0.1, zero_point=9)
    paddings = make.indices([[0, 0], [1, 0], [2, 1], [0, 0]])
    value = make.tensor((), scale=0.1, zero_point=9, data=np.full((1,), -128))
    output = make.op("PADV2", (image, paddings, value), (-1, 5, 7, 2), 0.1, 9)
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), delegated=False)


@pytest.mark.parametrize(("narrow", "limit"), [(DType.INT4, 7), (DType.INT2, 1)])
def test_every_tensor_of_a_network(narrow, limit):
    graph = with_all_outputs(small_network(narrow, limit))
    assert len(graph.outputs) == len(graph.ops) == 6
    assert_equals_interpreter(graph, examples=8)


def test_what_is_refused():
    graph = one_op("HARD_SWISH", (-1, 4), (-1, 4))
    with pytest.raises(DDQError, match=r"HARD_SWISH of layer 'layer_0' writing 't1'"):
        simulate(graph, random_inputs(graph, np.random.default_rng(0), 1))
    faint = one_op("LEAKY_RELU", (-1, 4), (-1, 4), same_grid=True, alpha=0.003)
    with pytest.raises(DDQError, match="XNNPACK takes slopes"):
        simulate(faint, random_inputs(faint, np.random.default_rng(0), 1))
    make = Builder()
    image = make.tensor((-1, 5), scale=0.1)
    odd = make.weighted("FULLY_CONNECTED", image, (4, 5), (-1, 4), dtype=DType.INT4, limit=7)
    graph = make.graph({"x": image}, {"y": odd})
    with pytest.raises(DDQError, match="XNNPACK does not take INT4"):
        simulate(graph, {"x": np.zeros((1, 5), np.int8)})
    with pytest.raises(DDQError, match=r"takes int8 of shape \(-1, 5\)"):
        simulate(graph, {"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(DDQError, match="the inputs are"):
        simulate(graph, {})


@pytest.mark.parametrize(("dtype", "limit"), [(DType.INT8, 127), (DType.INT4, 7), (DType.INT2, 1)])
def test_accumulators_overflow_as_in_xnnpack(dtype, limit):
    make = Builder()
    image = make.tensor((-1, 32), scale=1.0, zero_point=-3)
    biases = [2**26, 2**27 - 40_000, -(2**27) + 40_000]
    if dtype is not DType.INT4:  # beyond 2^27 some machines' kernels wrap around, others do not
        biases += [2**28 + 2**26, 2**31 - 2000, -(2**31) + 2000]
    scale = np.full(len(biases), 1e-7)
    codes = make.rng.integers(-limit, limit + 1, (len(biases), 32))
    weights = make.tensor((), dtype, scale, data=codes)
    bias = make.tensor((), DType.INT32, scale, data=biases)
    output = make.op("FULLY_CONNECTED", (image, weights, bias), (-1, len(biases)), 2.0)
    assert_equals_interpreter(make.graph({"x": image}, {"y": output}), examples=64)


@pytest.mark.parametrize("name", ["ad01_int8", "pretrainedResnet_quant", "vww_96_int8"])
def test_every_tensor_of_published_files(shared_dir, name):
    graph = tflite.read((shared_dir / f"models/mlperf_tiny/{name}.tflite").read_bytes())
    assert_equals_interpreter(with_all_outputs(graph), examples=2, delegated=name == "ad01_int8")


def test_every_tensor_of_mobilenet_v2():
    model = shake(keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10))
    q = ddq_tf.quantize_model(
        model, ddq_tf.DDQConfig(budget=0.6), calibration=images(16, (96, 96, 3))
    )
    graph = with_all_outputs(run_passes(lower(q), TARGETS["litert"]))
    assert len(graph.ops) == 73
    assert_equals_interpreter(graph, examples=2)
