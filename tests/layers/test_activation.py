import keras
import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.layers import ACTIVATION_KINDS, DDQActivation, DDQSoftmax
from tests.toys import array, images


def layer_of(kind="linear", limit=None, **kwargs):
    layer = DDQActivation(kind, name="layer", **kwargs)
    layer.build((None, 8, 8, 3))
    if limit is not None:
        layer.quantizer.set_range(limit)
    return layer


@pytest.mark.parametrize("kind", ["relu", "relu6"])
def test_equals_the_keras_activation_on_the_grid(kind):
    layer = layer_of(kind, 6.0)
    scale = layer.quantizer.export_scale()
    x = (np.arange(-40, 256, dtype=np.float32) * scale).reshape(1, -1)
    expected = keras.layers.ReLU(6.0 if kind == "relu6" else None)(x)
    # 255 steps of float32(6 / 255) may miss 6 by one unit in the last place.
    np.testing.assert_allclose(array(layer(x)), np.minimum(array(expected), scale * 255), rtol=1e-6)
    high = array(layer(np.full((1, 3), 77, np.float32)))
    np.testing.assert_allclose(high, 6, rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_ceiling_is_where_the_clipped_relu_ends(bits):
    layer = layer_of("relu", 9.0, precisions=(bits,), ceiling=2.5)
    assert layer.get_config()["ceiling"] == 2.5
    output = array(layer(np.linspace(-4, 8, 1000, dtype=np.float32)[None]))
    np.testing.assert_allclose((output.min(), output.max()), (0, 2.5), rtol=1e-6)
    layer.observer = lambda values: None
    x = images(4) * 4
    np.testing.assert_array_equal(array(layer(x)), array(keras.layers.ReLU(2.5)(x)))


def test_linear_keeps_negative_values_on_the_grid():
    layer = layer_of("linear", 1.0)
    x = (np.arange(-128, 128, dtype=np.float32) * layer.quantizer.export_scale())[None]
    np.testing.assert_array_equal(array(layer(x)), x)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ACTIVATION_KINDS)
def test_has_no_more_values_than_its_precision(kind, bits):
    output = array(layer_of(kind, 2.0, precisions=(bits,))(images()))
    assert len(np.unique(output)) <= 2**bits


def test_relu6_never_exceeds_6():
    layer = layer_of("relu6", 9.0)
    assert array(layer(np.full((1, 8, 8, 3), 50, np.float32))).max() <= 6 * (1 + 1e-6)


def test_an_observer_sees_float_values():
    layer, seen = layer_of("relu6", 0.01), []
    layer.observer = lambda values: seen.append(array(values))
    outputs = array(layer(images(4)))
    expected = np.clip(images(4), 0, 6)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(seen, [expected])


@pytest.mark.parametrize("kind", [*ACTIVATION_KINDS, "clipped"])
@pytest.mark.parametrize("learned", [True, False])
def test_config_round_trip(kind, learned):
    arguments = {"kind": "relu", "ceiling": 2.5} if kind == "clipped" else {"kind": kind}
    layer = layer_of(**arguments, precisions=(3, 5), learned=learned)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


def test_a_saved_model_keeps_ranges_and_sign(tmp_path):
    inputs = keras.Input((8, 8, 3))
    layer = layer_of("linear", 1.3)
    layer.quantizer.signed = False  # as calibration sets it
    model = keras.Model(inputs, DDQSoftmax()(layer(inputs)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(images(2))), array(model(images(2))))
    assert not loaded.get_layer("layer").quantizer.signed


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "tanh"},
        {"kind": "relu", "signed": True},
        {"kind": "relu", "ceiling": 0.0},
        {"kind": "relu", "ceiling": float("nan")},
        {"kind": "relu6", "ceiling": 5.0},
        {"kind": "linear", "ceiling": 5.0},
    ],
)
def test_refuses(arguments):
    with pytest.raises(DDQError, match=r"layer 'bad'.*Received"):
        DDQActivation(**arguments, name="bad")


def test_softmax_lies_on_its_grid_in_inference_only():
    layer, x = DDQSoftmax(), images(6, (5,)) * 3
    plain = array(keras.ops.softmax(x))
    np.testing.assert_array_equal(array(layer(x, training=True)), plain)
    codes = array(layer(x)) * 256
    np.testing.assert_array_equal(codes, np.clip(np.rint(plain * 256), 0, 255))
