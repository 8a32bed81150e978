import keras
import numpy as np
import pytest

from ddq_tf.graph import flatten
from ddq_tf.grids import align, fold, grid_of
from ddq_tf.layers import DDQActivation, DDQConv2D, DDQDense, DDQDepthwiseConv2D, DDQSoftmax
from tests.toys import array, shake

K = keras.layers


def net(make, **norm):
    """Input grid, a DDQ layer, its BatchNorm (unless norm is None), output grid."""
    inputs = keras.Input((5, 5, 4))
    x = DDQActivation("linear", learned=False, name="in")(inputs)
    x = make()(x)
    if norm.get("use", True):
        norm.pop("use", None)
        x = K.BatchNormalization(name="norm", **norm)(x)
    x = DDQActivation("relu", name="out")(x)
    model = shake(keras.Model(inputs, x), seed=1)
    for layer in model.layers:
        if isinstance(layer, DDQActivation):
            layer.quantizer.set_range(2.7)
            layer.quantizer.log_range.assign([0.0])
        elif hasattr(layer, "quantizer"):
            layer.quantizer.calibrate(array(layer.kernel))
            layer.quantizer.log_range.assign(np.zeros(layer.quantizer.log_range.shape))
    return model


LAYERS = {
    "conv": lambda: DDQConv2D(6, 3, name="layer"),
    "conv without bias": lambda: DDQConv2D(6, 3, use_bias=False, name="layer"),
    "depthwise": lambda: DDQDepthwiseConv2D(3, depth_multiplier=2, name="layer"),
    "dense": lambda: DDQDense(6, name="layer"),
}
NORMS = {
    "plain": {},
    "no scale": {"scale": False},
    "no center": {"center": False},
    "neither": {"scale": False, "center": False},
    "large epsilon": {"epsilon": 0.5},
    "none": {"use": False},
}


def float64(variable):
    return array(variable).astype(np.float64)


def apply_float64(layer, kernel, x):
    """The layer as a float64 matrix product over 3x3 patches, or over channels."""
    if isinstance(layer, DDQDense):
        return x @ kernel
    patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    if isinstance(layer, DDQDepthwiseConv2D):
        return np.einsum("nhwcij,ijcm->nhwcm", patches, kernel).reshape(*patches.shape[:3], -1)
    return np.einsum("nhwcij,ijco->nhwo", patches, kernel)


def batch_norm_float64(norm, x):
    gain = 1 / np.sqrt(float64(norm.moving_variance) + norm.epsilon)
    gain = gain * float64(norm.gamma) if norm.scale else gain
    shift = float64(norm.beta) if norm.center else 0
    return (x - float64(norm.moving_mean)) * gain + shift


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_folding_equals_layer_then_batch_norm(layer, norm):
    model = net(LAYERS[layer], **NORMS[norm])
    ddq = model.get_layer("layer")
    graph = flatten(model)
    folded = fold(graph, next(node for node in graph.nodes if node.layer is ddq))
    x = np.random.default_rng(0).normal(0, 1, (2, 5, 5, 4))
    codes, scale = ddq.integer_weights()
    bias = 0 if ddq.bias is None else float64(ddq.bias)
    expected = apply_float64(ddq, codes.astype(np.float64) * scale.astype(np.float64), x) + bias
    if norm != "none":
        assert NORMS[norm].get("scale", True) == bool((codes != folded.codes).any())
        expected = batch_norm_float64(model.get_layer("norm"), expected)
    received = apply_float64(ddq, folded.codes.astype(np.float64), x) * folded.scale.astype(
        np.float64
    )
    # The folded scale is rounded to float32, once.
    np.testing.assert_allclose(received + folded.bias, expected, rtol=1e-6, atol=2e-6)
    np.testing.assert_array_equal(np.abs(folded.codes), np.abs(codes))
    assert (folded.scale > 0).all()


def folded_units(model):
    """Every folded bias in units of its accumulator's step."""
    graph, found = flatten(model), []
    for node in graph.nodes:
        if isinstance(node.layer, DDQConv2D | DDQDense | DDQDepthwiseConv2D):
            folded = fold(graph, node)
            step = np.float64(grid_of(graph, node.inputs[0]).scale) * folded.scale.astype(float)
            found.append(folded.bias / step)
    return np.concatenate(found)


WITH_BIAS = [(a, b) for a in LAYERS for b in NORMS if (a, b) != ("conv without bias", "none")]


@pytest.mark.parametrize(("layer", "norm"), WITH_BIAS)
def test_aligned_biases_are_integers_and_stay(layer, norm):
    model = net(LAYERS[layer], **NORMS[norm])
    before = folded_units(model)
    assert np.abs(before - np.rint(before)).max() > 0.05
    align(model)
    after = folded_units(model)
    # What makes up the bias is rounded to float32, at most thrice.
    rounded = 3 * 2.0**-24 * np.abs(after).max()
    assert np.abs(after - np.rint(after)).max() < 1e-4 + rounded
    # Half a unit, and the thousandth by which the unit itself may move.
    assert (np.abs(after - before) <= 0.501 + 1.31e-3 * np.abs(before)).all()
    weights = model.get_weights()
    align(model)
    np.testing.assert_array_equal(np.rint(folded_units(model)), np.rint(after))
    for one, two in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6, rtol=1e-6)


def test_a_dead_batch_norm_channel_folds_and_aligns():
    model = net(LAYERS["conv"])
    norm = model.get_layer("norm")
    norm.gamma.assign([0, 1, 0, 1, -1, 1])
    align(model)
    graph = flatten(model)
    folded = fold(graph, next(n for n in graph.nodes if n.name == "layer"))
    assert (folded.scale > 0).all()
    assert np.isfinite(array(norm.beta)).all()
    np.testing.assert_allclose(folded.bias[[0, 2]], array(norm.beta)[[0, 2]], rtol=1e-6)


def test_a_batch_norm_with_another_reader_is_not_folded():
    inputs = keras.Input((5, 5, 4))
    x = DDQConv2D(4, 1, name="layer")(DDQActivation()(inputs))
    model = keras.Model(inputs, K.Add()([K.BatchNormalization()(x), x]))
    graph = flatten(model)
    assert fold(graph, next(n for n in graph.nodes if n.name == "layer")).batch_norm is None


def test_grid_of_looks_through_layers_that_move_values():
    inputs = keras.Input((4, 4, 2))
    x = DDQActivation("relu6", name="act")(inputs)
    x = K.Flatten()(K.MaxPooling2D()(K.ZeroPadding2D()(x)))
    graph = flatten(keras.Model(inputs, x))
    grid = grid_of(graph, graph.outputs[0])
    assert (grid.qmin, grid.qmax) == (0, 255)
    assert grid.scale == np.float32(6) * np.float32(1 / 255)


def test_grid_of_softmax_is_fixed():
    inputs = keras.Input((4,))
    graph = flatten(keras.Model(inputs, DDQSoftmax()(DDQActivation()(inputs))))
    assert grid_of(graph, graph.outputs[0]).scale == np.float32(1 / 256)


def test_an_unquantized_tensor_has_no_grid():
    inputs = keras.Input((4, 4, 2))
    graph = flatten(keras.Model(inputs, K.Flatten()(inputs)))
    with pytest.raises(ValueError, match="no quantizer"):
        grid_of(graph, graph.outputs[0])
