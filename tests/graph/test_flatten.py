import keras
import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.graph import flatten
from tests.toys import array, images

K = keras.layers


def run(graph, x):
    """Runs the flat graph layer by layer."""
    values = {graph.inputs[0]: x}
    for node in graph.nodes:
        reads = [values[t] for t in node.inputs]
        assert [tuple(v.shape[1:]) for v in reads] == [s[1:] for s in node.shapes]
        values[node.outputs[0]] = node.layer(reads if len(reads) > 1 else reads[0])
    return array(values[graph.outputs[0]])


def block(name, filters=4):
    inputs = keras.Input((8, 8, filters))
    x = K.Conv2D(filters, 3, padding="same", name="conv")(inputs)
    return keras.Model(inputs, K.Add(name="add")([x, inputs]), name=name)


def sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), K.Conv2D(4, 3, name="conv"), K.ReLU()])


def functional():
    inputs = keras.Input((8, 8, 3))
    a, b = K.Conv2D(4, 1)(inputs), K.Conv2D(4, 1)(inputs)
    return keras.Model(inputs, K.Add()([b, a]))


def nested():
    inputs = keras.Input((8, 8, 3))
    x = K.Conv2D(4, 1, name="conv")(inputs)
    return keras.Model(inputs, block("second")(block("first")(x)))


def nested_twice():
    inner = keras.Sequential([keras.Input((8, 8, 4)), block("deep"), K.ReLU()], name="middle")
    return keras.Sequential([keras.Input((8, 8, 3)), K.Conv2D(4, 1), inner, K.Flatten()])


def shared():
    inputs = keras.Input((8, 8, 3))
    conv, twice = K.Conv2D(3, 3, padding="same", name="conv"), block("twice", 3)
    return keras.Model(inputs, conv(twice(conv(twice(inputs)))))


@pytest.mark.parametrize("make", [sequential, functional, nested, nested_twice, shared])
def test_the_flat_graph_computes_what_the_model_does(make):
    model = make()
    graph = flatten(model)
    assert not any(isinstance(node.layer, keras.Model) for node in graph.nodes)
    assert not any(isinstance(node.layer, K.InputLayer) for node in graph.nodes)
    np.testing.assert_allclose(run(graph, images(2)), array(model(images(2))), atol=1e-6)
    assert graph.input_shapes == ((None, 8, 8, 3),)


def test_names_are_unique_among_layers_and_the_own_where_possible():
    names = [node.name for node in flatten(nested()).nodes]
    assert names == ["conv", "first_conv", "add", "second_conv", "second_add"]


def test_a_shared_layer_has_one_name_and_no_other_layer_has_it():
    nodes = flatten(shared()).nodes
    names = {(id(node.layer), node.name) for node in nodes}
    assert len(nodes) == 6
    assert len({layer for layer, _ in names}) == len({name for _, name in names}) == len(names) == 3


def test_readers_and_writers():
    graph = flatten(functional())
    (image,) = graph.inputs
    assert len(graph.consumers(image)) == 2
    assert graph.sole_consumer(image) is None
    assert graph.producer(image) is None
    add = graph.producer(graph.outputs[0])
    assert isinstance(add.layer, K.Add)
    assert graph.sole_consumer(graph.outputs[0]) is None
    assert graph.sole_consumer(add.inputs[0]) is add


def test_an_output_has_no_sole_consumer_even_if_it_is_read_once():
    inputs = keras.Input((8, 8, 3))
    x = K.Conv2D(4, 1)(inputs)
    graph = flatten(keras.Model(inputs, [x, K.ReLU()(x)]))
    assert graph.sole_consumer(graph.outputs[0]) is None


def test_training_false_reaches_the_layers_of_a_nested_model():
    inputs = keras.Input((8, 8, 3))
    norm = keras.Sequential([keras.Input((8, 8, 3)), K.BatchNormalization(name="inner")])
    x = norm(inputs, training=False)
    x = K.BatchNormalization(name="outer")(x)
    flags = {node.name: node.inference for node in flatten(keras.Model(inputs, x)).nodes}
    assert flags == {"inner": True, "outer": False}


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: Subclassed(name="mine"), r"'mine' \(Subclassed\) was never called.*Call it once"),
        (lambda: keras.Sequential([K.Dense(2)], name="mine"), r"'mine' is not built.*keras\.Input"),
        (lambda: 3, r"Keras 3 model.*Received: builtins\.int"),
        (lambda: K.Dense(3), r"Keras 3 model.*Received: keras.*Dense"),
    ],
)
def test_refuses(model, words):
    with pytest.raises(DDQError, match=words):
        flatten(model())
