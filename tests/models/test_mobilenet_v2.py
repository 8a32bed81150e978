from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf.errors import DDQError
from ddq_tf.models import mobilenet_v2


def randomize(model: keras.Model, seed: int = 0) -> list[np.ndarray]:
    """Sets all weights, moving statistics included, to values that keep activations alive."""
    rng = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        value = rng.normal(0.0, 0.2, variable.shape)
        if variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, variable.shape)
        weights.append(value.astype("float32"))
    model.set_weights(weights)
    return weights


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_equals_keras_applications(activation: str | None) -> None:
    reference = keras.applications.MobileNetV2(
        (96, 96, 3), alpha=0.35, weights=None, classes=7, classifier_activation=activation
    )
    ours = mobilenet_v2((96, 96, 3), 0.35, 7, classifier_activation=activation)
    ours.set_weights(randomize(reference))
    images = np.random.default_rng(1).uniform(-1, 1, (2, 96, 96, 3)).astype("float32")
    expected = reference.predict_on_batch(images)
    assert np.std(expected) > 1e-4
    np.testing.assert_array_equal(ours.predict_on_batch(images), expected)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.3])
def test_layers_and_weights_of_keras_applications(alpha: float) -> None:
    reference = keras.applications.MobileNetV2(alpha=alpha, weights=None)
    ours = mobilenet_v2(alpha=alpha)
    assert [w.shape for w in ours.weights] == [w.shape for w in reference.weights]
    skipped = ("input_layer", "avg_pool", "global_average_pooling2d")
    names, expected = (
        [layer.name for layer in model.layers if not layer.name.startswith(skipped)]
        for model in (ours, reference)
    )
    assert names == expected
    depthwise = [layer.name for layer in ours.layers if layer.name.endswith("BN")]
    assert all(
        ours.get_layer(name).epsilon == reference.get_layer(name).epsilon for name in depthwise
    )


def test_weights_do_not_depend_on_the_strides() -> None:
    small, large = mobilenet_v2((32, 32, 3), 0.35, 10), mobilenet_v2((224, 224, 3), 0.35, 10)
    assert [w.shape for w in small.weights] == [w.shape for w in large.weights]


@pytest.mark.parametrize(
    ("size", "side"), [(32, 4), (48, 6), (49, 4), (64, 4), (95, 6), (96, 3), (224, 7)]
)
def test_strides_follow_the_image_size(size: int, side: int) -> None:
    model = mobilenet_v2((size, size, 3), 0.35, 10)
    assert model.get_layer("out_relu").output.shape[1:3] == (side, side)


def test_output_stride_can_be_chosen() -> None:
    model = mobilenet_v2((32, 32, 3), 0.35, 10, output_stride=16)
    assert model.get_layer("out_relu").output.shape[1:3] == (2, 2)


def test_dropout_and_momentum() -> None:
    model = mobilenet_v2((32, 32, 1), 0.35, 10, dropout=0.2, batch_norm_momentum=0.9)
    assert model.get_layer("dropout").rate == 0.2
    assert model.get_layer("Conv_1_bn").momentum == 0.9
    assert model.get_layer("predictions").activation is keras.activations.linear


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (None, None, 3)}, "input_shape must be"),
        ({"input_shape": (4, 4, 3)}, "at least 8 px"),
        ({"classes": 0}, "classes must be"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"dropout": 1.0}, "dropout must"),
        ({"output_stride": 4}, "output_stride must be 8, 16, 32"),
    ],
)
def test_rejects(arguments: dict, message: str) -> None:
    with pytest.raises(DDQError, match=message):
        mobilenet_v2(**arguments)
