"""Zeros of a pruned network stay zeros, and the report tells how many there are."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, ReconstructionConfig, Rule, quantize_model
from ddq_tf.jobs.collect import layer_reports
from ddq_tf.layers import weighted_layers
from ddq_tf.reconstruction import reconstruct_model
from ddq_tf.report import Report, wording
from tests.toys import array, compiled

K = keras.layers


@pytest.fixture
def pruned():
    keras.utils.set_random_seed(3)
    i = keras.Input((8, 8, 3))
    x = K.ReLU()(K.BatchNormalization()(K.Conv2D(16, 3, name="conv")(i)))
    x = K.Conv2D(8, 1, activation="relu", name="point")(K.DepthwiseConv2D(3, name="dw")(x))
    model = keras.Model(i, K.Dense(4, name="logits")(K.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(0)
    for name in ("conv", "dw", "point", "logits"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(rng.random(kernel.shape) < 0.75, 0, array(kernel)))
    return model


def data(count=64):
    rng = np.random.default_rng(1)
    return rng.normal(0, 1, (count, 8, 8, 3)).astype(np.float32), rng.integers(0, 4, count)


def zeros(model):
    return {layer.name: array(layer.kernel) == 0 for layer in weighted_layers(model)}


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_exactly_the_zeros_stay(pruned, optimizer, tmp_path):
    config = DDQConfig(budget=None, precisions=(8,), keep_zeros=True)
    quantized = quantize_model(pruned, config, data()[0])
    before = zeros(quantized)
    compiled(quantized, OPTIMIZERS[optimizer]()).fit(*data(), epochs=3, batch_size=16, verbose=0)
    after = zeros(quantized)
    for layer in weighted_layers(quantized):
        np.testing.assert_array_equal(before[layer.name], after[layer.name])
        codes, _ = layer.integer_weights()
        assert not codes[before[layer.name]].any()
    path = tmp_path / "pruned.keras"
    quantized.save(path)
    (report, *_) = layer_reports(keras.saving.load_model(path))
    assert report.float_zeros == before["conv"].mean()
    assert report.zeros >= report.float_zeros


def test_without_it_they_go_and_the_report_says_so(pruned):
    quantized = quantize_model(pruned, DDQConfig(budget=None, precisions=(8,)), data()[0])
    optimizer = OPTIMIZERS["adamw"]()
    compiled(quantized, optimizer).fit(*data(), epochs=3, batch_size=16, verbose=0)
    report = Report(title="", created="", model_name="pruned", layers=layer_reports(quantized))
    assert report.share_of_zeros("float_zeros") == pytest.approx(0.75, abs=0.05)
    assert report.share_of_zeros("zeros") < 0.2
    assert "of the float weights were 0" in wording.zeros_sentence(report)


def test_reconstruction_leaves_them(pruned):
    config = DDQConfig(budget=None, precisions=(4,), keep_zeros=True)
    recipe = ReconstructionConfig(steps=4, distill_steps=2, batch_size=16)
    quantized, _ = reconstruct_model(pruned, data()[0], config, recipe)
    for layer in weighted_layers(quantized):
        codes, _ = layer.integer_weights()
        assert not codes[array(pruned.get_layer(layer.name).kernel) == 0].any()


def test_by_a_rule(pruned):
    config = DDQConfig(budget=None, rules=(Rule("conv", keep_zeros=True),))
    quantized = quantize_model(pruned, config, data()[0])
    kept = {layer.name: layer.quantizer.scheme.keep_zeros for layer in weighted_layers(quantized)}
    assert kept == {"conv": True, "dw": False, "point": False, "logits": False}


def test_free_levels_need_not_have_a_zero():
    with pytest.raises(DDQError, match="keep_zeros needs levels='uniform'"):
        DDQConfig(target="litert-int8", levels="free", keep_zeros=True)


def test_nothing_is_said_of_dense_networks():
    assert wording.zeros_sentence(Report(title="", created="", model_name="dense")) == ""
