"""Vision Transformers and causal attention: from `fit` to a file in one partition."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, first_difference, tflite, verify
from ddq_tf.export.ir import DType
from ddq_tf.graph import flatten
from ddq_tf.layers import DDQConstant, constant_layers
from ddq_tf.transform.canonical import canonical
from tests.toys import array, images

L = keras.layers
SHAPE = (8, 8, 3)
IMAGES = images(32, SHAPE)
LABELS = np.arange(32) % 10


class Tokens(L.Layer):
    """A class token before the patches, and learned positions: Dosovitskiy et al., 2020."""

    def build(self, shape):
        self.token = self.add_weight((1, 1, shape[-1]), "random_normal", name="token")
        self.position = self.add_weight(
            (1, shape[1] + 1, shape[-1]), "random_normal", name="position"
        )

    def call(self, patches):
        token = ops.broadcast_to(self.token, (ops.shape(patches)[0], 1, patches.shape[-1]))
        return ops.concatenate([token, patches], axis=1) + self.position


class Positions(L.Layer):
    """What an Embedding gives for fixed positions."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = L.Embedding(4, 16)

    def call(self, patches):
        return patches + self.embedding(ops.arange(4))


class Fixed(L.Layer):
    """Returns positions alone, as keras_hub's PositionEmbedding does."""

    def build(self, shape):
        self.position = self.add_weight(shape[1:], "random_normal", name="position")

    def call(self, patches):
        return ops.broadcast_to(self.position, ops.shape(patches))


def block(x, **attention):
    y = L.LayerNormalization()(x)
    x = x + L.MultiHeadAttention(2, 8)(y, y, **attention)
    return x + L.Dense(16)(L.Dense(24, "gelu")(L.LayerNormalization()(x)))


def vit(embed, **attention) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = embed(L.Reshape((4, 16))(L.Conv2D(16, 4, 4)(inputs)))
    x = L.LayerNormalization()(block(x, **attention))[:, 0]
    return keras.Model(inputs, L.Dense(10, "softmax")(x))


def functional(x):
    return L.Add()([x, Fixed()(x)])


MODELS = {
    "class token": lambda: vit(Tokens(name="tokens")),
    "embedding": lambda: vit(Positions()),
    "functional, causal": lambda: vit(functional, use_causal_mask=True),
}

FRESH = """
import sys
import ddq_tf, keras
model = keras.models.load_model(sys.argv[1])
ddq_tf.export.export_tflite(model, sys.argv[2])
"""


def held(graph, kind):
    """The INT8 constants that operators of a kind read."""
    names = [name for op in graph.ops if op.kind == kind for name in op.inputs]
    found = [graph.tensors[name] for name in names if name]
    return [t for t in found if t.is_constant and t.dtype is DType.INT8]


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_way(name, tmp_path):
    q = quantize_model(MODELS[name](), DDQConfig(target="litert"), calibration=IMAGES)
    before = [array(layer.value) for layer in constant_layers(q)]
    q.compile("adam", "sparse_categorical_crossentropy")
    q.fit(IMAGES, LABELS, epochs=1, batch_size=8, verbose=0)
    for layer, values in zip(constant_layers(q), before, strict=True):
        assert (array(layer.value) != values).any()
    file = export_tflite(q, tmp_path / "net.tflite")
    found = verify(q, file, [IMAGES])
    assert first_difference(q, IMAGES) is None
    assert found.equal_codes_share == 1.0
    assert found.delegation.is_complete
    graph = tflite.read(file.path.read_bytes())
    assert len(held(graph, "ADD")) == len(constant_layers(q)) == 1
    q.save(tmp_path / "net.keras")
    arguments = [str(tmp_path / "net.keras"), str(tmp_path / "again.tflite")]
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)
    assert (tmp_path / "again.tflite").read_bytes() == file.path.read_bytes()


def test_a_class_token_and_positions_are_one_sum():
    """Zeros before the patches, and one tensor of weights."""
    model = vit(Tokens(name="tokens"))
    tokens = model.get_layer("tokens")
    graph = canonical(flatten(model))
    (node,) = [n for n in graph.nodes if isinstance(n.layer, DDQConstant)]
    expected = array(tokens.position).copy()
    expected[:, 0] += array(tokens.token)[:, 0]
    np.testing.assert_allclose(array(node.layer.value).reshape(5, 16), expected[0], atol=1e-7)


def test_frozen_positions_stay():
    model = vit(Tokens(name="tokens"))
    model.get_layer("tokens").trainable = False
    q = quantize_model(model, DDQConfig(target="litert"), calibration=IMAGES)
    assert [layer.trainable for layer in constant_layers(q)] == [False]


def test_a_mask_hides_the_future():
    """What the first patches give does not depend on the later ones."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 16))
    model = keras.Model(x, L.Dense(3)(block(x, use_causal_mask=True)))
    data = images(16, (6, 16))
    q = quantize_model(model, DDQConfig(budget=None), calibration=data)
    other = data.copy()
    other[:, 3:] = images(16, (3, 16), seed=1)
    first, second = (array(q(each, training=False)) for each in (data, other))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).mean() > 0.9


def test_positions_count_in_the_budget():
    """They take 8 bits each: the kernels get what they leave."""
    config = DDQConfig(target="litert", budget="4000bytes")
    plain, positions = (
        quantize_model(vit(embed), config, calibration=IMAGES).weight_budget.capacity_bits
        for embed in (lambda x: x, Positions())
    )
    assert plain - positions == 8 * 4 * 16


def test_masks_need_float_operators():
    model = vit(Positions(), use_causal_mask=True)
    with pytest.raises(DDQError, match="masks need float operators"):
        quantize_model(model, DDQConfig(target="tflm", budget=None), calibration=IMAGES)
