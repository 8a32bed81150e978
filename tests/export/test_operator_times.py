"""Files of one operator, and their times: what a layer's operator is called, here and in a file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.export import Runner, delegation, tflite
from ddq_tf.export.operator_times import (
    host_times,
    one_operator,
    prediction_of,
    shapes_in,
    widths_of,
)
from ddq_tf.latency import OperatorShape
from ddq_tf.targets import get_target
from tests.export.graphs import small_network

LITERT, COMPACT = get_target("litert"), get_target("litert-compact")
SHAPES = [
    OperatorShape(operator="FULLY_CONNECTED", positions=(6,), weights=(8, 4)),
    OperatorShape(operator="FULLY_CONNECTED", positions=(1,), weights=(5, 6)),
    OperatorShape(operator="CONV_2D", positions=(4, 5), weights=(8, 3, 2, 3), strides=(2, 1)),
    OperatorShape(operator="CONV_2D", positions=(4, 4), weights=(6, 3, 3, 2), groups=2),
    OperatorShape(operator="CONV_2D", positions=(4, 4), weights=(6, 1, 3, 2), dilations=(1, 2)),
    OperatorShape(operator="DEPTHWISE_CONV_2D", positions=(3, 3), weights=(1, 3, 3, 8), groups=4),
    OperatorShape(
        operator="TRANSPOSE_CONV", positions=(8, 7), weights=(3, 2, 3, 4), strides=(2, 2)
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_file_of_one_operator_is_that_operator(shape):
    for bits in widths_of(shape, LITERT):
        content = tflite.write(one_operator(shape, bits))
        graph = tflite.read(content)
        assert shapes_in(graph, LITERT) == [shape]
        assert graph.tensors[graph.ops[0].inputs[1]].dtype.bits == bits
        assert delegation(content).is_complete
        # Its sums spread over the codes: it computes something.
        runner = Runner(content)
        rng = np.random.default_rng(0)
        codes = rng.integers(-128, 128, runner.input.shape).astype(np.int8)
        assert len(np.unique(*runner.run(codes).values())) > 4


def test_the_widths_are_those_that_a_target_stores():
    in_rows, odd, convolution = SHAPES[:3]
    assert widths_of(in_rows, LITERT) == [2, 4, 8]
    assert widths_of(odd, LITERT) == [4, 8]
    assert widths_of(convolution, LITERT) == [8]
    assert widths_of(convolution, COMPACT) == [4, 8]
    assert widths_of(in_rows, get_target("litert-int8")) == [8]


def test_times_of_this_computer():
    large = OperatorShape(operator="FULLY_CONNECTED", positions=(64,), weights=(512, 512))
    rounds = []
    table = host_times(
        [large, SHAPES[0], large],
        LITERT,
        machine="here",
        created="now",
        runs=25,
        on_round=lambda *r: rounds.append(r),
    )
    assert rounds == [(10, 25), (20, 25), (25, 25)]
    assert (table.machine, table.num_threads) == ("here", 1)
    assert table.runtime.startswith("ai-edge-litert ")
    assert [(row.shape, row.bits) for row in table.rows] == [
        (shape, bits) for shape in (large, SHAPES[0]) for bits in (2, 4, 8)
    ]
    assert all(0 <= row.low_us <= row.median_us <= row.high_us for row in table.rows)
    assert table.overhead_us > 0
    assert table.us(large, 8) > table.us(SHAPES[0], 8)


def test_what_a_table_promises_of_a_file():
    graph = tflite.read(tflite.write(small_network()))
    shapes = shapes_in(graph, LITERT)
    assert [shape.operator for shape in shapes] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
    ]
    table = host_times(shapes, LITERT, machine="here", created="now", runs=2)
    narrow = small_network()
    layers = {op.source for op in narrow.ops}
    told = prediction_of(narrow, table, layers)
    stored = (8, 8, 4, 4)
    assert told.us == pytest.approx(
        sum(table.us(s, bits) for s, bits in zip(shapes, stored, strict=True))
    )
    assert told.int8_us == pytest.approx(sum(table.us(shape, 8) for shape in shapes))
    assert prediction_of(narrow, table, {narrow.ops[0].source}).us == table.us(shapes[0], 8)
    few = dataclasses.replace(table, rows=table.rows[:2])
    assert prediction_of(narrow, few, layers) is None


def test_bad_calls():
    for given in ({"runs": 0}, {"num_threads": 0}):
        with pytest.raises(DDQError, match="=0"):
            host_times(SHAPES, LITERT, machine="", created="", **given)
    with pytest.raises(DDQError, match="no operator with weights"):
        host_times([], LITERT, machine="", created="")
