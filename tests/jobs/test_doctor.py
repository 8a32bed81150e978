"""The diagnosis of a float model: sizes against counts by hand, troubles by name."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from rich.console import Console

from ddq_tf import DDQConfig, DDQError, cli, jobs, quantize_model
from ddq_tf.commands import COMMANDS
from ddq_tf.export import delegation, export_tflite
from ddq_tf.layers import weighted_layers
from ddq_tf.report import diagnosis_text
from ddq_tf.report.diagnosis import Diagnosis, Quantizable
from ddq_tf.targets import TARGETS
from tests.toys import images, mixed_net, shake

K = keras.layers

# Weights of `mixed_net`: a convolution, two pointwise ones and a dense layer.
_CONV, _NARROW = 3 * 3 * 3 * 8, 8 * 16 + 16 * 8 + 8 * 4


def _found(model: Any, **options: Any) -> Quantizable:
    diagnosis = jobs.diagnose(model, **options)
    assert diagnosis.can_be_quantized
    assert diagnosis.quantized is not None
    return diagnosis.quantized


def _printed(diagnosis: Diagnosis, width: int = 80) -> str:
    file = io.StringIO()
    diagnosis_text.render(diagnosis, Console(file=file, width=width))
    return file.getvalue()


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def _kept(model: keras.Model, path: Path) -> str:
    model.save(path)
    return str(path)


_BYTES = {
    "litert": [_CONV + _NARROW, _CONV + _NARROW // 2, _CONV + _NARROW // 4],
    "litert-compact": [
        _CONV + _NARROW,
        (_CONV + _NARROW) // 2,
        _CONV // 2 + _NARROW // 4,
    ],
    "litert-int8": [_CONV + _NARROW, (_CONV + _NARROW) // 2, (_CONV + _NARROW) // 4],
}


@pytest.mark.parametrize("target", _BYTES)
def test_sizes_are_those_counted_by_hand(target: str) -> None:
    found = _found(mixed_net(), target=target)
    assert [size.bits for size in found.sizes] == [8, 4, 2]
    assert [size.weights_bytes for size in found.sizes] == _BYTES[target]
    asked = [bool(size.on_request) for size in found.sizes]
    assert asked == [False, False, target == "litert"]  # which learns 2 bits on request
    assert found.least_bytes == _BYTES[target][asked.index(True) - 1 if any(asked) else -1]
    assert found.auto_bytes == max(int(0.6 * (_CONV + _NARROW)), found.least_bytes)
    assert found.num_weights == _CONV + _NARROW


@pytest.mark.parametrize("target", TARGETS)
def test_the_least_budget_is_the_least_that_is_taken(target: str) -> None:
    model, data = mixed_net(), images(8)
    least = _found(model, target=target).least_bytes
    taken = quantize_model(model, DDQConfig(target=target, budget=f"{least}bytes"), data)
    assert np.ceil(taken.weight_budget.least_bits / 8) == least
    with pytest.raises(DDQError, match="impossible"):
        quantize_model(model, DDQConfig(target=target, budget=f"{least - 1}bytes"), data)


@pytest.mark.parametrize("target", TARGETS)
def test_the_file_is_about_as_large_as_told(target: str, tmp_path: Path) -> None:
    if target == "tflm":
        pytest.importorskip("tflite_micro", reason="the extra tflm is not installed")
    model = shake(mixed_net())
    found = _found(model, target=target)
    precisions = (2, 4, 8) if TARGETS[target].on_request else None
    config = DDQConfig(target=target, precisions=precisions, budget=None)
    quantized = quantize_model(model, config, images(8))
    told = [found.sizes[0].file_bytes, found.sizes[-1].file_bytes]
    assert found.draft is not None, found.no_draft
    for size, lowest in zip(told, (False, True), strict=True):
        for layer in weighted_layers(quantized):
            layer.quantizer.choose(0 if lowest else len(layer.quantizer.precisions) - 1)
        made = export_tflite(quantized, tmp_path / "a.tflite")
        assert size == pytest.approx(made.size_bytes, rel=0.1)


def test_what_other_targets_store() -> None:
    found = _found(mixed_net())
    assert set(found.elsewhere) == set(TARGETS) - {"litert"}
    assert found.elsewhere["litert-compact"] == _BYTES["litert-compact"][-1]
    assert found.elsewhere["litert-int8"] == _CONV + _NARROW


def test_which_layers_keep_more_bits_and_why() -> None:
    (limit,) = _found(mixed_net()).limits
    assert limit.layers == ("conv",)
    assert (limit.bits, limit.num_weights) == (8, _CONV)
    assert "litert stores a convolution in 8 bits" in limit.reason
    odd = keras.Sequential([keras.Input((5,)), K.Dense(8, name="odd"), K.Dense(4)])
    (limit,) = _found(odd).limits
    assert limit.layers == ("odd",)
    assert limit.reason.startswith("5 inputs")


def test_macs_by_hand() -> None:
    # 4 x 4 positions after the stride of 2; the dense layer has one.
    assert _found(mixed_net()).macs == 16 * (_CONV + 8 * 16 + 16 * 8) + 8 * 4
    inputs = keras.Input((4, 4, 3))
    twice = K.Conv2D(3, 3, padding="same")
    up = K.Conv2DTranspose(2, 2, strides=2)(twice(twice(inputs)))
    expected = 2 * 16 * 9 * 3 * 3 + 16 * 2 * 2 * 3 * 2
    diagnosis = jobs.diagnose(keras.Model(inputs, up))
    assert diagnosis.quantized is not None
    assert diagnosis.quantized.macs == expected
    assert diagnosis.shared == (twice.name,)


def test_what_runs_outside_xnnpack_is_what_the_file_shows(tmp_path: Path) -> None:
    model = shake(mixed_net())
    probable = keras.Model(model.input, K.Softmax()(K.Activation("gelu")(model.output)))
    draft = _found(probable, target="litert-int8").draft
    assert draft is not None
    assert draft.undelegated == {"GELU": 1, "SOFTMAX": 1}
    quantized = quantize_model(probable, DDQConfig(target="litert-int8"), images(8))
    taken = delegation(export_tflite(quantized, tmp_path / "a.tflite").path.read_bytes())
    assert (draft.partitions, draft.total_ops) == (taken.partitions, taken.total_ops)
    assert sum(draft.undelegated.values()) == len(taken.undelegated)
    assert _found(model, target="litert-compact").draft.slow_when_narrow == ("conv",)  # type: ignore[union-attr]


def test_structure_is_told() -> None:
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), K.SeparableConv2D(4, 3), K.BatchNormalization()], name="inner"
    )
    inputs = keras.Input((8, 8, 3), name="picture")
    x = inner(inputs)
    x = K.Dense(5, activation="sigmoid", name="head")(K.Flatten()(x * 0.5 + x))
    model = keras.Model(inputs, x)
    model.get_layer("head").trainable = False
    diagnosis = jobs.diagnose(model)
    assert diagnosis.nested == ("inner",)
    assert diagnosis.frozen == ("head",)
    assert diagnosis.operations == {"Multiply": 1, "Add": 1}
    assert diagnosis.quantized is not None
    assert diagnosis.quantized.rewritten == {"SeparableConv2D": "DepthwiseConv2D and Conv2D"}
    assert diagnosis.quantized.folded == 1
    assert diagnosis.inputs[0].shape == (None, 8, 8, 3)
    assert diagnosis.outputs[0].words == "probabilities (sigmoid)"
    assert jobs.diagnose(mixed_net()).outputs[0].words.startswith("logits")


def test_every_layer_without_a_form_is_named() -> None:
    inputs = x = keras.Input((20, 8))
    for number in range(6):
        x = K.LayerNormalization(axis=1, name=f"sum_{number}")(x)
    x = K.AdditiveAttention(name="attention")([x, x])
    x = K.ConvLSTM1D(3, 1, return_sequences=True, name="cell")(K.Reshape((4, 5, 8))(x))
    x = K.Dense(3)(K.ConvLSTM2D(3, 1, name="memory")(K.Reshape((4, 5, 1, 3))(x)))
    diagnosis = jobs.diagnose(keras.Model(inputs, x))
    assert not diagnosis.can_be_quantized
    assert diagnosis.quantized is None
    named = {trouble.kind: trouble.layers for trouble in diagnosis.troubles}
    assert named == {
        "LayerNormalization": tuple(f"sum_{number}" for number in range(6)),
        "AdditiveAttention": ("attention",),
        "ConvLSTM1D": ("cell",),
        "ConvLSTM2D": ("memory",),
    }
    text = _unwrapped(_printed(diagnosis))
    assert "6 layers, 'sum_0', 'sum_1', 'sum_2', 'sum_3' and 2 more" in text
    assert text.count("in the place of recurrence") == 1  # for both together


def _broken() -> keras.Model:
    model = mixed_net()
    for name in ("conv", "logits"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.full(kernel.shape, np.nan))
    return model


class _Subclassed(keras.Model):
    def call(self, inputs: Any) -> Any:
        return inputs


_TROUBLES = {
    "NaN": (_broken, "NaN or infinite"),
    "open size": (
        lambda: keras.Sequential([keras.Input((None, None, 3)), K.Conv2D(2, 1)]),
        "fixed size",
    ),
    "unbuilt": (lambda: keras.Sequential([K.Dense(2)]), "not built"),
    "subclassed": (_Subclassed, "never called"),
    "no kernel": (lambda: keras.Sequential([keras.Input((4,)), K.ReLU()]), "no convolution"),
}


@pytest.mark.parametrize("case", _TROUBLES)
def test_other_troubles_are_those_of_quantize_model(case: str) -> None:
    make, words = _TROUBLES[case]
    diagnosis = jobs.diagnose(make())
    assert not diagnosis.can_be_quantized
    assert words in _printed(diagnosis, 300)
    with pytest.raises(DDQError, match=words):
        quantize_model(make(), None, images(8))


def test_nan_is_told_of_each_layer() -> None:
    assert [trouble.layers for trouble in jobs.diagnose(_broken()).troubles] == [
        ("conv",),
        ("logits",),
    ]


def test_the_model_stays_as_it_is() -> None:
    model = shake(mixed_net())
    before = [np.array(value) for value in model.get_weights()]
    times = _found(model, measure=True).times
    assert times is not None
    assert min(times.float_s, times.ddq_s) > 0
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not model.compiled


def _without_times(diagnosis: Diagnosis) -> Diagnosis:
    """A diagnosis without what a clock has measured."""
    assert diagnosis.quantized is not None
    assert diagnosis.quantized.cost is not None
    cost = dataclasses.replace(diagnosis.quantized.cost, step_s=0.0)
    quantized = dataclasses.replace(diagnosis.quantized, cost=cost)
    return dataclasses.replace(diagnosis, quantized=quantized)


def test_half_precision_elsewhere_does_not_matter() -> None:
    model = mixed_net()
    expected = _without_times(jobs.diagnose(model))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert _without_times(jobs.diagnose(model)) == expected
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")


def test_several_inputs_go_to_python() -> None:
    ports = {name: keras.Input((6,), name=name) for name in ("left", "right")}
    x = K.Dense(4)(K.Concatenate()(list(ports.values())))
    diagnosis = jobs.diagnose(keras.Model(ports, {"a": x, "b": K.ReLU()(x)}), measure=True)
    assert diagnosis.can_be_quantized
    assert [port.name for port in diagnosis.inputs] == ["left", "right"]
    assert [port.name for port in diagnosis.outputs] == ["a", "b"]
    assert diagnosis.range_from == ""
    assert diagnosis.commands[0].startswith("ddq_tf.quantize_model(")


@pytest.mark.parametrize("width", [80, 120])
def test_text_fits_but_for_commands(width: int) -> None:
    text, commands = _printed(jobs.diagnose(mixed_net()), width).split("Next:")
    assert max(map(len, text.splitlines())) <= width
    assert "quantize_model(" in commands


def test_the_range_and_the_next_commands(tmp_path: Path) -> None:
    file = _kept(mixed_net(), tmp_path / "my net.keras")
    unknown = jobs.diagnose(file)
    assert unknown.input_range is None
    assert all("--input_range=LOW,HIGH" in command for command in unknown.commands)
    jobs.save_model(mixed_net(), file, {"input_range": (0.0, 1.0)})
    diagnosis = jobs.diagnose(file, target="tflm")
    assert diagnosis.input_range == ((0.0,), (1.0,))
    assert diagnosis.range_from == "noted in the file"
    names = []
    for command in diagnosis.commands:
        _, name, *rest = shlex.split(command, comments=True)
        flags, files = COMMANDS[name].parse(rest)
        assert files == [file]
        assert flags["target"] == "tflm"
        names.append(name)
    assert names == ["reconstruct", "quantize"]


def test_a_range_that_keras_publishes() -> None:
    build: Any = keras.applications.MobileNetV2
    network = build((32, 32, 3), 0.35, weights=None, classes=4)
    diagnosis = jobs.diagnose(network)
    assert diagnosis.input_range == ((-1.0,), (1.0,))
    assert diagnosis.channels == "rgb"
    assert diagnosis.range_from == "keras.applications"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, record = _kept(mixed_net(), tmp_path / "a.keras"), tmp_path / "a.json"
    assert cli.run(["doctor", file, f"--json={record}"]) == 0
    printed = capsys.readouterr().out
    assert "(mixed) can be quantized" in _unwrapped(printed)
    assert "ddq quantize" in printed.splitlines()[-1]
    results = json.loads(record.read_text())["results"]
    assert results["quantized"]["least_bytes"] == _BYTES["litert"][1]
    assert results["troubles"] == []
    bad = keras.Sequential(
        [keras.Input((4, 8)), K.Dense(4), K.LayerNormalization(axis=1, name="odd")]
    )
    file = _kept(bad, tmp_path / "bad.keras")
    assert cli.run(["doctor", file, f"--json={record}"]) == 1
    printed = capsys.readouterr().out
    assert "cannot be quantized" in _unwrapped(printed)
    assert "ddq doctor" in printed.splitlines()[-1]
    assert json.loads(record.read_text())["results"]["troubles"][0]["layers"] == ["odd"]


def test_other_files_are_refused_with_what_to_use(
    quantized: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = export_tflite(quantized.model, tmp_path / "a.tflite")
    for path, words in (
        (quantized.path, "ddq report"),
        (made.path, "ddq verify"),
        (tmp_path / "no.tflite", "not exist"),
    ):
        assert cli.run(["doctor", str(path)]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(DDQError, match="quantized already"):
        jobs.diagnose(quantized.model)
