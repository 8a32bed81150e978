"""What fields of configurations, and arguments, must be."""

from __future__ import annotations

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf import Budget, DDQConfig, DDQError, ReconstructionConfig, Rule, quantize_model
from ddq_tf.arguments import check_fields
from ddq_tf.export import (
    ModelMetadata,
    evaluate,
    export_tflite,
    first_difference,
    tflite_accuracy,
    verify,
)
from ddq_tf.layers import activation_layers
from ddq_tf.scheme import WeightScheme
from ddq_tf.training import TrainConfig
from tests.toys import images, labels

X, Y = images(40), labels(40)


@pytest.mark.parametrize(
    ("interval", "fits", "fails"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1)),
        ("[0, 1)", (0, 0.9), (1, -1)),
        ("(0, 1]", (0.1, 1), (0, 2)),
        ("(0, inf)", (1e-9, 1e9), (0, -1, float("inf"))),
        ("[1, inf)", (1, 7), (0, float("nan"))),
    ],
)
def test_intervals(interval, fits, fails):
    for value in fits:
        check_fields(SimpleNamespace(share=value), interval, "share")
    for value in fails:
        words = re.escape(f"share must lie in {interval}. Received: share={value!r}")
        with pytest.raises(DDQError, match=words):
            check_fields(SimpleNamespace(other=1, share=value), interval, "share")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDQConfig(precisions=4), "precisions must be a tuple of whole numbers or None"),
        (lambda: DDQConfig(precisions="48"), "precisions must be a tuple of whole numbers or None"),
        (lambda: DDQConfig(precisions={4: 8}), "precisions must be a tuple of whole numbers"),
        (lambda: DDQConfig(activation_bits="8"), "a whole number or a tuple of whole numbers"),
        (lambda: DDQConfig(rules=Rule("x", bits=4)), r"a tuple of Rules. .*=Rule\('x', prec"),
        (lambda: DDQConfig(rules={"x": 4}), "rules must be a tuple of Rules"),
        (lambda: DDQConfig(seed=None), "seed must be a whole number. Received: seed=None"),
        (lambda: DDQConfig(seed=True), "seed must be a whole number. Received: seed=True"),
        (lambda: DDQConfig(seed=1.5), "seed must be a whole number. Received: seed=1.5"),
        (lambda: DDQConfig(seed=-1), r"seed must lie in \[0, inf\)"),
        (lambda: DDQConfig(calibration_images=0), r"calibration_images must lie in \[1, inf\)"),
        (lambda: DDQConfig(per_channel="yes"), "per_channel must be True or False"),
        (lambda: DDQConfig(code_bits="4"), "code_bits must be a number or None"),
        (lambda: DDQConfig(budget=[0.5]), "must be a Budget or a number or a text or None"),
        (lambda: DDQConfig(budget=True), "must be a Budget or a number or a text or None"),
        (lambda: DDQConfig(levels=None), "levels must be a text. Received: levels=None"),
        (lambda: DDQConfig(target=3, seed=""), "(?s)target must be a text.*seed must be a whole"),
        (lambda: Budget(size_bytes=1.5), "size_bytes must be a whole number or None"),
        (lambda: Budget(fraction="half"), "fraction must be a number or None"),
        (lambda: Rule("x", bits="4"), "Rule cannot be made:.*bits must be a whole number or None"),
        (lambda: Rule("x", in_float=1), "in_float must be True or False"),
        (lambda: WeightScheme(precisions=[2.5]), "precisions must be a tuple of whole numbers"),
        (lambda: ReconstructionConfig(steps="3"), "steps must be a whole number"),
        (lambda: ReconstructionConfig(views=2.5), "views must be a whole number"),
        (lambda: TrainConfig(epochs=2.5), "epochs must be a whole number"),
        (lambda: TrainConfig(learning_rate=None), "learning_rate must be a number"),
        (lambda: ModelMetadata(labels="cat"), "labels must be a tuple of texts"),
        (lambda: ModelMetadata(mean=127.5), "mean must be a tuple of numbers"),
    ],
)
def test_fields_of_other_types_are_named(make, message):
    with pytest.raises(DDQError, match=f"(?s){message}"):
        make()


def test_numbers_of_numpy_and_lists_become_pythons(tmp_path):
    config = DDQConfig(
        precisions=np.array([4, 8]),
        activation_bits=np.int64(8),
        seed=np.uint8(3),
        per_channel=np.bool_(True),
        search_fraction=np.float32(0.25),
        budget=np.float64(0.75),
        rules=[Rule("*", precisions=[np.int32(4)])],
    )
    assert config == DDQConfig(
        precisions=(4, 8),
        seed=3,
        search_fraction=0.25,
        budget=Budget(fraction=0.75),
        rules=(Rule("*", precisions=(4,)),),
    )
    for name in ("activation_bits", "seed", "per_channel", "search_fraction"):
        assert type(getattr(config, name)) in (int, bool, float)
    net().save(tmp_path / "float.keras")
    quantize_model(net(), config, X).save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").ddq_config.precisions == (4, 8)


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 3), name="x"), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = quantize_model(net(), DDQConfig(target="litert-int8", budget=None), X)
    return model, export_tflite(model, tmp_path_factory.mktemp("file") / "model.tflite")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, r: quantize_model(net(), X), "must be a DDQConfig; data goes to calibration"),
        (lambda q, r: quantize_model(net(), {"budget": 1}, X), "DDQConfig; .* Received: dict"),
        (lambda q, r: quantize_model(X), "model must be a Keras 3 model"),
        (lambda q, r: ddq_tf.reconstruct_model(net(), X, Y), "config must be a DDQConfig; it"),
        (lambda q, r: ddq_tf.reconstruct_model(net(), X, None, {}), "a ReconstructionConfig"),
        (lambda q, r: export_tflite(q, None), "path must be the path of a file. Received: None"),
        (lambda q, r: export_tflite("x.tflite", q), "path must be the path of a file"),
        (lambda q, r: export_tflite(q, "x", metadata={}), "a ModelMetadata or None. .*: dict"),
        (lambda q, r: verify(q, r, None), "data must be an array of inputs or an iterable"),
        (lambda q, r: verify(r, q, X), "model must be a Keras 3 model"),
        (lambda q, r: verify(q, q, X), "by its path, its content or what export_tflite returned"),
        (lambda q, r: verify(net(), r, X), "needs a DDQ model, as quantize_model returns"),
        (lambda q, r: first_difference(net(), X), "needs a DDQ model, as quantize_model returns"),
        (lambda q, r: evaluate(r, X), "data must be pairs of inputs and labels"),
        (lambda q, r: evaluate(r, None), "data must be pairs of inputs and labels"),
        (lambda q, r: evaluate(q, (X, Y)), "by its path, its content or what export_tflite"),
    ],
)
def test_arguments_of_other_types_are_named(call, message, exported):
    with pytest.raises(DDQError, match=message):
        call(*exported)


def test_a_result_stands_for_its_file(exported):
    _, result = exported
    expected = tflite_accuracy(result.path, (X, Y))
    assert tflite_accuracy(result, (X, Y)) == evaluate(result, [(X, Y)])["accuracy"] == expected


def test_data_are_whole_arrays_or_batches(exported):
    model, result = exported
    by_name, expected = {"x": X}, scales(X)
    for data in (X, (X, Y), (X, Y, np.ones(40)), [X[:20], X[20:]], [(X, Y)], by_name):
        proof = verify(model, result, data)
        assert (proof.num_samples, proof.equal_codes_share) == (40, 1)
        assert scales(data) == expected


def scales(data):
    model = quantize_model(net(), DDQConfig(budget=None), data)
    return [float(layer.quantizer.export_scale()) for layer in activation_layers(model)]
