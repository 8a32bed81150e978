"""The contract of every rule: its examples go through the whole line, exactly.

One model holds five uses of each example of a rule: behind a plain layer; behind a sigmoid, before
a Concatenate; behind a ReLU that is dead; behind values of about a million and of a millionth.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, first_difference, verify
from ddq_tf.export.operator_times import shape_of
from ddq_tf.graph import as_float64, flatten
from ddq_tf.kinds import RULES, Output, find_rule
from ddq_tf.layers import DDQFixedGrid, DDQSoftmax, weighted_layers
from ddq_tf.search.times import layer_shapes
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt
from tests.toys import array, images, shake

L = keras.layers


def name_of(rule):
    """Operations have namesakes among layers."""
    kind = rule.layers[0]
    return f"{'ops.' if '.ops.' in kind.__module__ else ''}{kind.__name__}"


GROUPS = {
    f"{name_of(rule)}-{len(shape)}": [e for e in rule.examples if e.shape == shape]
    for rule in RULES.rules
    for shape in dict.fromkeys(example.shape for example in rule.examples)
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


def uses_of(examples) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input(examples[0].shape, name="image")
    stems = [
        stem(x),
        L.Activation("sigmoid")(stem(x)),
        L.ReLU()(stem(x, bias=-50.0)),
        stem(x, 1e6),
        stem(x, 1e-6),
    ]
    outputs = []
    for example in examples:
        plain, gate, *extreme = (example.build(each) for each in stems)
        outputs += [plain, L.Concatenate()([gate, example.build(stems[0])]), *extreme]
    model = keras.Model(x, outputs, name="uses")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shake(layer)
    return model


@pytest.mark.parametrize("name", GROUPS)
def test_every_example_is_the_float_layer_and_then_computed_exactly(name, tmp_path, monkeypatch):
    model = uses_of(GROUPS[name])
    x = images(12, GROUPS[name][0].shape)

    def looked_at(graph, config, of):
        found = rebuilt(graph, config, of)
        assert_float(name, found.model, model, x[:4])
        return found

    monkeypatch.setattr("ddq_tf.transform.quantize.rebuilt", looked_at)
    q = quantize_model(model, DDQConfig(budget=None), calibration=x)
    q.save(tmp_path / "net.keras")
    # The file of what was saved and loaded, against the model that was saved.
    loaded = keras.models.load_model(tmp_path / "net.keras")
    file = export_tflite(loaded, tmp_path / "net.tflite")
    assert_timed_as_it_is_stored(loaded, file)
    found = verify(q, file, [x])
    assert found.weight_codes_identical
    assert found.delegation.is_complete
    assert first_difference(q, x) is None
    assert found.equal_codes_share == 1.0


def assert_timed_as_it_is_stored(model, file):
    """What a budget of time takes each layer for is the operator in the file."""
    found = {layer.name: [] for layer in weighted_layers(model)}
    for op in file.graph.ops:
        if op.source in found:
            found[op.source].append(shape_of(op, file.graph))
    assert layer_shapes(model, file.target) == found


def assert_float(name, twin, model, x):
    """Without rounding, the model to be calibrated computes what the float one does."""
    # Slopes of leaky ReLUs are rounded to odd multiples of 1/256.
    slopes = ("Leaky", "Relu", "ReLU", "Activation-3")
    tolerance = 1e-2 if any(word in name for word in slopes) else 1e-5
    # Powers of four channels are rounded to multiples of 2^-14.
    rounded = 2.0**-13 if "LogSoftmax" in name else 0.0
    # Sums of up to 1024 values are of multiples of 2^-13 of the greatest.
    if name.startswith(("LayerNorm", "RMSNorm", "UnitNorm", "GroupNorm")):
        rounded = 2.0**-8
    without_grids(twin)
    with float_network(twin):
        for ours, theirs in zip(twin(x, training=False), model(x, training=False), strict=True):
            largest = float(np.abs(array(theirs)).max())
            error = np.abs(array(ours) - array(theirs)).max()
            # Keras's ELU rounds e^x - 1 to multiples of 6e-8; ours does not.
            assert error <= tolerance * largest + 1e-7 + rounded, (name, error, largest)
    with_grids(twin)


def without_grids(model):
    for layer in model.layers:
        if isinstance(layer, DDQFixedGrid):
            layer.call = lambda inputs, lift=0.0: inputs
        elif isinstance(layer, DDQSoftmax):
            layer.call = lambda inputs, training=None: keras.ops.softmax(inputs)


def with_grids(model):
    for layer in model.layers:
        if isinstance(layer, DDQFixedGrid | DDQSoftmax):
            del layer.call


def test_every_layer_that_users_write_has_an_example():
    written = [rule for rule in RULES.rules if rule.words or rule.on_row or rule.expand]
    internal = ("DDQFunction", "DDQRescaling")
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
    model = keras.Model(x, L.ConvLSTM1D(3, 1)(L.Conv2D(3, 1)(x)))
    assert find_rule(model.layers[-1]) is None
    with pytest.raises(ValueError, match=r"conv_lstm1d.*no integer form"):
        quantize_model(model, DDQConfig(budget=None), calibration=images(4))


def test_a_subclass_has_no_rule():
    class Mine(L.Conv2D):
        pass

    assert find_rule(Mine(3, 1)) is None


def test_what_is_left_of_each_example_is_known_to_the_integer_graph():
    named = [(name, example) for name, group in GROUPS.items() for example in group]
    for name, example in named:
        x = keras.Input(example.shape)
        graph = canonical(flatten(keras.Model(x, example.build(x))))
        for node in graph.nodes:
            rule = find_rule(node.layer)
            assert rule is not None, (name, node.name)
            assert rule.output is not None, (name, node.name)
