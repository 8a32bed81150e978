"""Ranges that are known already, instead of calibration."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, KernelRange, Ranges, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import activation_layers, weighted_layers
from tests.toys import array, shake

K = keras.layers
CONFIG = DDQConfig(budget=None)


@pytest.fixture(scope="module")
def model():
    i = keras.Input((8, 8, 3), name="image")
    x = K.Conv2D(6, 3, name="conv")(i)
    x = K.ReLU(6.0, name="relu")(K.BatchNormalization(name="norm")(x))
    a, b = K.Conv2D(4, 1, name="left")(x), K.Conv2D(4, 1, activation="relu", name="right")(x)
    x = K.GlobalAveragePooling2D(name="pool")(K.Concatenate(name="both")([a, b]))
    return shake(keras.Model(i, K.Dense(3, activation="softmax", name="scores")(x)))


OUTPUTS = {
    "image": (-1.0, 1.0),
    "relu": (0.0, 3.0),
    "left": (-2.0, 1.0),
    "right": (0.0, 4.0),
    "pool": (-1.5, 1.0),
    "scores": (0.0, 1.0),
}
RANGES = Ranges(outputs=OUTPUTS, sums={"scores": (-5.0, 2.0)})


def found(quantized):
    """By layer: whether the grid is signed, and its range."""
    return {
        layer.name: (layer.quantizer.signed, float(array(layer.quantizer.base_range)[-1]))
        for layer in activation_layers(quantized)
    }


def test_all_ranges_given_need_no_data(model, tmp_path):
    quantized = quantize_model(model, CONFIG, ranges=RANGES)
    grids = found(quantized)
    expected = {"image_quant": (True, 1.0), "relu": (False, 3.0)}
    for name, (signed, alpha) in expected.items():
        assert grids[name][0] is signed
        assert grids[name][1] == pytest.approx(alpha, rel=2e-3)  # aligned
    (shared,) = [grid for name, grid in grids.items() if name.endswith("_shared")]
    assert shared == (True, pytest.approx(4.0, rel=2e-3))
    logits = grids["scores_quant"]
    assert logits == (True, pytest.approx(5.0, rel=2e-3))
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 3)).astype(np.float32)
    assert verify(quantized, export_tflite(quantized, tmp_path / "net.tflite"), x).max_lsb <= 1


def test_given_ranges_count_instead_of_calibration(model):
    x = np.random.default_rng(0).uniform(-1, 1, (64, 8, 8, 3)).astype(np.float32)
    calibrated = found(quantize_model(model, CONFIG, x))
    given = found(quantize_model(model, CONFIG, x, ranges={"relu": (0, 1.5)}))
    assert given["relu"][1] == pytest.approx(1.5, rel=2e-3)
    assert calibrated["relu"][1] > 2
    assert given["scores_quant"][1] == pytest.approx(calibrated["scores_quant"][1], rel=5e-3)


def test_what_is_missing_is_named(model):
    with pytest.raises(DDQError, match=r"'left' or 'right' or 'both'") as error:
        quantize_model(model, CONFIG, ranges={"image": (0, 1), "relu": (0, 1)})
    assert "Pass data as calibration" in str(error.value)
    assert "'relu'" not in str(error.value)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"nothing": (0, 1)}, "outputs: 'nothing'"),
        (Ranges(kernels={"relu": KernelRange(alpha=(1.0,))}), "kernels: 'relu'"),
        (Ranges(sums={"conv": (0, 1)}), "sums: 'conv'"),
        ({"relu": (1, 0)}, r"'relu': needs \(min, max\).*Received: \(1, 0\)"),
        ({"relu": 3, "conv": (0, np.nan)}, r"(?s)'relu'.*Received: 3.*'conv'.*nan"),
        (Ranges(kernels={"conv": KernelRange(alpha=(0.0,))}), "magnitudes > 0"),
        (Ranges(kernels={"conv": KernelRange(alpha=(1.0, 2.0))}), "1 range of its kernel or 6"),
        ([1, 2], "mapping from names of layers .* Received: list"),
    ],
)
def test_wrong_ranges(model, ranges, words):
    x = np.zeros((4, 8, 8, 3), np.float32)
    with pytest.raises(DDQError, match=words):
        quantize_model(model, CONFIG, x, ranges=ranges)


def test_kernels_keep_their_range_at_their_precision(model):
    alpha = tuple(np.linspace(0.2, 0.4, 6))
    kernels = {"conv": KernelRange(alpha=alpha, num_bits=4), "scores": KernelRange(alpha=(0.5,))}
    bits = {"conv": 4}
    ranges = Ranges(outputs=OUTPUTS, sums=RANGES.sums, kernels=kernels, bits=bits)
    config = DDQConfig(budget=None, precisions=(4, 8), rules=ranges.rules)
    quantized = quantize_model(model, config, ranges=ranges)
    layers = {layer.name: layer for layer in weighted_layers(quantized)}
    assert [layers[name].num_bits for name in ("conv", "left", "scores")] == [4, 8, 8]
    # Alignment moves a range by about a thousandth, the kernel with it.
    np.testing.assert_allclose(layers["conv"].quantizer.range_in_force(), alpha, rtol=2e-3)
    np.testing.assert_allclose(layers["scores"].quantizer.range_in_force(), 0.5, rtol=2e-3)
