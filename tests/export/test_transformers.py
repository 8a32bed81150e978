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
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt
from tests.kinds.test_contract import without_grids
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


class Windows(L.Layer):
    """Attention in windows of 4 x 4, shifted by 2: Liu et al., 2021. The windows join the batch."""

    def build(self, shape):
        channels = shape[-1]
        self.qkv, self.projection = L.Dense(3 * channels), L.Dense(channels)
        self.qkv.build((None, 16, channels))
        self.projection.build((None, 16, channels))
        self.table = self.add_weight((49, 2), "random_normal", name="table")
        rows, columns = np.divmod(np.arange(16), 4)
        self.index = (rows[:, None] - rows + 3) * 7 + (columns[:, None] - columns + 3)
        part = np.array([0, 0, 0, 0, 1, 1, 2, 2])
        parts = self._cut((part[:, None] * 3 + part)[None, :, :, None].astype(np.float32))
        parts = array(parts).reshape(4, 16)
        self.mask = np.where(parts[:, None] == parts[:, :, None], 0.0, -100.0).astype(np.float32)

    def _cut(self, x):
        x = ops.reshape(x, (-1, 2, 4, 2, 4, x.shape[-1]))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, x.shape[-1]))

    def call(self, x):
        channels = x.shape[-1]
        windows = self._cut(ops.roll(x, (-2, -2), (1, 2)))
        qkv = ops.reshape(self.qkv(windows), (-1, 16, 3, 2, channels // 2))
        qkv = ops.transpose(qkv, (2, 0, 3, 1, 4))
        query, key, value = qkv[0] * 0.3, qkv[1], qkv[2]
        scores = query @ ops.transpose(key, (0, 1, 3, 2))
        scores = scores + ops.transpose(ops.take(self.table, self.index, axis=0), (2, 0, 1))
        scores = ops.reshape(scores, (-1, 4, 2, 16, 16)) + self.mask[None, :, None]
        weights = ops.softmax(ops.reshape(scores, (-1, 2, 16, 16)))
        y = ops.reshape(ops.transpose(weights @ value, (0, 2, 1, 3)), (-1, 16, channels))
        y = ops.reshape(self.projection(y), (-1, 2, 2, 4, 4, channels))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 8, 8, channels))
        return ops.roll(y, (2, 2), (1, 2))


def swin() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = L.Dense(8)(inputs)
    x = x + Windows()(L.LayerNormalization()(x))
    x = x + L.Dense(8)(L.Dense(16, "gelu")(L.LayerNormalization()(x)))
    return keras.Model(inputs, L.Dense(10, "softmax")(L.GlobalAveragePooling2D()(x)))


MODELS = {
    "windows": swin,
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
def test_without_rounding_it_is_the_float_model(name):
    model = MODELS[name]()
    twin = rebuilt(canonical(flatten(model)), DDQConfig(budget=None), model).model
    without_grids(twin)
    with float_network(twin):
        ours, theirs = (array(each(IMAGES[:4], training=False)) for each in (twin, model))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["class token", "functional, causal", "windows"])
def test_the_whole_way(name, tmp_path):
    q = quantize_model(MODELS[name](), DDQConfig(target="litert"), calibration=IMAGES)
    before = [array(layer.value) for layer in constant_layers(q)]
    q.compile("adam", "sparse_categorical_crossentropy")
    q.fit(IMAGES, LABELS, epochs=1, batch_size=32, verbose=0)
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
    if name == "windows":  # which has all there is, in a fresh process
        arguments = [str(tmp_path / "net.keras"), str(tmp_path / "again.tflite")]
        subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True)
    else:
        loaded = keras.models.load_model(tmp_path / "net.keras")
        export_tflite(loaded, tmp_path / "again.tflite")
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


def joined(build) -> keras.Model:
    """What a user builds, on windows of 2 x 2 pixels that join the batch and are brought back."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = ops.reshape(L.Conv2D(8, 3, padding="same")(inputs), (-1, 4, 2, 4, 2, 8))
    x = build(ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 4, 8)))
    x = ops.transpose(ops.reshape(x, (-1, 4, 4, 2, 2, 8)), (0, 1, 3, 2, 4, 5))
    x = L.Conv2D(8, 1)(ops.reshape(x, (-1, 8, 8, 8)))
    return keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x)))


def everything(x):
    """Attention by layers, also over rows and columns, by keras.ops, and what stands between."""
    x = L.Reshape((2, 2, 16))(block(L.Dense(16, "swish")(x)))
    x = L.Reshape((4, 16))(L.MultiHeadAttention(2, 4)(x, x))
    y = L.Reshape((4, 2, 8))(L.LeakyReLU(0.1)(L.Dense(16)(x)))
    y = ops.dot_product_attention(y, ops.silu(y), y)
    y = ops.einsum("abcd,abed->abce", L.Permute((2, 1, 3))(y), L.Permute((2, 1, 3))(y))
    y = L.RMSNormalization()(L.Flatten()(y))
    y = ops.softmax(L.Reshape((4, 8))(y), axis=1)
    return L.Dense(8)(L.Concatenate(axis=2)([ops.concatenate([x, y], -1), x * 0.3]))


def test_windows_join_the_batch_in_models_of_layers(tmp_path):
    model = joined(everything)
    twin = rebuilt(canonical(flatten(model)), DDQConfig(budget=None), model).model
    without_grids(twin)
    with float_network(twin):
        ours, theirs = (array(each(IMAGES[:4], training=False)) for each in (twin, model))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    q = quantize_model(model, DDQConfig(budget=None), calibration=IMAGES)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [IMAGES])
    assert found.equal_codes_share == 1.0
    assert found.delegation.is_complete


def test_what_cannot_stand_among_windows_is_named():
    model = joined(lambda x: L.Conv1D(8, 3, padding="same", name="mix")(x))
    with pytest.raises(DDQError, match=r"'mix' \(Conv1D\): .*windows are joined.*a dense layer"):
        quantize_model(model, DDQConfig(budget=None), calibration=IMAGES)
