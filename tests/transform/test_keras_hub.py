"""Backbones of keras-hub, with random weights: layers of their own, at any depth.

keras-hub is no dependency; where it is missing this is skipped.
"""

from __future__ import annotations

import keras
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, first_difference, verify
from tests.toys import images

pytestmark = pytest.mark.slow


def _hub():
    return pytest.importorskip("keras_hub", exc_type=ImportError).models


SIZE = {"image_shape": (64, 64, 3)}


def mobilenet_v3():
    return _hub().MobileNetBackbone(
        stackwise_expansion=[[8], [48, 72]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[16], [24, 24]],
        stackwise_kernel_size=[[3], [5, 5]],
        stackwise_num_strides=[[1], [2, 1]],
        stackwise_se_ratio=[[None], [0.25, 0.25]],
        stackwise_activation=[["relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1], [2, 2]],
        output_num_filters=64,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=16,
        depthwise_filters=16,
        depthwise_stride=1,
        depthwise_residual=True,
        squeeze_and_excite=0.5,
        last_layer_filter=48,
        **SIZE,
    )


def hgnet_v2():
    return _hub().HGNetV2Backbone(
        depths=[1, 1],
        embedding_size=8,
        hidden_sizes=[16, 32],
        stem_channels=[3, 8, 16],
        hidden_act="relu",
        use_learnable_affine_block=True,
        stackwise_stage_filters=[[16, 8, 16, 1, 3, 3], [16, 8, 32, 1, 3, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, True],
        **SIZE,
    )


def resnet():
    return _hub().ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        **SIZE,
    )


def densenet():
    return _hub().DenseNetBackbone(
        stackwise_num_repeats=[2, 2], compression_ratio=0.5, growth_rate=8, **SIZE
    )


def vgg():
    return _hub().VGGBackbone(stackwise_num_repeats=[1, 1], stackwise_num_filters=[8, 16], **SIZE)


def xception():
    return _hub().XceptionBackbone(
        stackwise_conv_filters=[[16, 16], [32, 32]], stackwise_pooling=[True, False], **SIZE
    )


SMALL = {"image_shape": (32, 32, 3)}
BLOCK = {"patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}


def vit():
    return _hub().ViTBackbone(**BLOCK, mlp_dim=32, dropout_rate=0.1, **SMALL)


def deit():
    return _hub().DeiTBackbone(**BLOCK, intermediate_dim=32, **SMALL)


def dino_v2():
    return _hub().DINOV2Backbone(**BLOCK, intermediate_dim=32, num_register_tokens=2, **SMALL)


def swin():
    return _hub().SwinTransformerBackbone(
        embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=4, patch_size=2, **SMALL
    )


def mit():
    return _hub().MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        hidden_dims=[16, 32],
        **SMALL,
    )


BACKBONES = [
    vit,
    deit,
    dino_v2,
    # Keras warns of masks in it that it loses.
    pytest.param(swin, marks=pytest.mark.filterwarnings("ignore::UserWarning")),
    mit,
    mobilenet_v3,
    hgnet_v2,
    resnet,
    densenet,
    vgg,
    xception,
]


@pytest.mark.parametrize("make", BACKBONES, ids=lambda make: make.__name__)
def test_backbones_go_through_exactly(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    x = images(8, model.input_shape[1:])
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=x)
    file = export_tflite(quantized, tmp_path / "net.tflite")
    assert first_difference(quantized, x[:2]) is None
    found = verify(quantized, file, [x[:2]])
    assert found.equal_codes_share == 1.0
    assert found.delegation.is_complete
