import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.ops import math, nn, numpy

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.graph import flatten
from ddq_tf.kinds import RULES
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt
from ddq_tf.transform.supported import CURES
from tests.toys import array, compiled, images, labels, mixed_net, shake

K = keras.layers
FREE = DDQConfig(budget=None)
X = images(48)


def quantized(model, calibration=X, config=FREE):
    return quantize_model(model, config, calibration)


def relative_error(received, expected):
    return np.sqrt(np.mean((received - expected) ** 2) / np.mean(expected**2))


def test_weights_are_copied_and_the_original_stays_bitwise():
    model = shake(mixed_net())
    before, config = [w.copy() for w in model.get_weights()], model.get_config()
    q = quantized(model)
    for layer in weighted_layers(q):
        # `grids.align` moves each channel by less than a thousandth.
        expected = array(model.get_layer(layer.name).kernel)
        np.testing.assert_allclose(array(layer.kernel), expected, rtol=1.31e-3)
    for name in ("gamma", "moving_mean", "moving_variance"):
        ours, theirs = (getattr(m.get_layer("norm"), name) for m in (q, model))
        np.testing.assert_array_equal(array(ours), array(theirs))
    compiled(q).train_on_batch(X, labels(48))
    assert model.get_config() == config
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_biases_move_by_half_a_step_at_most():
    model = shake(mixed_net())
    q = quantized(model)
    graph = flatten(q)
    node = next(n for n in graph.nodes if n.name == "logits")
    grid = graph.producer(node.inputs[0]).layer.quantizer.export_scale()
    _, scale = node.layer.integer_weights()
    moved = np.abs(array(q.get_layer("logits").bias) - array(model.get_layer("logits").bias))
    assert (moved <= 0.501 * grid * scale).all()


def test_an_8_bit_model_is_close_to_the_float_model():
    """Nine tensors rounded to 255 steps add noise of about 0.5 % of their signal each."""
    model = shake(mixed_net())
    error = relative_error(array(quantized(model)(X)), array(model(X)))
    assert 0 < error < 0.03


def test_calibration_is_determined_by_the_seed_and_free_of_side_effects():
    model = shake(mixed_net())
    first, second = quantized(model), quantized(model)
    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert all(layer.observer is None for layer in activation_layers(first))
    assert not any(layer.quantizer.bypass for layer in weighted_layers(first))


def as_dataset(with_labels):
    parts = (X, labels(48)) if with_labels else X
    return tf.data.Dataset.from_tensor_slices(parts).batch(16)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[16 * index : 16 * index + 16], labels(16)


@pytest.mark.parametrize(
    "calibration",
    [
        lambda: tf.constant(X),
        lambda: as_dataset(True),
        lambda: as_dataset(False),
        lambda: [X[:16], X[16:32], X[32:]],
        lambda: ((X[i : i + 16], labels(16)) for i in (0, 16, 32)),
        Sequence,
    ],
    ids=["tensor", "labelled dataset", "dataset", "list", "generator", "PyDataset"],
)
def test_calibration_takes_every_common_form_of_data(calibration):
    # 48 images are sampled whole, so that the batching makes no difference.
    expected = quantized(mixed_net()).get_weights()
    received = quantized(mixed_net(), calibration()).get_weights()
    for one, two in zip(expected, received, strict=True):
        np.testing.assert_array_equal(one, two)


def test_calibration_takes_no_more_images_than_told():
    taken = []

    def batches():
        for start in range(0, 48, 8):
            taken.append(start)
            yield X[start : start + 8]

    config = DDQConfig(budget=None, calibration_images=12)
    received = quantized(mixed_net(), batches(), config)
    assert taken == [0, 8]
    expected = quantized(mixed_net(), X[:12])
    np.testing.assert_allclose(array(received(X)), array(expected(X)), rtol=0.05, atol=0.02)


def test_the_grid_of_a_linear_tensor_is_unsigned_where_it_never_falls_below_0():
    q = quantized(mixed_net(), np.abs(X))
    signed = {layer.name: layer.quantizer.signed for layer in activation_layers(q)}
    assert not signed["image_quant"]
    assert not signed["relu"]
    assert signed["project_quant"]
    # pool and add see a sum with negative values
    assert signed["logits_quant"]


def test_the_input_range_covers_the_data_and_is_not_learned():
    layer = quantized(mixed_net()).get_layer("image_quant")
    assert float(array(layer.quantizer.base_range)[0]) == pytest.approx(np.abs(X).max())
    assert not layer.trainable_variables


def test_an_all_zero_calibration_gives_a_model_that_computes_and_trains():
    q = compiled(quantized(mixed_net(), np.zeros_like(X)))
    assert np.isfinite(array(q(X))).all()
    assert np.isfinite(q.train_on_batch(X, labels(48)))


def test_a_batch_norm_called_for_inference_stays_in_inference():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), K.Conv2D(4, 1), K.BatchNormalization(name="inner")], name="base"
    )
    inputs = keras.Input((8, 8, 3))
    x = inner(inputs, training=False)
    x = K.BatchNormalization(name="outer")(K.Conv2D(4, 1)(x))
    q = compiled(quantized(keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(x)))))
    before = {n: array(q.get_layer(n).moving_mean).copy() for n in ("inner", "outer")}
    aligned = array(q.get_layer("inner").moving_variance).copy()
    q.train_on_batch(X, labels(48))
    np.testing.assert_array_equal(array(q.get_layer("inner").moving_mean), before["inner"])
    np.testing.assert_array_equal(array(q.get_layer("inner").moving_variance), aligned)
    assert (array(q.get_layer("outer").moving_mean) != before["outer"]).any()


def test_a_shared_layer_stays_shared():
    inputs = keras.Input((8, 8, 3))
    conv = K.Conv2D(3, 3, padding="same", name="conv")
    model = shake(keras.Model(inputs, conv(K.ReLU()(conv(inputs)))))
    q = quantized(model)
    assert len(weighted_layers(q)) == 1
    assert relative_error(array(q(X)), array(model(X))) < 0.03


def test_layers_of_one_name_in_nested_models_go_through():
    def base(name):
        return keras.Sequential(
            [keras.Input((8, 8, 3)), K.Conv2D(3, 1, name="conv"), K.ReLU(name="act")], name=name
        )

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), base("a"), base("b"), K.Conv2D(3, 1, name="conv")]
    )
    q = quantized(shake(model))
    assert relative_error(array(q(X)), array(model(X))) < 0.03


def test_nested_mobilenet_v2_goes_through():
    base = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, include_top=False, pooling="avg"
    )
    base.trainable = False
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, K.Dense(3, "softmax")(K.Dropout(0.2)(base(inputs, training=False))))
    x = images(8, (32, 32, 3))
    q = quantize_model(model, DDQConfig(budget=0.7), x)
    kernels = (K.Conv2D, K.DepthwiseConv2D, K.Dense)
    floats = [n for n in flatten(model).nodes if isinstance(n.layer, kernels)]
    assert len(weighted_layers(q)) == len(floats) == 53
    assert q.weight_budget.num_values == sum(int(np.prod(n.layer.kernel.shape)) for n in floats)
    # 66 tensors are rounded; only their order of magnitude matters here.
    assert np.abs(array(q(x)) - array(model(x))).max() < 0.05


# Refusals


class Odd(keras.Model):
    def call(self, inputs):
        return inputs


class Waves(K.Layer):
    def call(self, inputs):
        return keras.ops.cos(inputs)


def net(*middle, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *middle], name="mine")


def two_inputs():
    a, b = keras.Input((4, 4, 3), name="left"), keras.Input((4, 4, 3), name="right")
    return keras.Model([a, b], K.Conv2D(2, 1)(K.Add()([a, b])), name="mine")


def with_nan():
    model = net(K.Conv2D(4, 3, name="broken"))
    model.get_layer("broken").kernel.assign(np.full((3, 3, 3, 4), np.nan))
    return model


def operator(constant):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, K.Conv2D(2, 1)(inputs + constant), name="mine")


def clipped(low, high):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.ops.clip(K.Conv2D(2, 1)(inputs), low, high), name="mine")


REFUSED = {
    "subclassed": (Odd, "never called.*Call it once"),
    "unbuilt": (lambda: keras.Sequential([K.Dense(2)]), "not built"),
    "no keras": (lambda: "model", "Keras 3 model"),
    "two inputs, one array": (two_inputs, r"batch must hold the inputs left, right"),
    "nothing to do": (lambda: net(K.Flatten()), "no convolution or dense layer"),
    "nan": (with_nan, r"(?s)finite.*'broken' \(Conv2D\): 108 of 108 values of 'kernel'"),
    "user's layer": (
        lambda: net(Waves(name="own"), K.Conv2D(2, 1)),
        r"'own_cos' \(Cos\), in 'own' \(Waves\), .*test_quantize.py:\d+: has no integer",
    ),
    "activation": (lambda: net(K.Conv2D(6, 3, activation="sparsemax", name="g")), "'g'.*sparsemax"),
    "nothing passes": (lambda: net(K.Conv2D(6, 3), K.ReLU(0.0, name="l")), "'l'.*max_value=0.0"),
    "clip to nothing": (
        lambda: clipped(1, -1),
        "needs two numbers, the first below the second.*x_min=1, x_max=-1",
    ),
    "normalization of pixels": (
        lambda: net(
            K.Normalization((1, 2), np.ones((8, 8)), np.ones((8, 8)), name="n"), K.Conv2D(2, 1)
        ),
        "'n'.*one per channel",
    ),
    "an operator": (
        lambda: operator(np.arange(384.0).reshape(2, 8, 8, 3)),
        "needs two tensors, or a tensor and a number.*ndarray",
    ),
    "softmax axis": (
        lambda: net(K.Conv2D(2, 1), K.Softmax(axis=0, name="s")),
        "'s'.*than the batch",
    ),
    "cropping resize": (
        lambda: net(K.Conv2D(2, 1), K.Resizing(4, 8, crop_to_aspect_ratio=True, name="r")),
        "'r'.*no cropping and padding",
    ),
    "output padding": (
        lambda: net(K.Conv2DTranspose(2, 3, 2, output_padding=1, name="t")),
        r"'t'.*output_padding=None.*\(1, 1\)",
    ),
    "dilated transposed convolution": (
        lambda: net(K.Conv2DTranspose(2, 3, dilation_rate=2, name="t")),
        r"'t'.*dilation_rate=1.*\(2, 2\)",
    ),
    "free length": (
        lambda: net(K.Conv1D(2, 3, name="c"), shape=(None, 3)),
        r"'c' \(Conv1D\): needs sequences of a fixed length.*None, None, 3",
    ),
    "no rule": (
        lambda: net(K.Conv2D(2, 1), K.Solarization(name="u")),
        "'u'.*supported are",
    ),
    "a rule no more": (
        lambda: net(K.Conv2D(2, 1), K.ConvLSTM1D(2, 1, name="u")),
        "'u'.*put convolutions, such as Conv1D, in the place of recurrence",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_models(case):
    make, words = REFUSED[case]
    with pytest.raises(DDQError, match=words):
        quantize_model(make(), FREE, X)


def test_cures_are_of_layers_and_operations_that_keras_has_and_no_rule_knows():
    modules = (keras.layers, nn, math, numpy)
    kinds = [getattr(m, name) for name in CURES for m in modules if hasattr(m, name)]
    assert {kind.__name__ for kind in kinds} == set(CURES)
    assert [kind for kind in kinds if kind in {k for r in RULES.rules for k in r.layers}] == []


def test_all_unsupported_layers_are_named_at_once():
    model = net(
        K.Conv2D(4, 3, activation="sparsemax", name="one"),
        K.LayerNormalization(axis=1, name="two"),
        K.Solarization(name="three"),
        K.LayerNormalization(axis=2, name="four"),
    )
    with pytest.raises(DDQError) as error:
        quantized(model)
    assert all(f"layer {name!r}" in str(error.value) for name in ("one", "two", "three", "four"))
    assert len(str(error.value).splitlines()) == 5


def test_refuses_a_model_that_is_quantized_already():
    with pytest.raises(DDQError, match="quantized already"):
        quantized(quantized(mixed_net()))


def nan_image():
    x = X.copy()
    x[40, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "calibration data is needed.*None"),
        ("images/", "array of inputs or an iterable.*images/"),
        (X[:0], "empty"),
        ([], "empty"),
        ([None], r"needs the shape \(batch, 8, 8, 3\). Received: \(\)"),
        (X.astype(str), "must hold numbers. Received: arrays of type <U"),
        (X.astype(complex), "must hold numbers.*complex128"),
        (X[0], r"shape \(batch, 8, 8, 3\)"),
        (X[..., :1], r"Received: \(32, 8, 8, 1\)"),
        (list(X), "pass dataset.batch"),
        (nan_image(), "batch 1 holds NaN"),
    ],
    ids=[
        *("none", "path", "no rows", "no batches", "nothing", "words", "complex"),
        *("one image", "channels", "images", "nan"),
    ],
)
def test_refuses_calibration_data(calibration, words):
    with pytest.raises(DDQError, match=words):
        quantized(mixed_net(), calibration)


def test_refuses_activations_that_overflow():
    model = mixed_net()
    model.get_layer("project").kernel.assign(np.full((1, 1, 16, 8), 3e38))
    with np.errstate(all="ignore"), pytest.raises(DDQError, match=r"finite.*'project_quant'"):
        quantized(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_global_policy_changes_neither_the_model_nor_itself(policy, tmp_path):
    """Among the layers are some that rewriting makes."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8, 8, 3))
        y = K.ZeroPadding2D()(K.Rescaling(1 / 127.5, offset=-1)(inputs))
        y = K.BatchNormalization()(K.Conv2D(8, 3, strides=2, use_bias=False)(y))
        y = K.SeparableConv2D(8, 3, padding="same")(K.ReLU(6.0)(y))
        y = K.Add()([y, K.DepthwiseConv2D(3, padding="same")(y)])
        net = keras.Model(inputs, K.Dense(4)(K.GlobalAveragePooling2D()(y)))
        x = 128 + 60 * images(8)
        q = quantize_model(net, DDQConfig(), x)
        assert keras.config.dtype_policy().name == policy
    finally:
        keras.config.set_dtype_policy(before)
    assert {layer.dtype_policy.name for layer in q.layers} == {"float32"}
    compiled(q).fit(x, labels(8), epochs=1, verbose=0)
    result = export_tflite(q, tmp_path / "model.tflite")
    assert verify(q, result, [x]).equal_codes_share == 1


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("ceiling", [0.5, 6.0, None])
def test_a_layer_called_twice_keeps_the_ceiling_behind_one_of_its_calls(ceiling, norm, tmp_path):
    inputs = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer="random_normal")
    first = shared(inputs)
    x = shared(keras.layers.Conv2D(3, 1)(first))
    x = keras.layers.BatchNormalization()(x) if norm else x
    model = shake(keras.Model(inputs, [keras.layers.ReLU(ceiling)(x), first]))
    x = 20 * images(16)
    twin = rebuilt(canonical(flatten(model)), FREE, model).model
    with float_network(twin):
        for ours, theirs in zip(twin(x), model(x), strict=True):
            np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-5, atol=1e-5)
    q = quantize_model(model, FREE, x)
    result = export_tflite(q, tmp_path / "model.tflite")
    assert verify(q, result, x).equal_codes_share == 1


@pytest.mark.parametrize("activation", [keras.ops.sin, tf.abs])
def test_an_activation_without_an_integer_form_is_named(activation):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, activation=activation)(inputs))
    with pytest.raises(DDQError, match=r"an activation among .*, or a layer. Received: a"):
        quantize_model(model, calibration=images(8))


def vectors(*layers):
    inputs = keras.Input((7,))
    x = inputs
    for layer in layers:
        x = layer(x)
    return shake(keras.Model(inputs, x))


def adapted(x):
    layer = K.Normalization()
    layer.adapt(x)
    return layer


TABLE = np.random.default_rng(0).normal(3, 5, (48, 7)).astype(np.float32)


@pytest.mark.parametrize(
    "model",
    [
        lambda: vectors(adapted(TABLE), K.Dense(8, "relu"), K.Dense(2)),
        lambda: vectors(K.BatchNormalization(), K.Dense(8, "relu"), K.Dense(2)),
        lambda: vectors(K.Dense(8, "relu"), K.BatchNormalization(), K.Dense(2)),
        lambda: vectors(K.Rescaling(0.1), K.Dense(8, "sigmoid"), lambda x: x / 3.0 + 1.0),
    ],
)
def test_vectors_are_scaled_and_normalized_wherever_that_stands(model, tmp_path):
    model = model()
    q = quantize_model(model, FREE, TABLE)
    assert relative_error(array(q(TABLE)), array(model(TABLE))) < 0.05
    assert verify(q, export_tflite(q, tmp_path / "net.tflite"), TABLE).equal_codes_share == 1


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: 1.0 / x, "'true_divide.*to divide by, not 0. Received:.*argument 0=1.0"),
        (lambda x: x / 0.0, "to divide by, not 0"),
        (
            lambda x: x / x,
            r"two tensors, or.*Received: shape \(None, 6, 6, 3\), shape \(None, 6, 6, 3\)",
        ),
        (lambda x: x / np.ones((6, 6, 1), np.float32), r"ndarray of shape \(6, 6, 1\)"),
        (lambda x: x[::-1, :], r"all of the batch.*argument 1=.*slice\(None, None, -1\)"),
        (lambda x: keras.ops.mean(x, 0), r"other axes than the batch.*axis=\[?0"),
        (lambda x: keras.ops.reshape(x, (-1, 3)), r"leaves the batch as it is.*newshape=\(-1, 3"),
        (lambda x: keras.ops.transpose(x, (1, 0, 2, 3)), "leave the batch first"),
        (lambda x: keras.ops.maximum(x, -1.0), "a number that is not below 0.*=-1.0"),
        (lambda x: keras.ops.cast(x, "int32"), "needs floats.*dtype='int32'"),
        (lambda x: K.CenterCrop(9, 9)(x), r"images of \(9, 9\) px at least"),
    ],
)
def test_operations_without_an_integer_form_say_what_would_have_one(use, message):
    inputs = keras.Input((6, 6, 3))
    x = use(K.Conv2D(3, 1)(inputs))
    with pytest.raises(DDQError, match=message):
        quantize_model(keras.Model(inputs, x), FREE, images(8, (6, 6, 3)))


def dense_net():
    return keras.Sequential([keras.Input((6,)), K.Dense(8, name="one"), K.ReLU(), K.Dense(3)])


def quantized_by_keras():
    model = dense_net()
    model.get_layer("one").quantize("int8")
    return model


def with_lora():
    model = dense_net()
    model.get_layer("one").enable_lora(2)
    return model


def with_shared_kernel():
    inputs = keras.Input((6,))
    one, two = K.Dense(6, use_bias=False, name="one"), K.Dense(6, use_bias=False, name="two")
    outputs = two(K.ReLU()(one(inputs)))
    two._tracker.unlock()
    two._trainable_variables.clear()
    two._kernel = one._kernel
    two._tracker.lock()
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (quantized_by_keras, r"'one' \(Dense\): is quantized by Keras already \(int8\)"),
        (with_lora, r"'one' \(Dense\): has LoRA weights .* save the model and load it again"),
        (with_shared_kernel, "'two' .* shares its 'kernel' with layer 'one'"),
    ],
)
def test_weights_that_are_no_plain_variables_of_a_layer_are_named(make, message):
    with pytest.raises(DDQError, match=message):
        quantize_model(make(), FREE, images(8, (6,)))


@pytest.mark.parametrize("name", ["input image", "hey:)", "ünï", "a.b", "_x", "1"])
def test_inputs_may_have_any_name_that_keras_trains_with(name, tmp_path):
    inputs = keras.Input((8, 8, 3), name=name)
    x = K.GlobalAveragePooling2D()(K.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, K.Dense(4)(x))
    q = quantize_model(model, FREE, X)
    q.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    q.fit(X, labels(48), verbose=0)
    result = export_tflite(q, tmp_path / "net.tflite")
    assert list(result.graph.inputs) == [name]
    assert verify(q, result, X).equal_codes_share == 1


def test_a_ddq_model_is_not_saved_as_h5(tmp_path):
    with pytest.raises(DDQError, match=r"is saved in a .keras file"):
        quantized(mixed_net()).save(tmp_path / "model.h5")


def test_an_inner_model_called_for_inference_is_all_in_inference():
    inner_input = keras.Input((8, 8, 3))
    x = K.BatchNormalization(name="norm")(K.Conv2D(4, 3)(inner_input))
    inner = keras.Model(inner_input, K.GaussianNoise(1.0)(K.Dropout(0.9)(x)))
    inputs = keras.Input((8, 8, 3))
    x = K.GlobalAveragePooling2D()(inner(inputs, training=False))
    q = quantized(keras.Model(inputs, K.Dense(4)(x)), X, DDQConfig(budget=None, precisions=(8,)))
    np.testing.assert_array_equal(array(q(X, training=True)), array(q(X, training=True)))
    before = array(q.get_layer("norm").moving_mean)
    compiled(q).fit(X, labels(48), verbose=0)
    np.testing.assert_array_equal(array(q.get_layer("norm").moving_mean), before)


def test_a_model_made_of_ddq_models_is_verified(tmp_path):
    first = keras.Sequential([keras.Input((8, 8, 3)), K.Conv2D(4, 3, activation="relu")])
    last = keras.Sequential([keras.Input((6, 6, 4)), K.GlobalAveragePooling2D(), K.Dense(3)])
    q1, q2 = quantized(first), quantized(last, array(first(X)))
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, q2(q1(inputs)))
    assert verify(model, export_tflite(model, tmp_path / "net.tflite"), X).equal_codes_share == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X * np.nan, "holds NaN or infinite values"),
        (X[:, :4], r"needs the shape \(batch, 8, 8, 3\)"),
        (np.array([X[0], None], object), "must hold numbers. Received: arrays of type object"),
    ],
)
def test_bad_data_are_told_alike_to_calibration_and_verification(data, message, tmp_path):
    q = quantized(mixed_net())
    result = export_tflite(q, tmp_path / "net.tflite")
    for use in (lambda: quantized(mixed_net(), data), lambda: verify(q, result, data)):
        with pytest.raises(DDQError, match=message):
            use()
