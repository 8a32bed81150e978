import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import Runner, delegation, export_tflite, tflite, verify
from ddq_tf.export.lower import lower
from ddq_tf.export.operators import weight_kind
from ddq_tf.grids import align
from ddq_tf.layers import DDQActivation, DDQDense, weighted_layers
from tests.toys import array, compiled, images, labels, shake

K = keras.layers
FREE = DDQConfig(budget=None)
X, Y = images(64), labels(64)


def chain(*middle, shape=(8, 8, 3)):
    inputs = x = keras.Input(shape, name="image")
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, x, name="net")


def normed(layer, top=6.0):
    return [layer, K.BatchNormalization(), K.ReLU(top)]


def head():
    return [K.GlobalAveragePooling2D(), K.Dense(4)]


def residual():
    inputs = keras.Input((8, 8, 3))
    skip = x = K.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    x = K.BatchNormalization()(K.Conv2D(6, 1, use_bias=False)(x))
    x = K.ReLU()(K.Add()([x, skip]))
    y = K.Conv2D(6, 1)(x)
    return keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(K.Add()([y, x]))))


def dead_channels():
    model = chain(*normed(K.Conv2D(6, 3, name="dead")), *head())
    kernel = array(model.get_layer("dead").kernel).copy()
    kernel[..., 1], kernel[..., 2] = 0, kernel[..., 2] * 1e-12
    model.get_layer("dead").kernel.assign(kernel)
    return model


CASES = {
    "conv valid": lambda: chain(K.Conv2D(4, 3, activation="relu"), *head()),
    "conv same stride 2": lambda: chain(
        *normed(K.Conv2D(5, 3, 2, "same", use_bias=False)), *head()
    ),
    "conv valid stride 2": lambda: chain(*normed(K.Conv2D(5, 3, 2)), *head()),
    "odd sizes": lambda: chain(*normed(K.Conv2D(4, 3, 2, "same")), *head(), shape=(7, 9, 3)),
    "asymmetric": lambda: chain(K.Conv2D(4, (1, 3), (2, 1), "same"), *head()),
    "dilated": lambda: chain(*normed(K.Conv2D(4, 3, dilation_rate=2)), *head()),
    "pointwise": lambda: chain(*normed(K.Conv2D(4, 1)), *normed(K.Conv2D(8, 1), None), *head()),
    "pointwise stride 2": lambda: chain(*normed(K.Conv2D(4, 1, 2)), *head()),
    "depthwise": lambda: chain(*normed(K.DepthwiseConv2D(3, padding="same")), *head()),
    "depthwise 2 stride 2": lambda: chain(
        *normed(K.DepthwiseConv2D(3, 2, depth_multiplier=2)), *head()
    ),
    "linear activation": lambda: chain(
        K.Conv2D(4, 3), K.Activation("linear"), K.Conv2D(2, 1), *head()
    ),
    "activation layer": lambda: chain(K.Conv2D(4, 3), K.Activation("relu6"), *head()),
    "dense": lambda: chain(K.Dense(8, activation="relu"), K.Dense(4), shape=(12,)),
    "dense norm": lambda: chain(*normed(K.Dense(8)), K.Dense(4), shape=(12,)),
    "dense on images": lambda: chain(K.Conv2D(4, 3, activation="relu"), K.Dense(6), *head()),
    "add": residual,
    "max pool": lambda: chain(
        K.Conv2D(4, 3), K.MaxPooling2D(), K.MaxPooling2D(2, 1, "same"), *head()
    ),
    "full average": lambda: chain(K.Conv2D(4, 3), K.AveragePooling2D(6), K.Flatten(), K.Dense(4)),
    "keepdims": lambda: chain(
        K.Conv2D(4, 3), K.GlobalAveragePooling2D(keepdims=True), K.Conv2D(4, 1), K.Flatten()
    ),
    "flatten": lambda: chain(K.Conv2D(4, 3, 2, activation="relu"), K.Flatten(), K.Dense(4)),
    "reshape": lambda: chain(
        K.Dense(12), K.Reshape((2, 2, 3)), K.Conv2D(4, 2), K.Flatten(), shape=(6,)
    ),
    "padding folds": lambda: chain(
        K.ZeroPadding2D(((0, 1), (0, 1))), *normed(K.Conv2D(4, 3, 2)), *head()
    ),
    "padding stays": lambda: chain(K.ZeroPadding2D(2), *normed(K.Conv2D(4, 3)), *head()),
    "dropout": lambda: chain(K.Conv2D(4, 3), K.SpatialDropout2D(0.1), *head(), K.Dropout(0.5)),
    "dead channels": dead_channels,
}


def trained(make, *, steps=2):
    """A DDQ model after steps on random data, every other layer that can at 4 bits."""
    model = shake(make(), seed=4)
    x = images(64, model.input_shape[1:])
    q = quantize_model(model, FREE, x[:32])
    for index, layer in enumerate(weighted_layers(q)):
        layer.quantizer.choice.assign(index % len(layer.quantizer.precisions))
        layer.quantizer.frozen.assign(True)
    if steps:
        compiled(q, keras.optimizers.SGD(0.01)).fit(x, Y, batch_size=64 // steps, verbose=0)
    align(q)
    return q, x


@pytest.mark.parametrize("case", CASES)
def test_the_file_computes_what_was_trained(case, tmp_path):
    q, x = trained(CASES[case])
    result = export_tflite(q, tmp_path / "net.tflite")
    proof = verify(q, result, [x])
    assert proof.num_samples == 64
    assert proof.equal_codes_share >= 0.999
    assert proof.max_lsb <= 1
    assert proof.top1_agreement == 1
    assert proof.weight_codes_identical
    assert proof.delegation.partitions == 1
    assert proof.delegation.undelegated == ()


def test_softmax(tmp_path):
    q, x = trained(
        lambda: chain(K.Conv2D(4, 3), *head()[:1], K.Dense(4, activation="softmax")), steps=0
    )
    result = export_tflite(q, tmp_path / "net.tflite")
    proof = verify(q, result, [x])
    assert proof.weight_codes_identical
    # LiteRT's int8 softmax looks exponentials up in a table.
    assert proof.max_lsb <= 1
    output = Runner(result.path).output
    assert (output.scale, output.zero_point) == (np.float32(1 / 256), -128)


@pytest.fixture(scope="module")
def net():
    return trained(residual)


def outputs(q, x, path, **kwargs):
    runner = Runner(export_tflite(q, path, **kwargs).path)
    codes = next(iter(runner.run(runner.quantize_input(x)).values()))
    return runner, codes


@pytest.mark.parametrize("output_type", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("input_type", ["int8", "uint8", "float32"])
def test_every_interface_gives_the_same_numbers(net, tmp_path, input_type, output_type):
    q, x = net
    _, expected = outputs(q, x, tmp_path / "a.tflite")
    runner, received = outputs(
        q, x, tmp_path / "b.tflite", input_type=input_type, output_type=output_type
    )
    assert (str(runner.input.dtype), str(runner.output.dtype)) == (input_type, output_type)
    plain = Runner((tmp_path / "a.tflite").read_bytes())
    np.testing.assert_array_equal(runner.dequantize(received), plain.dequantize(expected))
    proof = verify(q, (tmp_path / "b.tflite").read_bytes(), [x])
    assert proof.equal_codes_share >= 0.999


def test_targets_compute_the_same(net, tmp_path):
    q, x = net
    _, phones = outputs(q, x, tmp_path / "a.tflite")
    _, old = outputs(q, x, tmp_path / "b.tflite", target="litert-int8")
    _, compact = outputs(q, x, tmp_path / "c.tflite", target="litert-compact")
    np.testing.assert_array_equal(phones, old)
    # Built-in kernels round in fixed point; they run INT4 convolutions only.
    assert np.abs(phones.astype(int) - compact.astype(int)).max() <= 1
    assert delegation((tmp_path / "b.tflite").read_bytes()).is_complete


@pytest.mark.parametrize("target", ["litert", "litert-int8"])
def test_weights_in_the_file_are_the_trained_codes(net, tmp_path, target):
    q, _ = net
    path = export_tflite(q, tmp_path / "net.tflite", target=target).path
    graph = tflite.read(path.read_bytes())
    stored = [graph.tensors[op.inputs[1]] for op in graph.ops if weight_kind(op)]
    layers = weighted_layers(q)
    assert len(stored) == len(layers)
    for tensor, layer in zip(stored, layers, strict=True):
        codes, _ = layer.integer_weights()
        # Channels first in the file; a negative gamma flips a channel's signs.
        channels_first = np.moveaxis(codes, -1, 0).reshape(codes.shape[-1], -1)
        np.testing.assert_array_equal(
            np.abs(tensor.data.reshape(channels_first.shape)), np.abs(channels_first)
        )
        narrow = layer.num_bits == 4 and layer.kernel.shape[0] == 1 and target == "litert"
        assert tensor.dtype.bits == (4 if narrow else 8)


def test_the_batch_is_free(net, tmp_path):
    q, x = net
    runner = Runner(export_tflite(q, tmp_path / "net.tflite").path, batch_size=5)
    codes = runner.quantize_input(x[:7])
    together = next(iter(runner.run(codes).values()))
    alone = np.concatenate([next(iter(runner.run(codes[i : i + 1]).values())) for i in range(7)])
    np.testing.assert_array_equal(together, alone)


def test_export_is_deterministic_and_leaves_the_model(net, tmp_path):
    q, _ = net
    before = q.get_weights()
    first = export_tflite(q, tmp_path / "a.tflite").path.read_bytes()
    assert first == export_tflite(q, tmp_path / "b.tflite").path.read_bytes()
    for one, two in zip(before, q.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_saved_model_exports_the_same_file(net, tmp_path):
    q, _ = net
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    ours = export_tflite(q, tmp_path / "a.tflite").path.read_bytes()
    assert export_tflite(loaded, tmp_path / "b.tflite").path.read_bytes() == ours


# Refusals


def test_all_layers_without_an_integer_form_are_named_at_once(tmp_path):
    model = chain(
        K.Conv2D(4, 3, name="one"),
        DDQDense(4, activation="tanh", name="two"),
        K.LayerNormalization(name="three"),
        DDQDense(4, name="four"),
    )
    with pytest.raises(DDQError, match=r"'net' cannot be exported") as error:
        export_tflite(model, tmp_path / "net.tflite")
    assert all(repr(name) in str(error.value) for name in ("image", "one", "two", "three", "four"))
    assert not list(tmp_path.iterdir()), "no part of a file is left"


def test_a_model_that_was_cut_off_is_told_where_to_end():
    model = chain(DDQActivation(), DDQDense(4, name="last"), DDQActivation(name="last_quant"))
    features = keras.Model(model.inputs, model.get_layer("last").output)
    with pytest.raises(DDQError, match=r"'last'.*one layer later.*'_quant'"):
        lower(features)
    lower(keras.Model(model.inputs, model.get_layer("last_quant").output))


def test_a_diverged_model_is_refused():
    model = chain(DDQActivation(), DDQDense(4, name="bad"), DDQActivation())
    model.get_layer("bad").kernel.assign(np.full((3, 4), np.nan))
    with pytest.raises(DDQError, match=r"'bad'.*NaN"):
        lower(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "phone"}, "target must be one of"),
        ({"input_type": "int4"}, "input_type must be one of"),
        ({"output_type": "float16"}, "output_type must be one of"),
    ],
)
def test_unknown_arguments_are_refused(net, tmp_path, arguments, words):
    with pytest.raises(DDQError, match=words):
        export_tflite(net[0], tmp_path / "net.tflite", **arguments)


def test_a_missing_folder_is_refused(net, tmp_path):
    with pytest.raises(DDQError, match="existing folder"):
        export_tflite(net[0], tmp_path / "absent" / "net.tflite")
