"""The contract of every rule: each of its examples goes through the whole line, exactly.

One model holds five uses of an example: behind a plain layer; behind a sigmoid, before a
Concatenate; behind a ReLU that is dead; behind values of about a million and of a millionth.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, first_difference, verify
from ddq_tf.graph import as_float64, flatten
from ddq_tf.kinds import RULES, Output, find_rule
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from tests.toys import array, images, shake

L = keras.layers
EXAMPLES = {
    f"{rule.layers[0].__name__}-{number}": example
    for rule in RULES.rules
    for number, example in enumerate(rule.examples)
}


def stem(x, scale=1.0, bias=0.0):
    """A layer with weights, of four channels, that keeps the shape."""
    made = {
        4: lambda: L.Conv2D(4, 3, padding="same"),
        3: lambda: L.Conv1D(4, 3, padding="same"),
        2: lambda: L.Dense(x.shape[-1]),
    }[len(x.shape)]()
    y = made(x)
    made.kernel.assign(as_float64(made.kernel) * scale)
    made.bias.assign(as_float64(made.bias) + bias)
    return y


def uses_of(example) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input(example.shape, name="image")
    plain, gate = example.build(stem(x)), example.build(L.Activation("sigmoid")(stem(x)))
    joined = L.Concatenate()([gate, example.build(stem(x))])
    dead = example.build(L.ReLU()(stem(x, bias=-50.0)))
    large, small = example.build(stem(x, 1e6)), example.build(stem(x, 1e-6))
    return keras.Model(x, [plain, joined, dead, large, small], name="uses")


def shaken(model: keras.Model) -> keras.Model:
    """Statistics and scales of BatchNorms that are not the initial ones."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization | keras.layers.PReLU):
            shake(layer)
    return model


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_computed_exactly(name, tmp_path):
    example = EXAMPLES[name]
    model = shaken(uses_of(example))
    x = images(12, example.shape)
    q = quantize_model(model, DDQConfig(budget=None), calibration=x)
    with float_network(q):
        for ours, theirs in zip(q(x), model(x), strict=True):
            largest = np.abs(array(theirs)).max()
            np.testing.assert_allclose(array(ours), array(theirs), atol=5e-3 * largest)
    assert first_difference(q, x) is None
    result = export_tflite(q, tmp_path / "net.tflite")
    found = verify(q, result, [x])
    assert (found.equal_codes_share, found.weight_codes_identical) == (1.0, True)
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    again = export_tflite(loaded, tmp_path / "again.tflite")
    assert again.path.read_bytes() == result.path.read_bytes()


def test_every_layer_that_users_write_has_an_example():
    written = [rule for rule in RULES.rules if rule.words or rule.on_row or rule.expand]
    internal = ("DDQRescaling", "CustomScaleLayer")
    missing = [
        rule.layers[0].__name__
        for rule in written
        if not rule.examples and rule.layers[0].__name__ not in internal
    ]
    assert missing == []


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.layers[0].__name__)
def test_a_rule_is_whole(rule):
    rewritten = rule.expand is not None or rule.on_row is not None
    assert rewritten or rule.output is not None, "neither rewritten nor of the integer graph"
    if rule.output is Output.GRID:
        assert rule.lower is not None


def test_a_layer_without_a_rule_is_an_error_that_names_it():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.GroupNormalization(3)(L.Conv2D(3, 1)(x)))
    assert find_rule(model.layers[-1]) is None
    with pytest.raises(ValueError, match=r"group_normalization.*no integer form"):
        quantize_model(model, DDQConfig(budget=None), calibration=images(4))


def test_a_subclass_has_no_rule():
    class Mine(L.Conv2D):
        pass

    assert find_rule(Mine(3, 1)) is None


def test_what_is_left_of_each_example_is_known_to_the_integer_graph():
    for name, example in EXAMPLES.items():
        x = keras.Input(example.shape)
        graph = canonical(flatten(keras.Model(x, example.build(x))))
        for node in graph.nodes:
            rule = find_rule(node.layer)
            assert rule is not None, (name, node.name)
            assert rule.output is not None, (name, node.name)
