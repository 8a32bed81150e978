"""Where models are cut into blocks."""

from __future__ import annotations

import keras
import numpy as np

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.layers import DDQWeightedLayer, weighted_layers
from ddq_tf.models import mobilenet_v2, resnet8
from ddq_tf.reconstruction.blocks import blocks_of
from tests.toys import array, images, layers, mixed_net, shake

CONFIG = DDQConfig(budget=None)


def names(block) -> list[str]:
    return [layer.name for layer in block.layers if isinstance(layer, DDQWeightedLayer)]


def test_blocks_in_a_row_are_the_model():
    model = quantize_model(shake(mixed_net()), CONFIG, images())
    outputs = images(5, seed=3)
    for block in blocks_of(model):
        outputs = block.model(outputs)
    np.testing.assert_array_equal(array(outputs), array(model(images(5, seed=3))))


def test_each_bottleneck_of_mobilenet_is_a_block():
    model = mobilenet_v2((32, 32, 3), alpha=0.35, classes=3, classifier_activation="softmax")
    blocks = blocks_of(quantize_model(model, CONFIG, images(4, (32, 32, 3))))
    assert names(blocks[0]) == ["Conv1", "expanded_conv_depthwise", "expanded_conv_project"]
    for number, block in enumerate(blocks[1:17], start=1):
        stem = f"block_{number}_"
        assert names(block) == [f"{stem}{part}" for part in ("expand", "depthwise", "project")]
    assert [name for block in blocks[17:] for name in names(block)] == ["Conv_1", "predictions"]
    assert [block.gives_probabilities for block in blocks] == [False] * (len(blocks) - 1) + [True]


def test_each_residual_of_resnet_is_a_block():
    model = quantize_model(resnet8((32, 32, 3), 4), CONFIG, images(4, (32, 32, 3)))
    blocks = blocks_of(model)
    layers_of_blocks = [name for block in blocks for name in names(block)]
    assert layers_of_blocks == [layer.name for layer in weighted_layers(model)]
    assert sum(any(isinstance(x, keras.layers.Add) for x in block.layers) for block in blocks) == 3
    assert [len(names(block)) for block in blocks] == [3, 3, 3, 1]


def test_plain_convolutions_go_by_threes():
    parts = [layers.Conv2D(4, 3, padding="same", activation="relu") for _ in range(7)]
    net = keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Flatten(), layers.Dense(2)])
    blocks = blocks_of(quantize_model(net, CONFIG, images()))
    assert [len(names(block)) for block in blocks] == [3, 3, 2]


def test_a_shortcut_over_everything_makes_one_block():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for _ in range(5):
        x = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    net = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Add()([x, inputs]))))
    blocks = blocks_of(quantize_model(net, CONFIG, images()))
    assert [len(names(block)) for block in blocks] == [5, 1]
