"""What quantizers that are alike share on TensorFlow: one traced function."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from ddq_tf.quantizers.native import shared

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow traces functions", allow_module_level=True)


class _Counted:
    """x times a row of a table, of which it counts the traces."""

    def __init__(self) -> None:
        self.traces = 0

    def __call__(self, table, x):
        self.traces += 1
        return x * table[0]


def test_traces_once_for_all_sizes_of_later_axes():
    function = _Counted()
    call = shared(function, 1)
    for size in (3, 5, 16):
        x, table = np.ones((64, 100, size), np.float32), np.full((2, size), 3, np.float32)
        result = call(table, x)
        assert tuple(result.shape) == x.shape
        np.testing.assert_array_equal(ops.convert_to_numpy(result), 3 * x)
    assert function.traces == 1


def test_few_values_are_not_traced_but_within_a_graph():
    import tensorflow as tf

    function = _Counted()
    call = shared(function, 1)
    for count in (4, 5):
        call(np.ones((2, 3), np.float32), np.ones((4, count, 3), np.float32))
    assert function.traces == 2
    graph = tf.function(call, autograph=False)
    for count in (4, 5):
        graph(np.ones((2, 3), np.float32), np.ones((4, count, 3), np.float32))
    assert function.traces == 3


def test_axes_of_size_1_are_traced_apart():
    """What is the same for all channels broadcasts; gradients are summed over the channels."""
    function = _Counted()
    call = shared(function, 1)
    for size in (5, 1):
        call(np.ones((2, size), np.float32), np.ones((64, 100, 5), np.float32))
    assert function.traces == 2


def test_the_result_has_a_known_shape_in_a_graph():
    import tensorflow as tf

    shapes = []

    @tf.function(autograph=False)
    def graph(x):
        result = shared(_Counted(), 1)(tf.ones((2, 5)), x)
        shapes.append(result.shape.as_list())
        return result

    graph.get_concrete_function(tf.TensorSpec((None, 7, 5)))
    assert shapes == [[None, 7, 5]]
