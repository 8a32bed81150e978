"""The script for GPUs, on the CPU and with a tiny network."""

import json

import accelerator
import keras

from tests.toys import mixed_net


def tiny(size, alpha, policy="float32"):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((size, size, 3))
    outputs = mixed_net()(keras.layers.AveragePooling2D(size // 8)(inputs))
    keras.config.set_dtype_policy(before)
    return keras.Model(inputs, keras.layers.Dense(10)(outputs))


def test_steps_are_measured_and_codes_are_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("provenance.RESULTS", tmp_path)
    monkeypatch.setattr("step_time.has_peer", lambda: False)
    monkeypatch.setitem(
        accelerator.step_time.VARIANTS, "uniform", {"target": "litert-int8", "budget": 0.7}
    )
    monkeypatch.setattr(accelerator, "network", tiny)
    accelerator.main(["--sizes=32", "--batch=4", "--steps=2", "--variants=float,uniform"])
    results = json.loads((tmp_path / "accelerator.json").read_text())["results"]
    assert results["devices"]
    assert list(results["sizes"]) == ["32"]
    for found in results["sizes"].values():
        assert set(found["variants"]) == {"float", "uniform", "float_mixed_bfloat16"}
        assert found["variants"]["float"]["ratio_to_float"] == 1
        assert all(row["median_step_s"] > 0 for row in found["variants"].values())
        assert found["codes"]["output_codes"] == 320
        assert found["codes"]["distinct"] > 10
        forms = {form: row["different"] for form, row in found["codes"]["forms"].items()}
        assert forms == {"eager": 0, "graph": 0, "xla": 0}
