import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.quantizers import ActivationQuantizer, WeightQuantizer
from ddq_tf.quantizers.selection import pick
from tests.toys import array


def quantizers():
    weight, activation = WeightQuantizer((2, 4, 8)), ActivationQuantizer((2, 4, 8))
    weight.build((3, 4))
    activation.build((None, 3, 4))
    return weight, activation


@pytest.mark.parametrize("quantizer", quantizers(), ids=["weight", "activation"])
def test_choice_and_visits(quantizer):
    assert (int(quantizer.choice), int(quantizer.active)) == (2, 2)
    quantizer.visit(1)
    assert (int(quantizer.choice), int(quantizer.active), quantizer.num_bits) == (2, 1, 8)
    np.testing.assert_array_equal(array(quantizer.selection(True)), [0, 1, 0])
    for inference in (False, None):
        np.testing.assert_array_equal(array(quantizer.selection(inference)), [0, 0, 1])
    quantizer.choose(0)
    assert (int(quantizer.choice), int(quantizer.active), quantizer.num_bits) == (0, 0, 2)
    assert not quantizer.is_frozen
    quantizer.frozen.assign(True)
    assert quantizer.is_frozen


@pytest.mark.parametrize("quantizer", quantizers(), ids=["weight", "activation"])
def test_only_floats_are_trained(quantizer):
    names = {v.name for v in quantizer.trainable_variables}
    assert names == {"log_range", "evidence"}
    fixed = {v.name: v.dtype for v in quantizer.non_trainable_variables}
    if isinstance(quantizer, ActivationQuantizer):
        assert fixed.pop("signed") == "bool"
    assert fixed == {
        "base_range": "float32",
        "choice": "int32",
        "active": "int32",
        "frozen": "bool",
    }


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_pick_takes_one_row_exactly_and_gives_it_the_gradient(count, shape):
    table = np.random.default_rng(0).lognormal(0, 9, (count, *shape)).astype(np.float32)
    variable = tf.Variable(table)
    for index in range(count):
        selection = keras.ops.one_hot(index, count, dtype="float32")
        with tf.GradientTape() as tape:
            row = pick(selection, tf.convert_to_tensor(variable))
            loss = tf.reduce_sum(row * 3.0)
        np.testing.assert_array_equal(array(row), table[index])
        expected = np.zeros_like(table)
        expected[index] = 3
        np.testing.assert_array_equal(array(tape.gradient(loss, variable)), expected)
