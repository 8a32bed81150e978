"""Files for TFLite Micro in `ddq verify` and `ddq evaluate`, and where they are refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ddq_tf import cli, jobs
from ddq_tf.errors import DDQError
from ddq_tf.export import ModelMetadata, Runner, export_tflite, tflite, tflite_accuracy
from ddq_tf.export.interpreter import is_for_micro
from tests.export.graphs import small_network
from tests.jobs.conftest import OPTIONS

DATA = ("--data=digits", "--limit=64", "--batch_size=32")
needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)


@pytest.fixture(scope="module")
def micro(quantized: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real file for TFLite Micro."""
    path = tmp_path_factory.mktemp("micro") / "micro.tflite"
    export_tflite(quantized.model, path, target="tflm")
    assert is_for_micro(path.read_bytes())
    return str(path)


@pytest.fixture
def marked(tmp_path: Path) -> str:
    """A file that names the operator, as far as can be told without the package."""
    path = tmp_path / "marked.tflite"
    path.write_bytes(tflite.write(small_network()) + b"TFLM_DECODE\0")
    return str(path)


@needs_tflm
def test_verify_runs_tflite_micro(
    quantized: Any, micro: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "run.json"
    arguments = ["verify", str(quantized.path), micro, *DATA, f"--json={record}"]
    assert cli.run([*arguments, "--min_agreement=0.9"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "In TFLite Micro the file gives the trained model's answer" in printed
    assert "passed: all output codes those of the plain int8 file" in printed
    results = json.loads(record.read_text())["results"]
    assert (results["passed"], results["equals_plain"], results["num_samples"]) == (True, True, 64)


@needs_tflm
def test_verify_finds_another_models_file(
    quantized: Any, micro: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = jobs.load_ddq_model(quantized.path)
    kernel = model.get_layer("predictions").kernel
    kernel.assign(-kernel)
    jobs.save_model(model, tmp_path / "other.keras", {})
    assert cli.run(["verify", str(tmp_path / "other.keras"), micro, *DATA]) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "Not all output codes are those of the plain int8 file" in " ".join(printed.split())


@needs_tflm
def test_evaluate_runs_tflite_micro(
    quantized: Any, micro: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["evaluate", micro, *DATA]) == 0
    assert "TFLite Micro" in " ".join(capsys.readouterr().out.split())
    plain = tmp_path / "plain.tflite"
    export_tflite(quantized.model, plain, target="litert-int8")
    ours, other = (jobs.evaluate_file(path, OPTIONS) for path in (micro, plain))
    assert (ours.runtime, other.runtime) == ("TFLite Micro", "LiteRT")
    measured = [each.metrics["accuracy"] for each in (ours, other)]
    assert measured[0] == pytest.approx(measured[1], abs=0.05)  # the runtimes round apart
    assert measured[0] > 0.2


def test_any_metric_of_keras_on_files_and_models(
    quantized: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.tflite"
    export_tflite(quantized.model, path, target="litert-int8")
    names = "acc,sparse_top_k_categorical_accuracy,sparse_categorical_crossentropy"
    found = []
    for file in (path, quantized.path):
        record = tmp_path / f"{file.name}.json"
        flags = [f"--metrics={names}", f"--json={record}"]
        assert cli.run(["evaluate", str(file), *DATA, *flags]) == 0
        found.append(json.loads(record.read_text())["results"])
    assert "sparse top k categorical accuracy" in " ".join(capsys.readouterr().out.split())
    for name in ("accuracy", *names.split(",")[1:]):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-6), name
    assert found[0]["accuracy"] < found[0]["sparse_top_k_categorical_accuracy"] <= 1
    assert cli.run(["evaluate", str(path), *DATA, "--metrics=accuracy,top5"]) == 2
    assert "a metric must be Keras's, or its name. Received: 'top5'" in capsys.readouterr().err


def test_evaluate_takes_what_the_file_tells_of_pictures(
    quantized: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ModelMetadata(mean=(0.0,), std=(2.0,), channels="bgr", crop=0.5, resize="nearest")
    fields = {"channels": "bgr", "crop": 0.5, "resize": "nearest", "input_range": (0.0, 127.5)}
    export_tflite(quantized.model, tmp_path / "told.tflite", metadata=told)
    export_tflite(quantized.model, tmp_path / "bare.tflite")
    found = evaluated(tmp_path / "told.tflite", OPTIONS)
    by_file = "from the file's metadata"
    assert found.sources == dict.fromkeys(fields, by_file)
    assert {name: getattr(found, name) for name in fields} == fields
    # The same pictures, asked for by hand: not those of the file that tells nothing.
    by_hand = evaluated(tmp_path / "bare.tflite", dataclasses.replace(OPTIONS, **fields))
    assert set(by_hand.sources.values()) == {"as given"}
    bare = evaluated(tmp_path / "bare.tflite", OPTIONS)
    assert bare.sources["input_range"] == "as the file's input shows"
    assert {bare.sources[name] for name in ("channels", "crop", "resize")} == {"by default"}
    assert found.metrics == by_hand.metrics != bare.metrics
    arguments = ["evaluate", str(tmp_path / "told.tflite"), *DATA, "--channels=rgb"]
    assert cli.run(arguments) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"0 to 127.5, {by_file}" in printed
    assert f"0.5 of the centre ({by_file}), nearest ({by_file}), rgb (as given)" in printed


def evaluated(path: Path, options: jobs.DataOptions) -> jobs.Evaluation:
    return jobs.evaluate_file(path, options, metrics=["sparse_categorical_crossentropy"])


@needs_tflm
def test_files_for_tflite_micro_tell_it_too(quantized: Any, tmp_path: Path) -> None:
    told = ModelMetadata(labels=[*"0123456789"], crop=0.5)
    export_tflite(quantized.model, tmp_path / "told.tflite", target="tflm", metadata=told)
    found = evaluated(tmp_path / "told.tflite", OPTIONS)
    assert (found.crop, found.sources["crop"]) == (0.5, "from the file's metadata")


def test_a_normalization_that_cannot_be_is_refused(quantized: Any, tmp_path: Path) -> None:
    path = tmp_path / "told.tflite"
    export_tflite(quantized.model, path, metadata=ModelMetadata(mean=(1.0,), std=(-2.0,)))
    with pytest.raises(
        DDQError, match=r"metadata tell mean=\(1.0,\) and std=\(-2.0,\).*Give --inp"
    ):
        jobs.evaluate_file(path, OPTIONS)
    given = dataclasses.replace(OPTIONS, input_range=(0, 255))
    assert jobs.evaluate_file(path, given).input_range == (0, 255)


@pytest.mark.parametrize("command", ["verify", "evaluate"])
def test_the_missing_package_is_named(
    command: str,
    quantized: Any,
    marked: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    files = [str(quantized.path), marked] if command == "verify" else [marked]
    assert cli.run([command, *files, *DATA]) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert 'pip install "ddq_tf[tflm]"' in words
    assert "marked.tflite" in words


@pytest.mark.parametrize("command", ["benchmark", "report"])
def test_what_needs_litert_refuses(
    command: str, quantized: Any, marked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [marked] if command == "benchmark" else [str(quantized.path), f"--tflite={marked}"]
    assert cli.run([command, *files]) == 2
    words = " ".join(capsys.readouterr().err.split())
    assert "compressed for TFLite Micro" in words
    assert "`ddq verify` and `ddq evaluate` take it" in words


def test_litert_is_not_asked(marked: str) -> None:
    with pytest.raises(DDQError, match="TFLite Micro"):
        Runner(marked)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DDQError, match=r"absent\.tflite"):
        tflite_accuracy(tmp_path / "absent.tflite", [])
