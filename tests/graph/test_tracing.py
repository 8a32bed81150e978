"""Subclassed models and layers without a graph are read as what their `call` calls."""

from __future__ import annotations

import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.graph import flatten
from ddq_tf.graph.inputs import Interface
from tests.toys import array, images, shake
from tests.users import MODELS, ResidualBlock, ResNet, resnet

L = keras.layers
FILE = Path(__file__).name


def replayed(graph, given):
    """What the nodes of a flat graph give: the same layers and operations, one by one."""
    values = dict(zip(graph.inputs, given, strict=True))
    for node in graph.nodes:
        reads = [values[tensor] for tensor in node.inputs]
        if isinstance(node.layer, L.Layer):
            written = node.layer(reads if len(reads) > 1 else reads[0])
        elif len(node.inputs) > 1 and node.constants == (None,):
            written = node.layer(reads)
        else:
            left = iter(reads)
            arguments = [next(left, None) if c is None else c for c in node.constants]
            written = node.layer(*arguments)
        values.update(zip(node.outputs, keras.tree.flatten(written), strict=True))
    return [array(values[tensor]) for tensor in graph.outputs]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_flat_graph_computes_exactly_what_the_model_does(make):
    keras.utils.set_random_seed(0)
    model = shake(make())
    interface = Interface(model)
    given = [images(3, shape[1:], seed=n) for n, shape in enumerate(interface.shapes)]
    wanted = keras.tree.flatten(model(interface.packed(given), training=False))
    graph = flatten(model)
    assert all(type(node.layer).__module__.startswith("keras.src.") for node in graph.nodes)
    for received, expected in zip(replayed(graph, given), wanted, strict=True):
        np.testing.assert_array_equal(received, array(expected))


def test_weights_are_the_models_own_and_names_unique():
    model = resnet()
    nodes = flatten(model).nodes
    owned = {id(v) for node in nodes for v in getattr(node.layer, "variables", ())}
    # A Dropout's seed is no weight.
    assert {id(v) for v in model.weights} <= owned
    assert len({node.name for node in nodes}) == len({id(node.layer) for node in nodes})
    assert f"{model.blocks[0].name}_relu" in {node.name for node in nodes}


def test_reading_leaves_no_trace_on_the_model():
    class Penalized(L.Layer):
        def __init__(self):
            super().__init__()
            self.conv = L.Conv2D(3, 1)
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.add_loss(ops.mean(x))
            self.calls.assign(self.calls + 1.0)
            return self.conv(x)

    x = keras.Input((8, 8, 3))
    layer = Penalized()
    model = keras.Model(x, layer(x))
    model(images(2, (8, 8, 3)))
    nodes = len(layer._inbound_nodes), len(layer.conv._inbound_nodes)
    calls = float(array(layer.calls))
    flatten(model)
    assert (len(layer._inbound_nodes), len(layer.conv._inbound_nodes)) == nodes
    assert not any(isinstance(loss, keras.KerasTensor) for loss in model.losses)
    assert float(array(layer.calls)) == calls
    assert model.layers[-1].output is model.output  # one call is known of each layer


def test_norms_and_dropouts_train_unless_the_call_says_no():
    block = ResidualBlock(3)
    x = keras.Input((8, 8, 3))

    def flags(y):
        nodes = flatten(keras.Model(x, y)).nodes
        kinds = (L.BatchNormalization, L.Dropout)
        return {node.inference for node in nodes if isinstance(node.layer, kinds)}

    assert flags(block(x)) == {False}
    assert flags(block(x, training=False)) == {True}


def test_a_call_that_reads_the_batch_size_is_read():
    class Tokens(L.Layer):
        def call(self, x):
            batch, height, width, channels = ops.shape(x)
            x = ops.reshape(x, (batch, height * width, channels))
            return ops.reshape(x, (batch, -1, channels))

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.tokens, self.dense = Tokens(), L.Dense(4)

        def call(self, x):
            return self.dense(self.tokens(x))

    model = Net()
    model(images(2, (8, 8, 3)))
    graph = flatten(model)
    assert [node.shapes[0] for node in graph.nodes] == [
        (None, 8, 8, 3),
        (None, 64, 3),
        (None, 64, 3),
    ]


class Flow(L.Layer):
    def call(self, x):
        if ops.mean(x) > 0:
            return x * 2.0
        return x


class Numpy(L.Layer):
    def call(self, x):
        return ops.convert_to_tensor(np.tanh(np.asarray(x)))


class Stock(L.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.erf(x)

    def compute_output_shape(self, shape):
        return shape


def line_of(words):
    lines = Path(__file__).read_text("utf-8").splitlines()
    return next(n for n, line in enumerate(lines, 1) if words in line)


@pytest.mark.parametrize(
    ("layer", "line", "words"),
    [
        (Flow, "if ops.mean(x) > 0", "control flow"),
        (Numpy, "np.tanh(np.asarray(x))", "keras.ops"),
        (Stock, "return tf.math.erf(x)", "TensorFlow's erf"),
    ],
)
def test_what_cannot_be_read_names_layer_line_and_cure(layer, line, words):
    class Net(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.conv = layer(name="inner"), L.Conv2D(3, 1)

        def call(self, x):
            return self.conv(self.inner(x))

    model = Net(name="net")
    model(images(2, (8, 8, 3)))
    model.build((None, 8, 8, 3))
    try:
        (node,) = [n for n in flatten(model).nodes if n.trouble]
        received, name = node.trouble, node.name
    except DDQError as error:
        received, name = str(error), "inner"
    assert name == "inner"
    assert f"{FILE}:{line_of(line)}" in received
    assert words in received


def test_an_operation_knows_the_layer_and_the_line_that_called_it():
    places = {node.name: node.place for node in flatten(resnet()).nodes}
    source = Path(ResNet.call.__code__.co_filename)
    lines = source.read_text("utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "ops.mean(x, axis=(1, 2)))" in line)
    assert places["mean"].startswith("in 'resnet' (ResNet), ")
    assert places["mean"].endswith(f"{source.name}:{number}")


def test_several_arguments_are_refused_with_the_way_out():
    class Two(keras.Model):
        def call(self, left, right):
            return left + right

    model = Two(name="two")
    x = images(2, (8, 8, 3))
    model(x, x)
    with pytest.raises(DDQError, match=r"several arguments \(left, right\).*keras\.Model"):
        flatten(model)
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    (node,) = flatten(keras.Model([a, b], model(a, b))).nodes
    assert len(node.inputs) == 2


def test_a_saved_subclassed_model_is_read_after_loading(tmp_path):
    model = resnet()
    model.save(tmp_path / "net.keras")
    kinds = {"ResNet": ResNet, "ResidualBlock": ResidualBlock}
    loaded = keras.models.load_model(tmp_path / "net.keras", custom_objects=kinds)
    names = [node.name for node in flatten(loaded).nodes]
    assert len(names) == len(flatten(model).nodes)


def test_other_threads_build_models_meanwhile():
    built, stop = [], threading.Event()

    def build():
        while not stop.is_set():
            x = keras.Input((4,))
            built.append(keras.Model(x, ops.relu(L.Dense(2)(x))))

    thread = threading.Thread(target=build)
    thread.start()
    try:
        model = resnet()
        count = len(flatten(model).nodes)
        assert all(len(flatten(model).nodes) == count for _ in range(3))
    finally:
        stop.set()
        thread.join()
    assert built
