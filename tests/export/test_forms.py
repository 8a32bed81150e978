"""A model gives the codes of its file however it runs: eager, in graphs, compiled by XLA."""

from __future__ import annotations

import json

import forward_forms
import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite
from ddq_tf.layers import DDQMatmul, weighted_layers
from tests.toys import array, compiled, images, labels, summing_net


@pytest.fixture(scope="module")
def trained():
    """A network with all that adds up, trained a little, so that no range is as calibrated."""
    model = quantize_model(summing_net(), DDQConfig(), images())
    compiled(model).fit(images(), labels(), epochs=2, verbose=0)
    return model


def test_every_form_has_the_codes_of_litert(trained, tmp_path):
    x = images(500, seed=3)
    expected = forward_forms.codes_of_file(
        trained, export_tflite(trained, tmp_path / "net.tflite").path, x
    )
    assert len(np.unique(expected[0])) > 50
    found = forward_forms.different_codes(trained, x, expected)
    assert {form: row["different"] for form, row in found.items()} == {
        "eager": 0,
        "graph": 0,
        "xla": 0,
    }
    wrong = [expected[0] + (np.arange(4) == 1)]
    assert forward_forms.different_codes(trained, x, wrong)["graph"]["different"] == len(x)


def test_evaluate_gives_the_accuracy_of_litert(trained, tmp_path):
    x, y = images(500, seed=3), labels(500, seed=3)
    path = export_tflite(trained, tmp_path / "net.tflite").path
    (codes,) = forward_forms.codes_of_file(trained, path, x)
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    model.compile(metrics=["sparse_categorical_accuracy"], loss=sparse)
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["sparse_categorical_accuracy"] == np.float32(np.mean(codes.argmax(1) == y))


def test_inference_multiplies_codes_alone(trained, monkeypatch):
    factors = []
    for kind in {type(layer) for layer in weighted_layers(trained)}:
        plain = kind.multiply

        def look(layer, inputs, kernel, plain=plain):
            factors.extend([array(inputs), array(kernel)])
            return plain(layer, inputs, kernel)

        monkeypatch.setattr(kind, "multiply", look)
    trained(images(4), training=False)
    assert len(factors) >= 2 * len(weighted_layers(trained))
    for codes in factors:
        assert codes.dtype == np.float32
        np.testing.assert_array_equal(codes, np.rint(codes))
        assert np.abs(codes).max() <= 255
    assert any(isinstance(layer, DDQMatmul) and layer.grids for layer in trained.layers)


def test_the_benchmark_runs_on_a_few_images(shared_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("provenance.RESULTS", tmp_path)
    forward_forms.main(["--images=64", f"--models={shared_dir / 'models'}"])
    results = json.loads((tmp_path / "forward_forms.json").read_text())["results"]
    assert results["output_codes"] == 640
    assert {row["different"] for row in results["forms"].values()} == {0}
    assert results["evaluate_accuracy"] == pytest.approx(results["litert_accuracy"])
