import numpy as np
import pytest

from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType, Graph, check
from ddq_tf.export.operators.arithmetic import product_multiplier
from ddq_tf.export.passes import unit_scales
from ddq_tf.export.passes.unit_scales import _floats_around
from ddq_tf.export.simulation import with_all_outputs
from ddq_tf.targets import TARGETS
from tests.export.graphs import Builder

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def network(seed: int = 0, **scales: float) -> Graph:
    """conv -> pool -> dw -> fc -> two ADDs around another dw and fc -> MEAN -> fc."""
    make = Builder(seed)
    image = make.tensor((-1, 8, 8, 3), scale=0.02, zero_point=-5)
    shape = (-1, 4, 4, 8)
    conv = make.weighted("CONV_2D", image, (8, 3, 3, 3), (-1, 8, 8, 8), padding="SAME", scale=0.04)
    pool = make.op(
        "MAX_POOL_2D",
        (conv,),
        shape,
        0.04,
        3,
        filter_height=2,
        filter_width=2,
        stride_h=2,
        stride_w=2,
    )
    fully = {"keep_num_dims": True, "dtype": DType.INT4, "limit": 7}
    wide = make.weighted("DEPTHWISE_CONV_2D", pool, (1, 3, 3, 8), shape, axis=3, padding="SAME")
    first = make.weighted("FULLY_CONNECTED", wide, (8, 8), shape, scale=0.031, **fully)
    added = make.op("ADD", (first, pool), shape, 0.0477, -7)
    grown = make.weighted("FULLY_CONNECTED", added, (16, 8), (-1, 4, 4, 16), scale=0.023, **fully)
    deep = make.weighted(
        "DEPTHWISE_CONV_2D", grown, (1, 3, 3, 16), (-1, 4, 4, 16), axis=3, padding="SAME"
    )
    second = make.weighted("FULLY_CONNECTED", deep, (8, 16), shape, scale=0.0371, **fully)
    again = make.op("ADD", (added, second), shape, 0.0613, 11)
    mean = make.op("MEAN", (again, make.indices([1, 2])), (-1, 8), 0.0211, -20, keep_dims=False)
    logits = make.weighted("FULLY_CONNECTED", mean, (5, 8), (-1, 5), dtype=DType.INT4, limit=7)
    return make.graph({"image": image}, {"logits": logits})


def rewrite(graph: Graph) -> Graph:
    rewritten = unit_scales.run(graph, TARGETS["litert"])
    check(rewritten)
    return rewritten


def scale_of(graph: Graph, name: str) -> np.float32:
    quantization = graph.tensors[name].quantization
    assert quantization is not None
    return quantization.scale[0]


def assert_same_codes(before: Graph, after: Graph):
    """Every tensor is equal in XNNPACK; in built-in kernels nearly every code is."""
    (tensor,) = before.inputs.values()
    shape = (64, *before.tensors[tensor].shape[1:])
    codes = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    for delegate, tolerated in ((True, 0.0), (False, 1e-3)):
        left, right = (
            Runner(tflite.write(with_all_outputs(graph)), delegate=delegate).run(codes)
            for graph in (before, after)
        )
        assert left.keys() == right.keys()
        differences = np.concatenate(
            [np.abs(left[name].astype(int) - right[name]).ravel() for name in left]
        )
        assert np.mean(differences != 0) <= tolerated
        assert differences.max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_codes_stay(seed):
    graph = network(seed)
    after = rewrite(graph)
    before_file, after_file = tflite.write(graph), tflite.write(after)
    assert delegation(after_file).is_complete
    assert len(after_file) < len(before_file) - 100
    assert_same_codes(graph, after)


def test_scales():
    graph = network()
    after = rewrite(graph)
    units = [op for op in graph.ops if op.kind in WEIGHTED]
    units = [op for op in units if scale_of(after, op.inputs[0]) == 1]
    assert len(units) >= 3
    for op in units:
        weights, bias = (after.tensors[name].quantization for name in op.inputs[1:3])
        assert weights is not None
        assert bias is not None
        np.testing.assert_array_equal(weights.scale, bias.scale)
    for op in after.ops:
        if op.kind in WEIGHTED:
            weights, bias = (after.tensors[name].quantization.scale for name in op.inputs[1:3])
            np.testing.assert_array_equal(bias, scale_of(after, op.inputs[0]) * weights)
    for name in (*graph.inputs.values(), *graph.outputs.values()):
        assert scale_of(after, name) == scale_of(graph, name)


def test_multipliers_stay():
    before, after = network(), rewrite(network())
    equal = total = 0
    for op in before.ops:
        if op.kind in WEIGHTED:
            old, new = (
                product_multiplier(
                    scale_of(graph, op.inputs[0]),
                    graph.tensors[op.inputs[1]].quantization.scale,
                    scale_of(graph, op.outputs[0]),
                )
                for graph in (before, after)
            )
            np.testing.assert_allclose(new, old, rtol=2**-22)
            equal += np.sum(old == new)
            total += old.size
    assert equal >= total * 0.8


def test_repeating_it_changes_nothing():
    after = rewrite(network())
    assert rewrite(after) is after


def test_tensors_that_need_their_scale_keep_it():
    make = Builder()
    image = make.tensor((-1, 4, 4, 4), scale=0.05)
    options = {"padding": "SAME", "scale": 0.03}
    clipped = make.weighted(
        "CONV_2D", image, (4, 3, 3, 4), (-1, 4, 4, 4), fused_activation_function="RELU6", **options
    )
    curved = make.op("LOGISTIC", (clipped,), (-1, 4, 4, 4), 1 / 256, -128)
    summed = make.op("ADD", (clipped, curved), (-1, 4, 4, 4), 0.04)
    output = make.weighted("CONV_2D", summed, (4, 3, 3, 4), (-1, 4, 4, 4), **options)
    graph = make.graph({"x": image}, {"y": output})
    assert rewrite(graph) is graph


def test_leaky_relus_and_resizing_move_along():
    make = Builder()
    image = make.tensor((-1, 4, 4, 4), scale=0.05)
    inner = make.weighted("CONV_2D", image, (4, 3, 3, 4), (-1, 4, 4, 4), padding="SAME")
    grid = (0.05, 3)
    inner = make.op("LEAKY_RELU", (inner,), (-1, 4, 4, 4), *grid, alpha=51 / 256)
    size = make.indices([8, 8])
    inner = make.op("RESIZE_BILINEAR", (inner, size), (-1, 8, 8, 4), *grid, half_pixel_centers=True)
    inner = make.weighted("CONV_2D", inner, (4, 3, 3, 4), (-1, 8, 8, 4), padding="SAME")
    graph = make.graph({"x": image}, {"y": inner})
    after = rewrite(graph)
    assert [scale_of(after, op.outputs[0]) for op in graph.ops[:3]] == [1, 1, 1]
    assert_same_codes(graph, after)


def test_weights_for_built_in_kernels_keep_their_surroundings():
    make = Builder()
    image = make.tensor((-1, 4, 4, 4), scale=0.05)
    inner = image
    for _ in range(3):
        inner = make.weighted(
            "CONV_2D", inner, (4, 3, 3, 4), (-1, 4, 4, 4), padding="SAME", limit=7, dtype=DType.INT4
        )
    graph = make.graph({"x": image}, {"y": inner})
    assert rewrite(graph) is graph


def test_weights_of_several_ops_keep_their_surroundings():
    make = Builder()
    image = make.tensor((-1, 4), scale=0.05)
    first = make.weighted("FULLY_CONNECTED", image, (4, 4), (-1, 4), scale=0.05, zero_point=0)
    second = make.op("FULLY_CONNECTED", (first, *make.ops[0].inputs[1:]), (-1, 4), 0.05)
    graph = make.graph({"x": image}, {"y": second})
    assert rewrite(graph) is graph


def tie_prone(limit: int) -> Graph:
    """Two layers; the first multiplies by 31/32, which f32(1.904 * w) never is."""
    make = Builder()
    image = make.tensor((-1, 8), scale=1.904)
    scale = _floats_around(np.array([31 / 32 * 0.051 / 1.904]))[:, 0]
    scale = scale[product_multiplier(np.float32(1.904), scale, np.float32(0.051)) == 31 / 32][:1]
    weights = make.tensor((), scale=scale, data=[[limit, *[0] * 7]])
    bias = make.tensor((), DType.INT32, np.float32(1.904) * scale, data=[0])
    middle = make.op("FULLY_CONNECTED", (image, weights, bias), (-1, 1), 0.051)
    output = make.weighted("FULLY_CONNECTED", middle, (4, 1), (-1, 4))
    return make.graph({"x": image}, {"y": output})


def test_neighbouring_multipliers_need_equal_codes():
    # Sums reach 16 * 31/32 = 15.5, which neighbours of 31/32 round to 15.
    graph = tie_prone(limit=1)
    assert rewrite(graph) is graph
    # No sum but 0 is reached.
    graph = tie_prone(limit=0)
    after = rewrite(graph)
    assert scale_of(after, graph.ops[0].outputs[0]) == 1
    assert_same_codes(graph, after)
