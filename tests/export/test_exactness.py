"""Every code of the file is the Keras model's, in nets made to be hard."""

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.errors import DDQError
from ddq_tf.export import export_tflite, verify
from ddq_tf.export.lower import lower
from ddq_tf.export.operators import attributes
from ddq_tf.graph import flatten
from ddq_tf.grids import align
from ddq_tf.grids.relations import conflicts
from tests.toys import array, shake

K = keras.layers
PLAIN = DDQConfig(budget=None)


def smooth(count=64, side=8, scale=1.0, seed=0):
    """Images whose neighbouring pixels are alike."""
    x = np.random.default_rng(seed).normal(size=(count, side, side, 3))
    x = np.cumsum(np.cumsum(x, 1), 2)
    return (x / x.std() * scale).astype(np.float32)


def net(body, side=8):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((side, side, 3))
    return keras.Model(inputs, body(inputs))


def conv(filters=4, size=1, **kwargs):
    return K.Conv2D(filters, size, padding="same", **kwargs)


def act(name):
    return K.Activation(name)


def beside(layer, name="sigmoid"):
    """A function with a fixed grid, something behind it, and a convolution, side by side."""
    return lambda i: K.Concatenate()([layer(act(name)(conv(4, 3)(i))), conv(3)(i)])


def bilinear():
    return K.UpSampling2D(2, interpolation="bilinear")


def leaky_branches(i):
    a = conv(8, 3, activation="leaky_relu")(i)
    return conv(3)(K.Concatenate()([a, conv(8, 3, activation="leaky_relu")(a)]))


def all_grids(i):
    x = conv(4, 3)(i)
    names = ("sigmoid", "tanh", "hard_sigmoid", "softmax", "elu", "swish", "leaky_relu")
    return K.Concatenate()([i, x, K.ReLU(0.3)(conv()(i)), *(act(name)(x) for name in names)])


def vectors(i):
    x = K.GlobalAveragePooling2D()(conv(5)(i))
    return K.Dense(3)(K.Concatenate()([act("sigmoid")(x), x, K.GlobalMaxPooling2D()(i)]))


def gated_residual(i):
    x = conv(6, 3)(i)
    return K.Add()([x, K.Multiply()([x, act("sigmoid")(conv(6)(x))])])


def products_side_by_side(i):
    a, b = conv(4, 3)(i), conv(4)(i)
    products = [K.Multiply()(pair) for pair in ([a, b], [a, a], [b, b])]
    return K.Concatenate()([*products, a, b])


def mean_beside_itself(i):
    x = conv(4, 3)(i)
    return K.Concatenate()([x, K.UpSampling2D()(K.AveragePooling2D(2)(x))])


def sums_and_grids(i):
    a, b = act("sigmoid")(conv(4, 3)(i)), act("tanh")(conv()(i))
    x = K.Add()([a, b])
    return K.Add()([K.Concatenate()([x, a]), K.Concatenate()([K.Add()([x, conv()(i)]), b])])


def two_gates(i):
    x = K.Add()([conv(4, 3)(i), conv(4)(i)])
    y = K.Multiply()([act("sigmoid")(x), act("tanh")(x)])
    return K.Add()([y, K.Multiply()([act("hard_sigmoid")(x), x])])


def siamese(i):
    first, second = conv(8, 3, activation="relu"), conv(6, 3)
    twins = (K.MaxPooling2D(2)(i), K.AveragePooling2D(2)(i))
    return conv(4)(K.Subtract()([second(first(x)) for x in twins]))


def shared_head(i):
    head, x = conv(6), conv(8, 3, activation="relu")(i)
    return K.Concatenate()([head(x), head(K.AveragePooling2D(3, 1, "same")(x)), head(conv(8)(x))])


def recurrent(i):
    cell, x = conv(3, 3, activation="relu"), i
    for _ in range(4):
        x = cell(x)
    return conv(4)(x)


def shared_under_two_norms(i):
    kernel, x = conv(3, 3, use_bias=False), i
    for _ in range(2):
        x = K.ReLU()(K.BatchNormalization()(kernel(x)))
    return conv(4)(x)


NETS = {
    "siamese": siamese,
    "shared head": shared_head,
    "recurrent": recurrent,
    "shared under two norms": shared_under_two_norms,
    "sigmoid beside": beside(lambda x: x),
    "identity": beside(K.Identity()),
    "spatial dropout": beside(K.SpatialDropout2D(0.1)),
    "noise": beside(K.GaussianNoise(0.1)),
    "tanh beside": beside(lambda x: x, "tanh"),
    "leaky branches": leaky_branches,
    "image and mask": lambda i: conv(3)(K.Concatenate()([i, act("sigmoid")(conv(4, 3)(i))])),
    "squares and input": lambda i: K.Concatenate()([K.Multiply()([i, i]), i, conv(2)(i)]),
    "all grids": all_grids,
    "vectors": vectors,
    "softmax bilinear": lambda i: bilinear()(K.Softmax()(conv(4, 3)(i))),
    "sigmoid bilinear": lambda i: bilinear()(act("sigmoid")(conv(4, 3)(i))),
    "tanh leaky": lambda i: conv(3)(K.LeakyReLU(0.3)(act("tanh")(conv(4, 3)(i)))),
    "softmax clipped": lambda i: conv(3)(K.ReLU(0.5)(K.Softmax()(conv(4, 3)(i)))),
    "sigmoid of sigmoid": lambda i: conv(3)(act("sigmoid")(act("sigmoid")(conv(4, 3)(i)))),
    "gated residual": gated_residual,
    "products side by side": products_side_by_side,
    "mean beside itself": mean_beside_itself,
    "sums and grids": sums_and_grids,
    "two gates": two_gates,
}


def exact(model, folder, scale=1.0, config=PLAIN):
    """Quantizes, exports and compares; returns the DDQ model."""
    quantized = quantize_model(model, config, smooth(scale=scale))
    compare(quantized, folder, scale)
    return quantized


def compare(quantized, folder, scale=1.0):
    x = np.concatenate([smooth(192, scale=scale, seed=1), smooth(scale=scale)])
    proof = verify(quantized, export_tflite(quantized, folder / "net.tflite"), [x])
    assert (proof.equal_codes_share, proof.max_lsb) == (1.0, 0)
    assert proof.delegation.is_complete


@pytest.mark.parametrize("name", NETS)
def test_every_code_is_equal(name, tmp_path):
    model = exact(shake(net(NETS[name]), seed=3), tmp_path)
    assert conflicts(flatten(model)) == []
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.name in ("log_range", "bias", "beta"):
            variable.assign(array(variable) + rng.normal(0, 0.05, variable.shape))
    align(model)
    compare(model, tmp_path)
    once = model.get_weights()
    align(model)
    for one, two in zip(once, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=3e-6, atol=3e-6)


def test_an_inner_softmax_keeps_its_fine_steps():
    model = net(NETS["softmax bilinear"])
    x = smooth()
    quantized = quantize_model(model, PLAIN, x)
    error = np.asarray(quantized(x)) - np.asarray(model(x))
    assert np.sqrt(np.mean(error**2)) < 0.01


def dead(units=4, **kwargs):
    """A convolution whose ReLU is 0 on all data."""
    return conv(units, activation="relu", bias_initializer=constant(-20.0), **kwargs)


def constant(value):
    return keras.initializers.Constant(value)


def dead_gate(i):
    c = conv(8, 3, activation="relu")(i)
    g = K.GlobalAveragePooling2D(keepdims=True)(c)
    return K.Multiply()([c, conv(8, activation="sigmoid")(dead(1)(g))])


def clipped_sum(i):
    c = conv(4, 3)(i)
    return K.Dense(3)(K.GlobalAveragePooling2D()(K.ReLU(6.0)(K.Add()([c, conv(4)(c)]))))


def zero_gammas(i):
    def norm():
        return K.BatchNormalization(gamma_initializer="zeros")

    x = K.ReLU()(norm()(K.DepthwiseConv2D(3)(K.ReLU()(norm()(conv(8, 3)(i))))))
    return conv(2)(norm()(K.MaxPooling2D(2)(x)))


FAR_APART = {
    "dead relu": (lambda i: conv(3)(conv(4, 3, activation="relu")(dead()(i))), 1.0),
    "dead gate": (dead_gate, 1.0),
    "dead sum": (lambda i: K.Add()([dead()(i), conv(4)(i)]), 1.0),
    "dead beside": (lambda i: conv(3)(K.Concatenate()([dead()(i), conv(4)(i)])), 1.0),
    "zero gammas": (zero_gammas, 1.0),
    "pixels into a clipped sum": (clipped_sum, 255.0),
    "millions into a low ceiling": (lambda i: conv(3)(K.ReLU(0.1)(conv(4, 3)(i))), 1e6),
    "millionths": (lambda i: conv(3)(conv(4, 3, activation="relu")(i)), 1e-6),
    "biases far above what comes in": (
        lambda i: conv(3, bias_initializer=keras.initializers.RandomNormal(0, 0.1))(K.ReLU()(i)),
        1e-6,
    ),
    "large biases": (
        lambda i: conv(3)(conv(6, 3, bias_initializer=constant(1e4), activation="relu")(i)),
        1.0,
    ),
    "one huge channel": (
        lambda i: conv(3)(conv(3, activation="relu", name="huge")(conv(3, 3)(i))),
        1.0,
    ),
    "rescaled into a low ceiling": (lambda i: conv(3)(K.ReLU(0.5)(i * 2.0 + 1.0)), 1e4),
    "a product less a far larger one": (
        lambda i: K.Subtract()([conv(3, name="huge")(i), K.Multiply()([i, i])]),
        1.0,
    ),
    "nothing less nothing": (lambda i: conv(3)(K.Subtract()([i, K.Identity()(i)])), 1e-6),
    "millions into a sigmoid": (lambda i: conv(3)(act("sigmoid")(conv(4, 3)(i))), 1e6),
}


@pytest.mark.parametrize("name", FAR_APART)
def test_numbers_far_apart(name, tmp_path):
    body, scale = FAR_APART[name]
    model = net(body)
    for layer in model.layers:
        if layer.name == "huge":
            layer.kernel.assign(array(layer.kernel) * [1e3, 1, 1])
    model = exact(model, tmp_path, scale)
    for variable in model.trainable_variables:
        if variable.name == "log_range":
            variable.assign(array(variable) + np.random.default_rng(0).normal(0, 1, variable.shape))
    align(model)
    compare(model, tmp_path, scale)


def test_betas_alone_behind_steps_far_above_them(tmp_path):
    """One range for a kernel of which a BatchNorm leaves nothing: its steps lie far above betas."""
    norm = K.BatchNormalization(gamma_initializer="zeros", beta_initializer=constant(0.01))
    model = net(lambda i: norm(conv(4, kernel_initializer=constant(1e4))(i)))
    exact(model, tmp_path, config=DDQConfig(budget=None, per_channel=False))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_a_ceiling_beyond_all_codes(target):
    """6 in codes of a thousand-millionth: LiteRT's and TFLite Micro's own kernels refuse it."""
    shared = conv(3, 3, activation="relu6", kernel_initializer=constant(1e-9))
    model = net(lambda i: shared(conv(3, activation="relu")(shared(i))))
    quantized = quantize_model(model, DDQConfig(target=target, budget=None), smooth())
    graph = lower(quantized)
    clamps = [attributes(op).get("fused_activation_function") for op in graph.ops]
    assert "RELU6" not in clamps
    assert clamps.count("RELU") == 3


def test_a_loop_of_ones_own_is_exported_as_exactly(tmp_path):
    model = net(lambda i: K.Dense(4)(K.GlobalAveragePooling2D()(conv(8, 3, activation="relu")(i))))
    quantized = quantize_model(model, DDQConfig(budget=None, precisions=(4,)), smooth())
    before = quantized.get_weights()
    compare(quantized, tmp_path)
    for one, two in zip(before, quantized.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    rng = np.random.default_rng(0)
    for variable in quantized.trainable_variables:  # as steps of an optimizer do
        variable.assign(array(variable) + rng.normal(0, 0.02, variable.shape))
    compare(quantized, tmp_path)


def test_sums_far_above_a_ceiling_are_refused_by_name():
    with pytest.raises(DDQError, match=r"'add\w*' \(Add\).*ceiling 6 .*Received: .* Rescaling"):
        quantize_model(net(clipped_sum), PLAIN, smooth(scale=1e6))


def test_summands_too_far_apart_are_refused_by_name():
    model = net(lambda i: conv(2)(K.Add(name="far")([i * 3.0 + 1.0, i])))
    with pytest.raises(
        DDQError, match=r"'far' \(Add\): each input's step .*Received: .* Rescaling"
    ):
        quantize_model(model, PLAIN, smooth(scale=1e-6))


@pytest.mark.parametrize(("bits", "limit"), [(4, "1.34e"), (8, "2.15e")])
def test_sums_beyond_int32_are_refused_by_name(bits, limit):
    """150,000 times the greatest code at the greatest weight, as a mean of bytes is."""
    inputs = keras.Input((150000,))
    mean = K.Dense(2, kernel_initializer=constant(1 / 150000), name="mean")
    model = keras.Model(inputs, mean(inputs))
    x = np.full((2, 150000), 255, np.float32)
    with pytest.raises(DDQError, match=rf"'mean' \(DDQDense\): sums of 150000 .*below {limit}"):
        quantize_model(model, DDQConfig(budget=None, precisions=(bits,)), x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_norm_alone_and_behind_weights(bias, seed, tmp_path):
    keras.utils.set_random_seed(seed)
    x = keras.Input((8, 8, 4))
    norm = K.BatchNormalization(beta_initializer="random_normal")
    y = norm(conv(4, 3, use_bias=bias)(act("silu")(norm(x))))
    z = K.ReLU()(norm(conv(4, 1, use_bias=bias)(y)))
    model = shake(keras.Model(x, [z, norm(norm(y))]), seed)
    data = np.random.default_rng(seed).normal(size=(48, 8, 8, 4)).astype(np.float32)
    q = quantize_model(model, PLAIN, calibration=data)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [data])
    assert (found.equal_codes_share, found.max_lsb) == (1.0, 0)
