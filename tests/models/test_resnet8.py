from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from ddq_tf.models import resnet8


@pytest.fixture(scope="module")
def published(shared_dir: Path) -> keras.Model:
    path = shared_dir / "models" / "mlperf_tiny" / "pretrainedResnet.h5"
    return keras.models.load_model(path, compile=False)


def settings(layer: keras.layers.Layer) -> dict:
    """The configuration without what has no meaning: names, seeds, and how it was written."""
    config = layer.get_config()
    for key in ("name", "build_config", "optional", "sparse", "ragged", "axis"):
        config.pop(key, None)
    if config.get("kernel_regularizer"):
        config["kernel_regularizer"] = round(float(layer.kernel_regularizer.l2), 9)
    if config.get("kernel_initializer"):
        config["kernel_initializer"] = type(layer.kernel_initializer).__name__
    return config


def test_equals_the_published_model(published: keras.Model) -> None:
    ours = resnet8()
    assert [type(layer) for layer in ours.layers] == [type(layer) for layer in published.layers]
    for mine, theirs in zip(ours.layers, published.layers, strict=True):
        assert settings(mine) == settings(theirs), mine.name
    ours.set_weights(published.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    expected = published.predict_on_batch(images)
    np.testing.assert_array_equal(ours.predict_on_batch(images), expected)


def test_other_shapes_and_logits() -> None:
    model = resnet8((48, 64, 1), 5, classifier_activation=None, l2=0)
    assert model.output_shape == (None, 5)
    assert model.losses == []
    assert model.get_layer("predictions").activation is keras.activations.linear
