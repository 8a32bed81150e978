import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.layers import (
    DDQActivation,
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    DDQSoftmax,
    activation_layers,
    weighted_layers,
)
from ddq_tf.targets import OpKind
from tests.toys import array, compiled, images, labels

K = keras.layers
CASES = {
    "conv": (
        DDQConv2D,
        K.Conv2D,
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
    ),
    "dilated": (DDQConv2D, K.Conv2D, {"filters": 4, "kernel_size": 3, "dilation_rate": 2}),
    "pointwise": (DDQConv2D, K.Conv2D, {"filters": 4, "kernel_size": 1, "use_bias": False}),
    "relu": (DDQConv2D, K.Conv2D, {"filters": 4, "kernel_size": 1, "activation": "relu"}),
    "depthwise": (DDQDepthwiseConv2D, K.DepthwiseConv2D, {"kernel_size": 3, "depth_multiplier": 2}),
    "dense": (DDQDense, K.Dense, {"units": 6}),
    "transposed": (
        DDQConv2DTranspose,
        K.Conv2DTranspose,
        {"filters": 5, "kernel_size": 3, "strides": 2},
    ),
    "one unit": (DDQDense, K.Dense, {"units": 1, "activation": "tanh"}),
}
PRECISIONS = (2, 4, 8)


def layer_of(case, bits=4, **quantizer):
    cls, _, arguments = CASES[case]
    layer = cls(**arguments, precisions=PRECISIONS, name="layer", **quantizer)
    layer.build((None, 8, 8, 3))
    rng = np.random.default_rng(0)
    layer.kernel.assign(rng.normal(0, 0.4, layer.kernel.shape))
    if layer.bias is not None:
        layer.bias.assign(rng.normal(0, 0.4, layer.bias.shape))
    layer.quantizer.calibrate(array(layer.kernel))
    layer.quantizer.choose(PRECISIONS.index(bits))
    return layer


def model_of(layer):
    inputs = keras.Input((8, 8, 3))
    x = layer(inputs)
    return keras.Model(inputs, K.Flatten()(x))


QUANTIZERS = {
    "uniform": {},
    "per tensor": {"per_channel": False},
    "free": {"levels": "free", "level_init": "kmeans", "correction": 0.5},
    "free per tensor": {"levels": "free", "per_channel": False},
}


def expected_of(layer, case, x):
    """The Keras layer with the quantized kernel: sums in float64, the rest in float32."""
    _, plain_class, arguments = CASES[case]
    plain = plain_class(**{**arguments, "use_bias": False, "activation": None}, dtype="float64")
    plain.build((None, 8, 8, 3))
    codes, scale = layer.integer_weights()
    kernel = codes * scale
    plain.kernel.assign(np.swapaxes(kernel, -1, -2) if case == "transposed" else kernel)
    sums = keras.ops.cast(plain(x), "float32")
    return array(layer.activation(sums if layer.bias is None else sums + layer.bias))


@pytest.mark.parametrize("bits", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_keras_layer_with_the_quantized_kernel(case, bits):
    layer = layer_of(case, bits)
    expected = expected_of(layer, case, images(4))
    np.testing.assert_array_equal(array(layer(images(4))), expected)
    assert layer.num_bits == bits


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("case", ["conv", "depthwise", "dense", "transposed"])
def test_takes_every_kind_of_quantizer(case, name):
    layer = layer_of(case, **QUANTIZERS[name])
    expected = expected_of(layer, case, images(4))
    np.testing.assert_array_equal(array(layer(images(4))), expected)
    given = {"per_channel": True, "levels": "uniform", **QUANTIZERS[name]}
    assert {field: layer.get_config()[field] for field in given} == given
    _, scale = layer.integer_weights()
    assert (len(np.unique(scale)) == 1) == (not given["per_channel"])


@pytest.mark.parametrize("case", CASES)
def test_config_round_trip(case):
    layer = layer_of(case)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    assert copy.quantizer.precisions == PRECISIONS


@pytest.mark.parametrize("case", CASES)
def test_clone_has_the_same_variables(case):
    model = model_of(layer_of(case))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(array(clone(images(2))), array(model(images(2))))


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_model_computes_the_same(case, tmp_path):
    model = model_of(layer_of(case))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(images(2))), array(model(images(2))))
    assert loaded.get_layer("layer").num_bits == 4


@pytest.mark.parametrize("levels", ["uniform", "free"])
@pytest.mark.parametrize("case", CASES)
def test_gradient_reaches_every_trainable_variable(case, levels):
    layer = layer_of(case, levels=levels)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(images(4), training=True) - 1.0))
    variables = layer.trainable_variables
    names = {v.name for v in variables}
    expected = {"kernel", "log_range", "evidence"} | ({"bias"} if layer.use_bias else set())
    assert names == expected | ({"levels"} if levels == "free" else set())
    for variable, gradient in zip(
        variables, tape.gradient(loss, [v.value for v in variables]), strict=True
    ):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all()
        assert np.any(gradient), variable.path


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_moves_kernel_and_ranges(case):
    layer = layer_of(case)
    model = compiled(model_of(layer))
    before = {v.path: array(v).copy() for v in layer.trainable_variables}
    model.train_on_batch(images(8), labels(8, 1 if case == "one unit" else 4)[:8])
    if case != "one unit":  # its cross-entropy over many equal outputs still moves it
        assert all(np.any(array(v) != before[v.path]) for v in layer.trainable_variables)
    assert all(np.isfinite(array(v)).all() for v in layer.trainable_variables)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("conv", OpKind.CONV),
        ("pointwise", OpKind.POINTWISE),
        ("depthwise", OpKind.DEPTHWISE),
        ("dense", OpKind.DENSE),
        ("transposed", OpKind.TRANSPOSED),
    ],
)
def test_kind(case, kind):
    assert layer_of(case).kind is kind


@pytest.mark.parametrize("arguments", [{"strides": 2}, {"groups": 3}])
def test_a_1x1_convolution_that_is_no_matrix_product_is_not_pointwise(arguments):
    assert DDQConv2D(3, 1, **arguments).kind is OpKind.CONV


def test_a_new_layer_loses_nothing_to_clipping():
    layer = DDQDense(5)
    layer.build((None, 7))
    np.testing.assert_allclose(
        array(layer.quantizer(layer.kernel)), array(layer.kernel), atol=0.5 / 127
    )


def test_layers_of_a_model_are_listed_in_network_order():
    inputs = keras.Input((4, 4, 2))
    x = DDQActivation(name="in")(inputs)
    x = DDQDepthwiseConv2D(3, name="a")(x)
    x = DDQActivation("relu", name="act")(x)
    model = keras.Model(inputs, DDQSoftmax()(DDQDense(2, name="b")(x)))
    assert [layer.name for layer in weighted_layers(model)] == ["a", "b"]
    assert [layer.name for layer in activation_layers(model)] == ["in", "act"]


@pytest.mark.parametrize("groups", [None, 1, 2])
def test_long_sums_are_exact_to_the_last_bit_in_inference(groups):
    rng = np.random.default_rng(0)
    if groups is None:
        layer, shape = DDQDense(16, precisions=(8,), use_bias=False), (8, 4096)
    else:
        arguments = {"precisions": (8,), "use_bias": False, "groups": groups}
        layer, shape = DDQConv2D(16, 3, **arguments), (2, 5, 5, 256 * groups)
    inputs = rng.integers(0, 256, shape).astype(np.float32) * np.float32(0.0137)
    layer.build(shape)
    codes, scale = layer.integer_weights()
    kernel = (codes * scale).astype(np.float32).astype(np.float64)
    wide = inputs.astype(np.float64)
    if groups is None:
        expected = wide @ kernel
    else:
        patches = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(1, 2))
        parts = zip(np.split(patches, groups, axis=3), np.split(kernel, groups, -1), strict=True)
        sums = [np.einsum("bhwcij,ijco->bhwo", part, weights) for part, weights in parts]
        expected = np.concatenate(sums, axis=-1)
    np.testing.assert_array_equal(array(layer(inputs)), expected.astype(np.float32))
    assert (array(layer(inputs, training=True)) != expected.astype(np.float32)).any()


def test_sums_that_cancel_are_exact_in_inference():
    """81 terms of thousands whose sum is some units."""
    rng = np.random.default_rng(0)
    layer = DDQConv2D(4, 3, use_bias=False, precisions=(8,))
    x = rng.choice([0.0, 6e3], (2, 8, 8, 9)).astype(np.float32)
    layer.build(x.shape)
    kernel = rng.normal(0, 1, layer.kernel.shape)
    layer.kernel.assign(kernel - kernel.mean(axis=(0, 1, 2)))
    layer.quantizer.calibrate(array(layer.kernel))
    quantized = array(layer.quantizer(layer.kernel)).astype(np.float64)
    patches = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(1, 2))
    expected = np.einsum("nhwcij,ijco->nhwo", patches, quantized)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=1.2e-7, atol=1e-9)
