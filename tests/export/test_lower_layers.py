"""Layers beyond the plain chain of convolutions, each from Keras through the file to LiteRT."""

import keras
import numpy as np
import pytest
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import Runner, export_tflite, first_difference, verify
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.grids import align
from ddq_tf.layers import DDQRescaling, activation_layers, weighted_layers
from ddq_tf.targets import TARGETS
from tests.toys import array, compiled, images, labels, shake

K = keras.layers


def net(body, shape=(8, 8, 3), top=True):
    """A convolution, `body` on its result, and a small classifier."""
    inputs = keras.Input(shape, name="image")
    x = body(K.Conv2D(6, 3, padding="same", name="stem")(inputs))
    return keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(x)) if top else x, name="net")


def after_input(*layers, shape=(8, 8, 3)):
    inputs = x = keras.Input(shape, name="image")
    for layer in (*layers, K.Conv2D(6, 3, padding="same", activation="relu")):
        x = layer(x)
    return keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(x)), name="net")


def conv(filters=6, size=1, **kwargs):
    return K.Conv2D(filters, size, padding="same", **kwargs)


def concat(*branches):
    return lambda x: conv(6)(K.Concatenate()([branch(x) for branch in branches]))


def same(x):
    return x


def dense_block(x):
    for _ in range(3):
        y = conv(8)(K.ReLU()(K.BatchNormalization()(x)))
        y = conv(4, 3)(K.ReLU()(K.BatchNormalization()(y)))
        x = K.Concatenate()([x, y])
    return K.ReLU()(K.BatchNormalization()(x))


def squeeze_excite(gate):
    def body(x):
        y = K.Reshape((1, 1, 6))(K.GlobalAveragePooling2D()(x))
        y = conv(6)(conv(3, activation="relu")(y))
        return K.Multiply()([x, K.Activation(gate)(y)])

    return body


def written_out_hard_sigmoid(x):
    y = K.GlobalAveragePooling2D(keepdims=True)(x)
    return K.Multiply()([x, K.ReLU(6.0)(conv(6)(y) + 3.0) * (1.0 / 6.0)])


def pre_activation(x):
    y = K.ReLU()(K.BatchNormalization()(x))
    x = K.Add()([conv(6, 3)(y), x])
    return conv(6)(K.ReLU()(K.BatchNormalization()(x)))


def two_readers(x):
    x = K.Add()([conv(6)(x), x])
    y = conv(6, 3)(K.ReLU()(x))
    return K.Add()([y, conv(6)(x)])


def relu_of_large_values(ceiling):
    def body(x):
        x = x * 8.0
        return K.Add()([K.ReLU(ceiling)(x), x])

    return body


CASES = {
    "concat": lambda: net(concat(conv(4), conv(3, activation="relu"))),
    "concat relu": lambda: net(concat(conv(4, activation="relu"), conv(3, activation="relu"))),
    "concat relu6": lambda: net(concat(conv(4), lambda x: K.ReLU(6.0)(conv(3)(x)))),
    "concat itself": lambda: net(concat(same, same)),
    "concat pooled": lambda: net(concat(K.MaxPooling2D(3, 1, "same"), conv(3))),
    "concat of sigmoid": lambda: net(concat(conv(3), K.Activation("sigmoid"))),
    "dense block": lambda: net(dense_block),
    "batch norm alone": lambda: net(lambda x: K.BatchNormalization()(K.MaxPooling2D()(x))),
    "pre-activation": lambda: net(pre_activation),
    "rescaling": lambda: after_input(K.Rescaling(1 / 2, offset=-1)),
    "normalization": lambda: after_input(
        K.Rescaling(2.0), K.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])
    ),
    "multiply": lambda: net(lambda x: K.Multiply()([conv(6)(x), conv(6)(x)])),
    "subtract": lambda: net(lambda x: K.Subtract()([conv(6)(x), x])),
    "operators": lambda: net(lambda x: (conv(6)(x) + x) * conv(6)(x) - x),
    "numbers": lambda: net(lambda x: 1.5 - x * 2.0),
    "scaled dense": lambda: net(lambda x: K.Dense(6, use_bias=False)(x) * 0.3 - 0.1),
    "scaled sum": lambda: net(lambda x: CustomScaleLayer(0.17)([x, conv(6)(x)])),
    "three summands": lambda: net(lambda x: K.Add()([x, conv(6)(x), conv(6)(x)])),
    "squeeze and excite": lambda: net(squeeze_excite("sigmoid")),
    "hard squeeze and excite": lambda: net(squeeze_excite("hard_sigmoid")),
    "hard sigmoid written out": lambda: net(written_out_hard_sigmoid),
    "sigmoid": lambda: net(lambda x: conv(6, activation="sigmoid")(x)),
    "tanh": lambda: net(lambda x: conv(6, activation="tanh")(x)),
    "hard sigmoid": lambda: net(lambda x: conv(6, activation="hard_sigmoid")(x)),
    "swish": lambda: net(lambda x: K.Activation("swish")(K.BatchNormalization()(conv(6)(x)))),
    "hard swish": lambda: net(lambda x: K.Activation("hard_swish")(conv(6)(x))),
    "leaky relu": lambda: net(K.LeakyReLU(0.2)),
    "relu alone": lambda: net(two_readers),
    "relu6 alone": lambda: net(lambda x: K.Add()([K.ReLU(6.0)(x), x])),
    "relu6 that clips": lambda: net(relu_of_large_values(6.0)),
    "clipped relu": lambda: net(lambda x: K.ReLU(0.3)(K.BatchNormalization()(conv(6)(x)))),
    "clipped relu alone": lambda: net(relu_of_large_values(2.7)),
    "clipped sum": lambda: net(lambda x: K.ReLU(1.0)(K.Add()([conv(6)(x), x]))),
    "clipped product": lambda: net(lambda x: K.ReLU(0.2)(K.Multiply()([conv(6)(x), x]))),
    "concat clipped": lambda: net(
        concat(conv(4), lambda x: K.MaxPooling2D(3, 1, "same")(K.ReLU(0.4)(conv(3)(x))))
    ),
    "clip": lambda: net(lambda x: keras.ops.clip(conv(6)(x), 0, 0.5)),
    "global max": lambda: keras.Sequential(
        [keras.Input((8, 8, 3)), conv(6), K.GlobalMaxPooling2D(), K.Dense(4)]
    ),
    "cropping": lambda: net(K.Cropping2D(((1, 2), (0, 1)))),
    "upsampling": lambda: net(K.UpSampling2D((2, 3))),
    "permute": lambda: net(K.Permute((2, 1, 3))),
    "average pool": lambda: net(K.AveragePooling2D(2)),
    "average pool 3 stride 2": lambda: net(K.AveragePooling2D(3, 2)),
    "average pool same": lambda: net(K.AveragePooling2D(3, 1, "same")),
    "average pool same stride 2": lambda: net(K.AveragePooling2D(3, 2, "same")),
    "elu": lambda: net(lambda x: conv(6, 3, activation="elu")(x)),
    "elu layer": lambda: net(lambda x: K.Add()([K.ELU()(x), x])),
    "concat of elu": lambda: net(concat(conv(3), lambda x: K.ELU()(conv(4)(x)))),
    "leaky relu written as activation": lambda: net(lambda x: conv(6, activation="leaky_relu")(x)),
    "bilinear": lambda: net(lambda x: K.UpSampling2D(2, interpolation="bilinear")(x)),
    "bilinear 4 x 1": lambda: net(lambda x: K.UpSampling2D((4, 1), interpolation="bilinear")(x)),
    "bilinear 16": lambda: net(
        lambda x: K.UpSampling2D(16, interpolation="bilinear")(conv(3)(K.MaxPooling2D(4)(x)))
    ),
    "transposed": lambda: net(K.Conv2DTranspose(5, 3, 2, "same")),
    "transposed valid": lambda: net(
        lambda x: K.ReLU()(K.BatchNormalization()(K.Conv2DTranspose(5, (4, 2), 2)(x)))
    ),
    "transposed short": lambda: net(K.Conv2DTranspose(5, (1, 3), 2, "same", activation="relu")),
    "transposed pointwise": lambda: net(K.Conv2DTranspose(5, 1, use_bias=False)),
    "concat of transposed": lambda: net(
        concat(conv(3), K.Conv2DTranspose(4, 3, padding="same", activation="relu"))
    ),
    "max pool that skips": lambda: net(K.MaxPooling2D(1, 2)),
    "six inputs": lambda: net(lambda x: concat(*[conv(2)] * 6)(x)),
    "separable": lambda: net(
        lambda x: K.ReLU()(K.BatchNormalization()(K.SeparableConv2D(8, 3, use_bias=False)(x)))
    ),
    "separable relu": lambda: net(
        K.SeparableConv2D(8, 3, strides=2, padding="same", activation="relu")
    ),
    "grouped": lambda: net(lambda x: conv(6, 3, groups=3, activation="relu")(x)),
}


def trained(make):
    """A DDQ model after two steps on random data."""
    model = shake(make(), seed=4)
    x = images(64, model.input_shape[1:])
    q = quantize_model(model, DDQConfig(budget=None), x[:32])
    compiled(q, keras.optimizers.SGD(0.01)).fit(x, labels(64), batch_size=32, verbose=0)
    align(q)
    return q, x


@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_was_trained(case, tmp_path):
    keras.utils.set_random_seed(1)
    q, x = trained(CASES[case])
    result = export_tflite(q, tmp_path / "net.tflite")
    proof = verify(q, result, [x])
    assert proof.equal_codes_share >= 0.999
    assert proof.max_lsb <= 1
    assert proof.weight_codes_identical
    assert proof.delegation.is_complete, proof.delegation.undelegated


@pytest.mark.parametrize("slope", [0.1, 0.2, 0.3])
def test_leaky_relu_rounds_every_code_as_litert_does(slope):
    """Also the lowest code -128, which times an odd number of 256ths lies between two codes."""
    inputs = keras.Input((16, 16, 1))
    model = keras.Model(inputs, K.Conv2D(2, 1)(K.LeakyReLU(slope)(inputs)))
    x = (np.arange(256, dtype=np.float32) - 128).reshape(1, 16, 16, 1) / 127
    q = quantize_model(model, DDQConfig(budget=None), x)
    activation_layers(q)[0].quantizer.set_range(1.0)  # calibration leaves -128 unused
    assert first_difference(q, x) is None


def test_rescalings_become_part_of_the_weights():
    model = shake(CASES["scaled sum"](), seed=4)
    q = quantize_model(model, DDQConfig(budget=None), images(8))
    assert not any(isinstance(layer, DDQRescaling) for layer in q.layers)
    kinds = [op.kind for op in run_passes(lower(q), TARGETS["litert"]).ops]
    assert kinds == ["CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN", "FULLY_CONNECTED"]


def all_sorts(x):
    x = conv(6)(K.AveragePooling2D(3, 1, "same")(dense_block(x)))
    x = squeeze_excite("hard_sigmoid")(x)
    return K.Activation("swish")(K.SeparableConv2D(4, 3)(K.LeakyReLU(0.2)(x)))


def test_a_saved_model_exports_the_same_file(tmp_path):
    body = net(lambda x: all_sorts(conv(6)(x)))
    inputs = keras.Input((8, 8, 3))
    q, x = trained(lambda: keras.Model(inputs, body(K.Rescaling(0.3, 0.1)(inputs))))
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    ours = export_tflite(q, tmp_path / "a.tflite").path.read_bytes()
    assert export_tflite(loaded, tmp_path / "b.tflite").path.read_bytes() == ours
    assert verify(loaded, ours, [x]).equal_codes_share >= 0.999


def test_camera_frames_go_straight_in(tmp_path):
    """Bytes are the codes of a uint8 input: scale 1, zero point 0."""
    model = shake(after_input(K.Rescaling(1 / 127.5, offset=-1)), seed=4)
    x = np.random.default_rng(0).integers(3, 251, (64, 8, 8, 3)).astype(np.float32)
    q = quantize_model(model, DDQConfig(budget=None), x)
    result = export_tflite(q, tmp_path / "net.tflite", input_type="uint8")
    runner = Runner(result.path)
    assert (runner.input.scale, runner.input.zero_point) == (1, 0)
    received = next(iter(runner.run(x.astype(np.uint8)).values()))
    expected = np.rint(array(q(x)) / runner.output.scale) + runner.output.zero_point
    np.testing.assert_array_equal(received, expected)
    assert relative_error(array(q(x)), array(model(x))) < 0.05


def relative_error(received, expected):
    return np.sqrt(np.mean((received - expected) ** 2) / np.mean(expected**2))


def two_by_two():
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 2), name="right")
    x = K.Add()([conv(4)(left), conv(4)(right)])
    pooled = K.GlobalAveragePooling2D()(K.ReLU()(x))
    outputs = [K.Dense(3, name="size")(pooled), K.Dense(1, name="kind")(pooled)]
    return shake(keras.Model([left, right], outputs))


@pytest.mark.parametrize("form", [list, lambda b: dict(zip(("left", "right"), b, strict=True))])
def test_several_inputs_and_outputs(form, tmp_path):
    model = two_by_two()
    x = [images(64, (8, 8, 3)), images(64, (8, 8, 2), seed=1)]
    q = quantize_model(model, DDQConfig(budget=None), [form([part[:32] for part in x])])
    runner = Runner(export_tflite(q, tmp_path / "net.tflite").path)
    codes = {
        name: runner.inputs[name].quantize(v) for name, v in zip(runner.inputs, x, strict=True)
    }
    received = list(runner.run(codes).values())
    floats = [array(y) for y in model(x)]
    rows = zip(q(x), received, runner.outputs.values(), floats, strict=True)
    for y, answer, info, expected in rows:
        np.testing.assert_array_equal(np.rint(array(y) / info.scale) + info.zero_point, answer)
        assert relative_error(array(y), expected) < 0.05


def without_quantizers(q, x):
    """What a DDQ model computes with all quantizers off."""
    for layer in activation_layers(q):
        layer.observer = lambda values: None
    for layer in weighted_layers(q):
        layer.quantizer.bypass = True
    return array(q(x))


@pytest.mark.parametrize("case", CASES)
def test_without_rounding_it_is_the_float_model(case):
    keras.utils.set_random_seed(1)
    model = shake(CASES[case](), seed=4)
    x = images(8, model.input_shape[1:])
    q = quantize_model(model, DDQConfig(budget=None), x)
    assert relative_error(without_quantizers(q, x), array(model(x))) < 0.02


@pytest.mark.parametrize(("target", "left"), [("litert", []), ("litert-int8", ["GELU"])])
def test_gelu_leaves_xnnpack_only_where_it_is_an_integer_operator(tmp_path, target, left):
    keras.utils.set_random_seed(1)
    q, x = trained(lambda: net(lambda x: conv(6, 3)(conv(6, activation="gelu")(x))))
    result = export_tflite(q, tmp_path / "net.tflite", target=target)
    proof = verify(q, result, [x])
    assert (proof.equal_codes_share, proof.max_lsb) == (1, 0)
    assert [op.split()[0] for op in proof.delegation.undelegated] == left
    assert first_difference(q, x, target=target) is None


@pytest.mark.parametrize(("made_for", "operator"), [("litert-int8", "SOFTMAX"), ("litert", "DIV")])
def test_a_file_computes_the_softmax_that_the_model_was_made_with(tmp_path, made_for, operator):
    """Models that were saved before target litert rounded powers keep their operator."""
    inputs = keras.Input((12,))
    net = keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(inputs))
    x = np.random.default_rng(0).normal(0, 1, (64, 12)).astype("float32")
    q = quantize_model(net, DDQConfig(target=made_for, precisions=(8,), budget=None), x)
    result = export_tflite(q, tmp_path / "net.tflite", target="litert")
    assert operator in [op.kind for op in result.graph.ops]
    assert verify(q, result, x).max_lsb <= (1 if operator == "SOFTMAX" else 0)


@pytest.mark.parametrize("classes", [3, 1500])
def test_softmax_is_exact_for_any_number_of_classes(tmp_path, classes):
    keras.utils.set_random_seed(1)
    x = images(64, (4, 4, 3))
    inputs = keras.Input((4, 4, 3), name="image")
    logits = keras.layers.Dense(classes)(keras.layers.Flatten()(inputs))
    q = quantize_model(
        keras.Model(inputs, keras.layers.Softmax()(logits)),
        DDQConfig(target="litert"),
        calibration=x,
    )
    result = export_tflite(q, tmp_path / "net.tflite")
    proof = verify(q, result, [x])
    assert proof.delegation.is_complete
    assert proof.equal_codes_share == 1
    assert first_difference(q, x) is None
    # What it rounds on the way moves no probability by as much as a step.
    plain = keras.Model(q.input, keras.ops.softmax(q.layers[-1].input))
    assert np.abs(array(q(x)) - array(plain(x))).max() < 1 / 256


def sequence(*middle, shape=(20, 3), top=True):
    inputs = x = keras.Input(shape, name="samples")
    for layer in middle:
        x = layer(x)
    if top:
        x = K.Dense(4)(K.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, x, name="net")


def conv_1d(filters=6, size=3, **kwargs):
    return K.Conv1D(filters, size, **{"padding": "same", **kwargs})


def residual_1d():
    inputs = keras.Input((20, 3))
    x = K.ReLU()(K.BatchNormalization(axis=2)(conv_1d(use_bias=False)(inputs)))
    y = K.BatchNormalization()(conv_1d(6, 5)(x))
    x = K.ReLU()(K.Add()([x, y]))
    gate = K.Dense(6, activation="sigmoid")(K.GlobalAveragePooling1D(keepdims=True)(x))
    x = K.Concatenate(axis=2)([x * gate, conv_1d(4)(x)])
    x = K.Concatenate(axis=1)([x, x])
    return keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling1D()(x)), name="net")


SEQUENCES = {
    "conv": lambda: sequence(conv_1d(activation="relu"), K.BatchNormalization(), K.ReLU()),
    "strides": lambda: sequence(conv_1d(strides=2), conv_1d(size=4, strides=3, padding="valid")),
    "causal": lambda: sequence(conv_1d(padding="causal", dilation_rate=2)),
    "groups": lambda: sequence(conv_1d(), conv_1d(groups=2)),
    "pointwise": lambda: sequence(conv_1d(8, 1, activation="swish"), conv_1d(4, 1)),
    "residual": residual_1d,
    "rescaled": lambda: sequence(K.Rescaling(0.5, 0.1), K.BatchNormalization(), conv_1d()),
    "depthwise": lambda: sequence(K.DepthwiseConv1D(3, 2, "same"), K.LeakyReLU(0.1)),
    "separable": lambda: sequence(K.SeparableConv1D(6, 3, activation="relu")),
    "transposed": lambda: sequence(K.Conv1DTranspose(5, 4, 2, "same"), K.ELU()),
    "pooling": lambda: sequence(
        conv_1d(), K.MaxPooling1D(3, 2), K.AveragePooling1D(2), K.SpatialDropout1D(0.1)
    ),
    "average same": lambda: sequence(conv_1d(), K.AveragePooling1D(3, 1, "same")),
    "border": lambda: sequence(K.ZeroPadding1D((1, 2)), conv_1d(), K.Cropping1D((2, 1))),
    "upsampling": lambda: sequence(conv_1d(), K.UpSampling1D(2), conv_1d()),
    "global max": lambda: sequence(conv_1d(), K.GlobalMaxPooling1D(), K.Dense(4), top=False),
    "flatten": lambda: sequence(
        conv_1d(), K.Reshape((10, 12)), conv_1d(), K.Flatten(), K.Dense(4), top=False
    ),
    "sequence out": lambda: sequence(conv_1d(), conv_1d(2), top=False),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences(case, tmp_path):
    keras.utils.set_random_seed(1)
    model = shake(SEQUENCES[case](), seed=4)
    x = images(64, model.input_shape[1:])
    q = quantize_model(model, DDQConfig(budget=None), x[:32])
    result = export_tflite(q, tmp_path / "net.tflite")
    proof = verify(q, result, [x])
    assert proof.equal_codes_share >= 0.999
    assert proof.max_lsb <= 1
    assert proof.delegation.is_complete, proof.delegation.undelegated
    kinds = [op.kind for op in result.graph.ops]
    reshapes = {"upsampling": 3, "global max": 2, "flatten": 3, "sequence out": 2}
    assert kinds.count("RESHAPE") == reshapes.get(case, 1)
    assert relative_error(without_quantizers(q, x), array(model(x))) < 0.02


# Whole architectures

ARCHITECTURES = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "EfficientNetV2S": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "ResNet101": 64,
    "DenseNet121": 64,
    "VGG16": 64,
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "NASNetMobile": 64,
}


def lively(name, size):
    """An untrained network of keras.applications whose BatchNorms saw data."""
    keras.utils.set_random_seed(0)
    options = {} if name.startswith("NASNet") else {"classifier_activation": None}
    build = getattr(keras.applications, name)
    model = build(input_shape=(size, size, 3), weights=None, classes=10, **options)
    for layer in model._flatten_layers():
        if isinstance(layer, K.BatchNormalization):
            layer.momentum = 0.0
    x = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3)).round().astype(np.float32)
    model(x, training=True)
    return model, x


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_go_through(name, tmp_path):
    model, x = lively(name, ARCHITECTURES[name])
    q = quantize_model(model, DDQConfig(budget=None), x)
    proof = verify(q, export_tflite(q, tmp_path / "net.tflite"), [x])
    assert first_difference(q, x[:2]) is None
    assert (proof.equal_codes_share, proof.max_lsb, proof.top1_agreement) == (1, 0, 1)
    assert proof.weight_codes_identical
    assert {op.split()[0] for op in proof.delegation.undelegated} <= {"SOFTMAX"}
    assert proof.delegation.partitions == 1
