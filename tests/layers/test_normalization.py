import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf.layers import DDQBatchNormalization, normalization
from tests.toys import array, shake

K = keras.layers
CASES = {
    "plain": {},
    "no scale": {"scale": False},
    "no center": {"center": False},
    "neither": {"scale": False, "center": False},
    "momentum": {"momentum": 0.6},
    "large epsilon": {"epsilon": 0.5},
    "small epsilon": {"epsilon": 1e-6},
}


@pytest.fixture
def fused(monkeypatch):
    """How often the fused kernel was called."""
    calls, kernel = [], normalization.native_batch_norm

    def counted(*args):
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(normalization, "native_batch_norm", counted)
    return calls


def pair(shape=(None, 6, 5, 4), **kwargs):
    layers = []
    for cls in (DDQBatchNormalization, K.BatchNormalization):
        layer = cls(**kwargs)
        layer.build(shape)
        layers.append(shake(layer))
    return layers


def inputs(shape=(8, 6, 5, 4), offset=3.0):
    return np.random.default_rng(0).normal(offset, 2, shape).astype(np.float32)


def run(layer, x, **kwargs):
    """Outputs, the gradients of the input and the variables, and the moving statistics after."""
    x = tf.constant(x)
    upstream = np.random.default_rng(1).normal(0, 1, x.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, **kwargs)
        loss = tf.reduce_sum(outputs * upstream)
    sources = [x, *(v.value for v in layer.trainable_variables)]
    gradients = [array(g) for g in tape.gradient(loss, sources)]
    return [array(outputs), *gradients, array(layer.moving_mean), array(layer.moving_variance)]


def assert_equal(ours, theirs, atol=2e-4):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=atol)


@pytest.mark.parametrize("case", CASES)
def test_training_equals_keras(case, fused):
    ours, theirs = pair(**CASES[case])
    for _ in range(2):
        assert_equal(run(ours, inputs(), training=True), run(theirs, inputs(), training=True))
    assert len(fused) == 2


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 1, 2, 3), (2, 1, 1, 3)])
def test_smallest_batches_equal_keras(shape, fused):
    ours, theirs = pair(shape)
    x = inputs(shape)
    assert_equal(run(ours, x, training=True), run(theirs, x, training=True), 2e-3)
    assert fused


def test_constant_channels_equal_keras():
    ours, theirs = pair()
    x = np.zeros((8, 6, 5, 4), np.float32)
    assert_equal(run(ours, x, training=True), run(theirs, x, training=True))


@pytest.mark.parametrize("training", [False, None])
def test_inference_is_keras(training, fused):
    ours, theirs = pair()
    for one, two in zip(
        run(ours, inputs(), training=training),
        run(theirs, inputs(), training=training),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    assert not fused


def test_a_frozen_layer_stays_in_inference(fused):
    ours, theirs = pair()
    ours.trainable = theirs.trainable = False
    before = array(ours.moving_mean).copy()
    for one, two in zip(
        run(ours, inputs(), training=True), run(theirs, inputs(), training=True), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(array(ours.moving_mean), before)
    assert not fused


FALLBACKS = {
    "rows": ((8, 4), {}, {}),
    "sequences": ((8, 5, 4), {}, {}),
    "channels first": ((8, 4, 5, 6), {"axis": 1}, {}),
    "mask": ((8, 6, 5, 4), {}, {"mask": np.arange(8 * 30).reshape(8, 6, 5) % 3 > 0}),
    "renorm": ((8, 6, 5, 4), {"renorm": True}, {}),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_all_else_is_left_to_keras(case, fused):
    shape, arguments, call = FALLBACKS[case]
    try:
        ours, theirs = pair(shape, **arguments)
    except ValueError:  # a Keras that does not know it
        pytest.skip(f"this Keras takes no {arguments}")
    results = [run(layer, inputs(shape), training=True, **call) for layer in (ours, theirs)]
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not fused


def test_mixed_precision_is_left_to_keras(fused):
    layer = DDQBatchNormalization(dtype="mixed_float16")
    layer.build((None, 6, 5, 4))
    assert layer(inputs(), training=True).dtype == "float16"
    assert not fused


def test_a_compiled_training_step_moves_the_statistics():
    results = []
    for cls in (DDQBatchNormalization, K.BatchNormalization):
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input((6, 5, 4)), cls(name="norm"), K.Flatten(), K.Dense(1)])
        net.compile(keras.optimizers.SGD(0.1), "mse")
        net.fit(inputs(), np.ones((8, 1)), epochs=2, batch_size=4, shuffle=False, verbose=0)
        results.append(net.get_weights())
    assert_equal(*results)


def test_config_round_trip():
    layer = DDQBatchNormalization(momentum=0.7, epsilon=1e-5, name="norm")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(copy, DDQBatchNormalization)
    assert copy.get_config() == layer.get_config()
