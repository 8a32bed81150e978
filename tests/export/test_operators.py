"""The registry of operators is whole, and says the truth where LiteRT can be asked."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner
from ddq_tf.export.ir import Graph, Quantization
from ddq_tf.export.operators import _FAMILIES, OPERATORS, attributes, operator_of
from ddq_tf.export.tflite.layout import camel_case
from tests.export.test_simulation import POOL, one_op

IMAGE = (-1, 4, 4, 8)
BLOCKS = {"block_size": 2}
# Shape of the output, constants (or the number of inputs), attributes.
ON_ONE_GRID = {
    "AVERAGE_POOL_2D": ((-1, 2, 3, 8), (), POOL),
    "CONCATENATION": ((-1, 4, 4, 16), 2, {"axis": 3}),
    "DEPTH_TO_SPACE": ((-1, 8, 8, 2), (), BLOCKS),
    "EXPAND_DIMS": ((-1, 1, 4, 4, 8), ([1],), {}),
    "LEAKY_RELU": (IMAGE, (), {"alpha": 0.3}),
    "MAXIMUM": (IMAGE, 2, {}),
    "MAX_POOL_2D": ((-1, 2, 3, 8), (), POOL),
    "MINIMUM": (IMAGE, 2, {}),
    "PAD": ((-1, 6, 4, 8), ([[0, 0], [1, 1], [0, 0], [0, 0]],), {}),
    "PADV2": None,  # reads a constant on the grid, which no pass moves
    "RELU": (IMAGE, (), {}),
    "RESHAPE": ((-1, 16, 8), ([-1, 16, 8],), {"new_shape": (-1, 16, 8)}),
    "RESIZE_BILINEAR": ((-1, 7, 8, 8), ([7, 8],), {}),
    "RESIZE_NEAREST_NEIGHBOR": ((-1, 7, 8, 8), ([7, 8],), {}),
    "SLICE": ((-1, 2, 3, 8), ([0, 1, 1, 0], [-1, 2, 3, 8]), {}),
    "SPACE_TO_DEPTH": ((-1, 2, 2, 32), (), BLOCKS),
    "SQUEEZE": None,  # needs an axis of size 1; as RESHAPE
    "STRIDED_SLICE": (
        (-1, 2, 4, 8),
        ([0, 0, 0, 0], [0, 4, 4, 8], [1, 2, 1, 1]),
        {"begin_mask": 1, "end_mask": 1},
    ),
    "TRANSPOSE": ((-1, 4, 8, 4), ([0, 1, 3, 2],), {}),
}


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_every_operator_is_whole(kind):
    operator = operator_of(kind)
    assert operator.kind == kind
    assert hasattr(schema.BuiltinOperator, kind)
    assert (operator.kernel is None) == bool(operator.unknown)
    assert not (operator.keeps_grid and operator.constants)
    assert (operator.options is not None) >= bool(operator.attrs)
    if operator.options is not None:
        options = getattr(schema, operator.options + "T")()
        assert all(hasattr(options, camel_case(attr)) for attr in operator.attrs)
        assert hasattr(schema.BuiltinOptions, operator.options)


def test_every_operator_is_defined_once():
    assert len(OPERATORS) == sum(len(family.OPERATORS) for family in _FAMILIES)


def test_unknown_operators_are_refused():
    with pytest.raises(DDQError, match="operators must be among"):
        operator_of("CONV_9D")


def test_attributes_have_defaults():
    op = one_op("ADD", IMAGE, IMAGE, inputs=2).ops[0]
    assert attributes(op) == {"fused_activation_function": "NONE"}
    with pytest.raises(DDQError, match="ADD has the attributes"):
        attributes(dataclasses.replace(op, attrs={"alpha": 1}))


def test_which_operators_keep_their_grid():
    assert {kind for kind in OPERATORS if operator_of(kind).keeps_grid} == set(ON_ONE_GRID)


def on_scale(graph: Graph, scale: float) -> Graph:
    """The graph with one scale for all."""
    tensors = {}
    for name, tensor in graph.tensors.items():
        grid = tensor.quantization
        if grid is not None:
            new = Quantization(scale=np.array([scale], np.float32), zero_point=grid.zero_point)
            tensor = dataclasses.replace(tensor, quantization=new)
        tensors[name] = tensor
    return dataclasses.replace(graph, tensors=tensors)


@pytest.mark.parametrize("kind", sorted(kind for kind, case in ON_ONE_GRID.items() if case))
def test_operators_that_keep_their_grid_compute_the_same_on_every_scale(kind):
    shape, more, attrs = ON_ONE_GRID[kind]
    reads = {"inputs": more} if isinstance(more, int) else {"constants": more}
    graph = one_op(kind, IMAGE, shape, same_grid=True, **reads, **attrs)
    rng = np.random.default_rng(0)
    codes = {
        name: rng.integers(-128, 128, (4, *IMAGE[1:])).astype(np.int8) for name in graph.inputs
    }
    results = [
        Runner(tflite.write(on_scale(graph, scale)), batch_size=4).run(codes)["y"]
        for scale in (1, 0.0173, 300)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
