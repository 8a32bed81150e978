"""TFMOT's models become Keras 3 models that answer alike, with the ranges that they learned."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import ddq_tf.tfmot as room
from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.tfmot import from_tfmot, quantize_scope
from tests.tfmot.projects import L, Q, data, float_twin, network, trained

OUTPUTS = ["image", "stem_relu", "dw_norm", "pw", "sum", "side", "both", "pool"]
MAKE = {
    "h5": lambda model, folder: _saved(model, folder / "net.h5"),
    "keras": lambda model, folder: _saved(model, folder / "net.keras"),
    "savedmodel": lambda model, folder: _saved(model, folder / "net"),
    "memory": lambda model, folder: model,
}
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5:UserWarning")


def _saved(model, path):
    model.save(path)
    return str(path)


@pytest.fixture(scope="module")
def quantized():
    tf_keras.utils.set_random_seed(0)
    return trained(Q.quantize_model(trained(network())), epochs=2)


@pytest.mark.parametrize("source", MAKE)
def test_the_float_twin_answers_alike(quantized, source, tmp_path):
    x = data()[0]
    model, ranges = from_tfmot(MAKE[source](quantized, tmp_path))
    expected = float_twin(quantized).predict(x, verbose=0)
    assert isinstance(model, keras.Model)
    assert np.abs(np.asarray(model(x)) - expected).max() < 1e-5
    assert list(ranges.outputs) == OUTPUTS
    assert list(ranges.sums) == ["scores"]
    assert sorted(ranges.kernels) == ["dw", "pw", "scores", "side", "stem"]
    assert ranges.bits == {}
    assert ranges.notes == ()


def test_ranges_are_those_of_the_wrappers(quantized):
    _, ranges = from_tfmot(quantized)
    held = {v.name: v.numpy() for layer in quantized.layers for v in layer.weights}
    for name, (low, high) in ranges.outputs.items():
        found = [
            (held[key], held[key.replace("_min", "_max")])
            for key in held
            if key.endswith("_min:0")
            and (key.startswith((f"quant_{name}/output", f"quant_{name}/post")))
        ]
        if name != "image":
            assert found == [(low, high)]
    kernel = ranges.kernels["stem"].alpha
    np.testing.assert_array_equal(kernel, held["quant_stem/kernel_max:0"])


def test_a_file_without_calibration_data(quantized, tmp_path):
    model, ranges = from_tfmot(quantized)
    config = DDQConfig(target="litert-int8", budget=None, precisions=(8,))
    made = quantize_model(model, config, ranges=ranges)
    x, _ = data()
    proof = verify(made, export_tflite(made, tmp_path / "net.tflite"), x)
    assert proof.max_lsb <= 1  # a softmax
    theirs = quantized.predict(x, verbose=0).argmax(axis=1)
    assert (np.asarray(made(x)).argmax(axis=1) == theirs).mean() > 0.9


def test_an_untrained_model_needs_data():
    model, ranges = from_tfmot(Q.quantize_model(network()))
    assert ranges.outputs == {}
    assert "ranges that were never learned" in ranges.notes[0]
    assert "'stem_relu'" in ranges.notes[0]
    with pytest.raises(DDQError, match="calibration"):
        quantize_model(model, DDQConfig(budget=None), ranges=ranges)
    quantize_model(model, DDQConfig(budget=None), data()[0], ranges=ranges)


def test_layers_without_wrapper_are_noted():
    def annotate(layer):
        return Q.quantize_annotate_layer(layer) if layer.name == "scores" else layer

    some = tf_keras.models.clone_model(network(), clone_function=annotate)
    _, ranges = from_tfmot(trained(Q.quantize_apply(some)))
    assert "in_float=True" in ranges.notes[-1]
    assert "'stem'" in ranges.notes[-1]
    assert "'scores'" not in ranges.notes[-1]


def every_layer():
    i = L.Input((16, 16, 4), name="in")
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="elu")(i)
    x = L.SeparableConv2D(8, 3, depth_multiplier=2, activation="swish")(L.LeakyReLU(0.2)(x))
    x = L.ZeroPadding2D(((0, 1), (1, 0)))(L.PReLU(shared_axes=[1, 2])(x))
    x = L.AveragePooling2D()(L.Cropping2D(1)(L.UpSampling2D(interpolation="bilinear")(x)))
    x = L.Dropout(0.3)(L.GaussianNoise(0.1)(x))
    gate = L.Dense(8, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(x))
    x = L.Multiply()([x, gate])
    x = L.Activation("gelu")(L.BatchNormalization(scale=False, momentum=0.9)(x))
    inner_in = L.Input(x.shape[1:])
    clipped = L.ReLU(max_value=3.0, negative_slope=0.1)(inner_in)
    x = tf_keras.Model(inner_in, clipped, name="inner")(x)
    y = L.Flatten()(L.GlobalMaxPooling2D()(x))
    z = L.Conv1D(4, 3, padding="causal")(L.Reshape((-1, 8))(x))
    return tf_keras.Model(
        {"in": i}, {"a": L.Dense(3)(y), "b": L.Softmax()(L.GlobalAveragePooling1D()(z))}
    )


def test_plain_models_move_layer_by_layer(tmp_path):
    tf_keras.utils.set_random_seed(1)
    theirs = every_layer()
    for weight in theirs.weights:
        weight.assign(np.random.default_rng(0).uniform(0.1, 0.5, weight.shape))
    x = {"in": np.random.default_rng(0).normal(0, 1, (3, 16, 16, 4)).astype(np.float32)}
    for source in (theirs, _saved(theirs, tmp_path / "net.h5")):
        mine, ranges = from_tfmot(source)
        assert ranges.say_nothing
        answers = mine(x)
        for name, expected in theirs(x).items():
            np.testing.assert_allclose(answers[name], expected, atol=1e-5, rtol=1e-5)
        assert [tensor.name for tensor in mine.inputs] == ["in"]


def test_names_with_slashes_and_operations_outside_layers():
    i = L.Input((8, 8, 3))
    x = L.Conv2D(4, 3, name="block/conv")(i / 127.5 - 1.0)
    gate = tf.nn.relu6(L.BatchNormalization(name="block_conv")(x) + 3.0) * (1 / 6)
    theirs = tf_keras.Model(i, L.Multiply()([x, gate]))
    mine, _ = from_tfmot(theirs)
    x = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(mine(x), theirs(x), atol=1e-5)
    assert {"block_conv", "block_conv_2"} <= {layer.name for layer in mine.layers}


def test_a_sequential_model():
    theirs = tf_keras.Sequential([L.Input((8,)), L.Dense(4, activation="relu"), L.Dense(2)])
    mine, _ = from_tfmot(theirs)
    x = np.ones((2, 8), np.float32)
    np.testing.assert_allclose(mine(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("file", ["vww_96.h5"])
def test_legacy_files(file, shared_dir):
    path = shared_dir / "models" / "mlperf_tiny" / file
    mine, _ = from_tfmot(path)
    theirs = tf_keras.models.load_model(path, compile=False)
    x = np.random.default_rng(0).random((4, *mine.input_shape[1:])).astype(np.float32)
    assert np.abs(np.asarray(mine(x)) - theirs.predict(x, verbose=0)).max() < 1e-5


def test_public_names_are_there_and_documented():
    assert sorted(set(room.__all__)) == room.__all__
    assert all(getattr(room, name).__doc__ for name in room.__all__)


class TwoBits(Q.QuantizeConfig):
    """A QuantizeConfig of a project's own."""

    def __init__(self):
        self.quantizer = Q.quantizers.LastValueQuantizer(
            num_bits=2, per_axis=False, symmetric=True, narrow_range=False
        )

    def get_weights_and_quantizers(self, layer):
        return [(layer.kernel, self.quantizer)]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class Nothing(Q.quantizers.Quantizer):
    """A quantizer whose range nobody knows."""

    def build(self, tensor_shape, name, layer):
        return {"bound": layer.add_weight(name + "_bound", initializer="ones")}

    def __call__(self, inputs, training, weights, **kwargs):
        return tf.clip_by_value(inputs, -weights["bound"], weights["bound"])

    def get_config(self):
        return {}


class Unknown(TwoBits):
    """A QuantizeConfig with it."""

    def __init__(self):
        self.quantizer = Nothing()


def with_config(config):
    annotated = Q.quantize_annotate_layer(L.Dense(3, name="own"), config)
    model = tf_keras.Sequential([L.Input((16, 16, 3)), L.Flatten(), annotated, L.Softmax()])
    with Q.quantize_scope({"TwoBits": TwoBits, "Unknown": Unknown}):
        return Q.quantize_apply(model)


def test_a_quantize_config_of_ones_own_keeps_8_bits_and_says_so():
    _, ranges = from_tfmot(with_config(TwoBits()))
    assert ranges.bits == {"own": 8}
    assert "'own': TwoBits is a QuantizeConfig of your own; the kernel keeps 8 bits" in str(
        ranges.notes
    )


def hard_sigmoid_of_keras_2():
    i = L.Input((8,))
    x = L.Dense(4, activation="hard_sigmoid", name="gate")(i)
    return tf_keras.Model(i, L.Lambda(lambda t: t * 2, name="twice")(x))


BAD = {
    "unknown quantizer": (lambda: with_config(Unknown()), "'own': Nothing, .*'bound'"),
    "annotated only": (
        lambda: Q.quantize_annotate_model(network()),
        "(?s)quantize_apply first.*layer 'quantize_annotate",
    ),
    "keras 3": (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), "already"),
    "no model": (lambda: 3, "takes a tf_keras model or the path of one. .*Received: builtins.int"),
    "no file": (lambda: "nowhere.h5", "does not exist. Received: 'nowhere.h5'"),
    "not built": (lambda: tf_keras.Sequential([L.Dense(1)]), "Received: not built"),
    "other answers, and no layer": (
        hard_sigmoid_of_keras_2,
        r"(?s)'gate' \(Dense\): Keras 3 answers otherwise.*hard_sigmoid.*'twice' \(Lambda\)",
    ),
    "lambda": (
        lambda: tf_keras.Sequential([L.Input((3,)), L.Lambda(lambda t: t + 1, name="plus")]),
        r"'plus' \(Lambda\): its function does not move; use a layer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, words = BAD[name]
    with pytest.raises(DDQError, match=words):
        from_tfmot(make())


def test_a_damaged_file(tmp_path):
    path = tmp_path / "net.h5"
    path.write_bytes(b"no hdf5")
    with pytest.raises(DDQError, match=r"tf_keras cannot load the model .*net\.h5"):
        from_tfmot(path)


def test_a_loaded_model_trains_on(quantized, tmp_path):
    path = _saved(quantized, tmp_path / "net.h5")
    with quantize_scope():
        loaded = tf_keras.models.load_model(path)
    x, _ = data()
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), quantized.predict(x, verbose=0))
    trained(loaded)
