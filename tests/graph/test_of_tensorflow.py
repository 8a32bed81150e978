"""What users' code computes by functions of TensorFlow is read, and gives the same values."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.graph import flatten, of_tensorflow
from tests.graph.test_tracing import replayed
from tests.toys import array, images

L = keras.layers
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 8, 5)).astype(np.float32)
DEPTHWISE = KERNEL[..., :1]

USES = {
    "nn.relu": tf.nn.relu,
    "nn.relu6": tf.nn.relu6,
    "nn.leaky_relu": lambda x: tf.nn.leaky_relu(x, alpha=0.1),
    "nn.elu": tf.nn.elu,
    "nn.selu": tf.nn.selu,
    "nn.gelu": tf.nn.gelu,
    "nn.silu": lambda x: tf.nn.silu(x) + tf.nn.swish(x, beta=2.0),
    "nn.softplus math.softplus": tf.nn.softplus,
    "nn.softsign math.softsign": tf.nn.softsign,
    "nn.sigmoid math.sigmoid": lambda x: tf.sigmoid(x) + tf.nn.sigmoid(x),
    "nn.tanh math.tanh": lambda x: tf.tanh(x) + tf.nn.tanh(x),
    "nn.softmax": lambda x: tf.nn.softmax(x) + tf.nn.softmax(x, axis=1),
    "nn.log_softmax": tf.nn.log_softmax,
    "math.l2_normalize": lambda x: tf.nn.l2_normalize(x, -1) + tf.math.l2_normalize(x, axis=-1),
    "math.abs": tf.abs,
    "math.exp": tf.exp,
    "math.sqrt": lambda x: tf.sqrt(tf.nn.relu(x)),
    "math.square": tf.square,
    "math.negative": tf.negative,
    "math.add": lambda x: tf.add(x, 1.0),
    "math.subtract": lambda x: tf.subtract(1.0, x),
    "math.multiply": lambda x: tf.multiply(x, x),
    "math.divide math.truediv": lambda x: tf.divide(x, 3.0) + tf.truediv(x, 2.0),
    "math.maximum": lambda x: tf.maximum(x, 0.2),
    "math.minimum": lambda x: tf.minimum(x, 0.2),
    "math.pow": lambda x: tf.pow(x, 2),
    "math.squared_difference": lambda x: tf.math.squared_difference(x, x[:, :1]),
    "math.add_n": lambda x: tf.add_n([x, x, x]),
    "clip_by_value": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "math.reduce_mean": lambda x: tf.reduce_mean(x, axis=[1, 2]),
    "math.reduce_sum": lambda x: tf.math.reduce_sum(x, 1, keepdims=True),
    "math.reduce_max": lambda x: tf.reduce_max(x, -1),
    "math.reduce_min": lambda x: tf.reduce_min(x, axis=-1),
    "matmul": lambda x: (
        tf.matmul(x, x, transpose_b=True) + tf.linalg.matmul(x, KERNEL[0, 0, :, :4])
    ),
    "einsum": lambda x: tf.einsum("bhwc,bhvc->bhwv", x, x),
    "shape": lambda x: tf.reshape(x, [tf.shape(x)[0], -1]),
    "reshape": lambda x: tf.reshape(x, (-1, 16, 8)),
    "transpose": lambda x: tf.transpose(x, [0, 3, 1, 2]),
    "concat": lambda x: tf.concat([x, x], axis=-1),
    "stack": lambda x: tf.stack([x, x], axis=1),
    "unstack": lambda x: tf.add_n(tf.unstack(x, axis=1)),
    "split": lambda x: tf.split(x, 2, axis=-1)[1] + tf.split(x, [4, 4], -1)[0],
    "squeeze": lambda x: tf.squeeze(x[:, :1], axis=1),
    "expand_dims": lambda x: tf.expand_dims(x, 1),
    "tile": lambda x: tf.tile(x, [1, 2, 1, 1]),
    "pad": lambda x: tf.pad(x, [[0, 0], [1, 1], [2, 0], [0, 0]]),
    "identity": tf.identity,
    "cast": lambda x: tf.cast(x, tf.float32),
    "stop_gradient": tf.stop_gradient,
    "where": lambda x: tf.where(np.tri(4, 8) > 0, x, 0.0),
    "nn.depth_to_space": lambda x: tf.nn.depth_to_space(x, 2),
    "nn.space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
    "image.resize": lambda x: tf.image.resize(x, (8, 8)) + tf.image.resize(x, [8, 8], "nearest"),
    "nn.max_pool2d": lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
    "nn.avg_pool2d": lambda x: tf.nn.avg_pool2d(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME"),
    "nn.conv2d": lambda x: tf.nn.conv2d(x, KERNEL, strides=1, padding="SAME"),
    "nn.depthwise_conv2d": lambda x: tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 1, 1, 1], "VALID"),
    "nn.bias_add": lambda x: tf.nn.bias_add(x, KERNEL[0, 0, :, 0]),
}


def test_every_function_is_used():
    assert set(USES) == set(of_tensorflow.FUNCTIONS)


@pytest.mark.parametrize("name", USES)
def test_the_flat_graph_computes_what_tensorflow_does(name):
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, L.Lambda(USES[name])(x))
    graph = flatten(model)
    assert not [node.trouble for node in graph.nodes if node.trouble]
    given = images(3, (4, 4, 8))
    (received,) = replayed(graph, [given])
    np.testing.assert_allclose(received, array(model(given)), rtol=2e-6, atol=1e-6)


def test_only_while_a_call_is_read():
    with pytest.raises(ValueError, match="KerasTensor cannot be used"):
        tf.nn.relu(keras.Input((4,)))


def test_what_is_not_known_is_refused_with_a_cure():
    x = keras.Input((4, 4, 8))
    model = keras.Model(x, L.Lambda(lambda x: tf.math.erf(x))(x))
    (node,) = flatten(model).nodes
    assert "TensorFlow's erf there; write the same by keras.ops" in node.trouble
    model = keras.Model(x, L.Lambda(lambda x: tf.convert_to_tensor(x))(x))
    (node,) = flatten(model).nodes
    assert "TensorFlow's convert_to_tensor there" in node.trouble


def test_a_call_that_is_a_function_of_tensorflow_is_read():
    class Graph(L.Layer):
        @tf.function
        def call(self, x):
            return tf.nn.relu(x) * 2.0

    x = keras.Input((4, 4, 8))
    model = keras.Model(x, Graph()(x))
    given = images(3, (4, 4, 8))
    (received,) = replayed(flatten(model), [given])
    np.testing.assert_array_equal(received, array(model(given)))
