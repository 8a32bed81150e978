"""`trainable=False`: kernels, biases, statistics stay; quantizers learn unless told otherwise."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import DDQActivation, weighted_layers
from tests.toys import array, compiled, images, labels

L = keras.layers
X, Y = images(32), labels(32)
FREE = DDQConfig(target="litert-int8", precisions=(4, 8), budget="7bits")


def backbone():
    """A nested model, with layers that are rewritten."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Conv2D(6, 3, padding="same", name="first"),
            L.BatchNormalization(momentum=0.9, name="norm"),
            L.ReLU(),
            L.SeparableConv2D(6, 3, name="split"),
            L.PReLU(shared_axes=[1, 2], name="slope"),
        ],
        name="backbone",
    )


def net(inner, *, training=None):
    inputs = keras.Input((8, 8, 3))
    pooled = L.GlobalAveragePooling2D()(inner(inputs, training=training))
    return keras.Model(inputs, L.Dense(4, name="head")(pooled))


def frozen_values(model):
    """All that must stay: kernels up to their channels' scales, which alignment moves a little."""
    return {
        v.path: array(v)
        for layer in model.layers
        if layer.name != "head" and "quant" not in layer.name
        for v in layer.weights
        if "quantizer" not in v.path
    }


def assert_stayed(model, before):
    after = frozen_values(model)
    assert after.keys() == before.keys()
    for path, values in before.items():
        np.testing.assert_allclose(after[path], values, rtol=4e-3, atol=4e-3, err_msg=path)


def learned(model):
    return {v.path.rpartition("/")[0]: v for v in model.trainable_variables}


@pytest.mark.parametrize("when", ["before", "after", "after, whole"])
def test_what_is_frozen_stays_and_its_quantizers_learn(when):
    inner = backbone()
    if when == "before":
        inner.trainable = False
    model = quantize_model(net(inner), FREE, X)
    held = [layer for layer in model.layers if "quant" not in layer.name and layer.name != "head"]
    if when == "after":
        for layer in held:
            if not layer.name.startswith("re_lu"):  # a quantizer
                layer.trainable = False
    elif when == "after, whole":
        model.trainable = False
        for layer in model.layers:
            if layer.name == "head" or isinstance(layer, DDQActivation):
                layer.trainable = True
        model._trainable = True
    names = {v.path for v in model.trainable_variables}
    assert {n.split("/")[0] for n in names if "quantizer" not in n} == {"head"}
    assert {"first/quantizer/log_range", "split_depthwise/quantizer/log_range"} <= names
    assert "split_pointwise/quantizer/evidence" in names
    before = frozen_values(model)
    ranges = array(model.get_layer("first").quantizer.log_range)
    head = array(model.get_layer("head").kernel)
    compiled(model, keras.optimizers.SGD(0.05)).fit(X, Y, batch_size=8, epochs=4, verbose=0)
    assert_stayed(model, before)
    assert np.any(array(model.get_layer("first").quantizer.log_range) != ranges) or np.any(
        array(model.get_layer("first").quantizer.choice) == 0
    )
    assert np.abs(array(model.get_layer("head").kernel) - head).max() > 1e-3


def test_quantizers_of_frozen_layers_can_be_frozen_too():
    inner = backbone()
    inner.trainable = False
    config = DDQConfig(
        target="litert-int8", precisions=(4, 8), budget=None, freeze_quantizers_of_frozen=True
    )
    model = quantize_model(net(inner), config, X)
    names = {v.path.split("/")[0] for v in model.trainable_variables if "evidence" in v.path}
    assert names == {"head"}
    compiled(model).fit(X, Y, batch_size=8, epochs=2, verbose=0)
    bits = {layer.name: layer.num_bits for layer in weighted_layers(model)}
    assert {bits[name] for name in ("first", "split_depthwise", "split_pointwise")} == {8}


def test_a_layer_whose_quantizer_is_frozen_keeps_its_precision_within_the_budget():
    model = quantize_model(net(backbone()), FREE, X)
    model.get_layer("first").quantizer.trainable = False
    compiled(model).fit(X, Y, batch_size=8, epochs=2, verbose=0)
    assert model.get_layer("first").num_bits == 8
    assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits


def test_flags_survive_saving_and_cloning(tmp_path):
    inner = backbone()
    inner.trainable = False
    model = quantize_model(net(inner), FREE, X)
    model.get_layer("split_pointwise").quantizer.trainable = False
    wanted = [v.path for v in model.trainable_variables]
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert [v.path for v in copy.trainable_variables] == wanted


def test_batch_norm_follows_keras():
    """Frozen ones, and those called with training=False, keep their statistics."""
    for inner, training, moves in (
        (backbone(), False, False),
        (backbone(), None, True),
    ):
        model = compiled(quantize_model(net(inner, training=training), FREE, X))
        mean = array(model.get_layer("norm").moving_mean)
        model.fit(X * 5, Y, batch_size=8, epochs=2, verbose=0)
        moved = np.abs(array(model.get_layer("norm").moving_mean) - mean).max()
        assert moved > 0.01 if moves else moved == 0


def test_regularizers_of_rewritten_layers_stay():
    inputs = keras.Input((8, 8, 3))
    x = L.SeparableConv2D(4, 3, depthwise_regularizer="l2", pointwise_regularizer="l2")(inputs)
    x = L.Reshape((36, 4))(x)
    x = L.Conv1D(4, 3, kernel_regularizer="l2")(x)
    x = L.GlobalAveragePooling1D()(x)
    float_model = keras.Model(inputs, L.Dense(3, kernel_regularizer="l2")(x))
    model = quantize_model(float_model, FREE, X)
    assert len(model.losses) == len(float_model.losses) == 4
    np.testing.assert_allclose(sum(model.losses), sum(float_model.losses), rtol=1e-3)
