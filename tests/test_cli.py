"""The `ddq` command, run in this process on tiny settings."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from ddq_tf import cli
from ddq_tf.commands import COMMANDS
from ddq_tf.export.exporter import min_runtime
from ddq_tf.latency import LatencyTable
from ddq_tf.report import load

_DATA = ("--data=digits", "--limit=128", "--batch_size=32")
_RECIPE = ("--epochs=2", "--learning_rate=0.01", "--augment=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with float.keras, ddq.keras and ddq.tflite, made by the commands."""
    made = tmp_path_factory.mktemp("cli")
    base, ddq = str(made / "float.keras"), str(made / "ddq.keras")
    train = ["train", *_DATA, *_RECIPE, "--model=resnet8", "--image_size=8", f"--out={base}"]
    tune = ["quantize", base, *_DATA, *_RECIPE, "--target=litert-compact", "--budget=0.7"]
    assert cli.run([*train, f"--json={made / 'train.json'}", "--seed=3"]) == 0
    assert cli.run([*tune, f"--out={ddq}", f"--json={made / 'quantize.json'}"]) == 0
    assert cli.run(["export", ddq, f"--out={made / 'ddq.tflite'}"]) == 0
    return made


def test_the_run_is_recorded(folder: Path) -> None:
    run = json.loads((folder / "train.json").read_text())
    assert run["command"][:2] == ["ddq", "train"]
    assert run["seed"] == 3
    assert run["wall_s"] > 0
    assert set(run) >= {"versions", "machine", "git_commit"}
    assert run["machine"]["cores"] >= 1
    assert 0 <= run["results"]["accuracy"]["test"] <= 1
    assert run["results"]["input_range"] == [0.0, 255.0]
    tuned = json.loads((folder / "quantize.json").read_text())["results"]
    assert tuned["average_bits"] <= 5.6
    assert set(tuned["bits"].values()) <= {4, 8}
    assert tuned["input_range"] == [0.0, 255.0]  # float.keras carries it


def test_reconstruct(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, run = tmp_path / "ddq.keras", tmp_path / "run.json"
    few = ["--steps=3", "--search_views=1", "--budget=0.8", "--target=litert-compact"]
    base = str(folder / "float.keras")
    assert cli.run(["reconstruct", base, *_DATA, *few, f"--out={made}", f"--json={run}"]) == 0
    assert "held-out images have" in capsys.readouterr().out
    assert json.loads(run.read_text())["results"]["average_bits"] <= 6.4
    assert cli.run(["export", str(made), f"--out={tmp_path / 'ddq.tflite'}"]) == 0


def test_nothing_else_is_left(folder: Path) -> None:
    made = {"float.keras", "ddq.keras", "ddq.history.json", "ddq.tflite"}
    assert {p.name for p in folder.iterdir() if "report" not in p.name} >= made
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_verify_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / "ddq.keras"), str(folder / "ddq.tflite")]
    out = folder / "verify.json"
    assert cli.run(["verify", *files, *_DATA, "--min_agreement=0.9", f"--json={out}"]) == 0
    assert "exactly the weight codes" in capsys.readouterr().out
    assert json.loads(out.read_text())["results"]["passed"] is True
    noted = folder / "noted.json"  # on the data that the model's file notes
    assert cli.run(["verify", *files, *_DATA[1:], "--min_agreement=0.9", f"--json={noted}"]) == 0
    assert json.loads(noted.read_text())["results"] == json.loads(out.read_text())["results"]


def test_verify_fails_on_a_file_with_another_weight(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ddq_tf import jobs

    model = jobs.load_ddq_model(folder / "ddq.keras")
    kernel = model.get_layer("predictions").kernel
    kernel.assign(-np.asarray(kernel))
    jobs.save_model(model, tmp_path / "other.keras", {})
    files = [str(tmp_path / "other.keras"), str(folder / "ddq.tflite")]
    assert cli.run(["verify", *files, *_DATA]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert cli.run(["verify", *files]) == 2
    assert "notes none" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["float.keras", "ddq.keras", "ddq.tflite"])
def test_evaluate(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", str(folder / name), *_DATA]) == 0
    printed = capsys.readouterr().out
    assert "128 images" in printed
    assert "0 to 255" in printed


def test_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "report.html"
    base = [f"--float={folder / 'float.keras'}", f"--tflite={folder / 'ddq.tflite'}"]
    assert cli.run(["report", str(folder / "ddq.keras"), *base, *_DATA, f"--out={out}"]) == 0
    assert "stock int8" in capsys.readouterr().out
    report = load(folder / "report.json")
    assert [v.label for v in report.variants][:2] == ["float", "stock int8"]
    assert all(variant.accuracy is not None for variant in report.variants)
    assert report.agreement is not None
    assert report.agreement.weight_codes_identical
    assert len(report.history["loss"]) == 2
    assert out.read_text().startswith("<!doctype html>")
    assert report.min_runtime == "LiteRT 1.3.0"
    assert "LiteRT 1.3.0 or later" in out.read_text()
    above = sum(report.above_floor_bytes.values())
    assert report.floor_bytes + above == (folder / "ddq.tflite").stat().st_size
    assert f"above the {report.floor_bytes:,} that weight codes" in out.read_text()


def test_export_says_what_the_file_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out, record = (tmp_path / name for name in ("labels.txt", "a.tflite", "a.json"))
    labels.write_text("".join(f"digit {digit}\n" for digit in range(10)))
    wanted = [f"--labels={labels}", "--input_range=0,255", f"--json={record}"]
    assert cli.run(["export", str(folder / "ddq.keras"), f"--out={out}", *wanted]) == 0
    printed = capsys.readouterr().out
    assert "LiteRT 1.3.0 or later" in printed
    results = json.loads(record.read_text())["results"]
    above = sum(results["above_floor_bytes"].values())
    assert results["floor_bytes"] + above == out.stat().st_size
    assert f"{above:,} bytes" in printed
    assert results["min_runtime"] == min_runtime(out.read_bytes()) == "1.3.0"
    with zipfile.ZipFile(out) as archive:
        assert archive.read("labels.txt") == labels.read_bytes()


def test_export_puts_the_file_into_an_app(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out, app = (tmp_path / name for name in ("labels.txt", "a.tflite", "app_project"))
    labels.write_text("".join(f"digit {digit}\n" for digit in range(10)))
    assets = app / "app" / "src" / "main" / "assets"
    assets.mkdir(parents=True)
    wanted = [f"--labels={labels}", f"--android={app}"]  # the range is noted in ddq.keras
    assert cli.run(["export", str(folder / "ddq.keras"), f"--out={out}", *wanted]) == 0
    assert (assets / "model.tflite").read_bytes() == out.read_bytes()
    assert "asset" in capsys.readouterr().out


def test_benchmark_profiles_operators(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, record = str(folder / "ddq.tflite"), tmp_path / "times.json"
    assert cli.run(["benchmark", file, "--runs=3", "--profile", f"--json={record}"]) == 0
    assert "CONV_2D INT4" in capsys.readouterr().out
    results = json.loads(record.read_text())["results"]
    (row,) = results["rows"]
    assert row["ratio"] == 1
    assert row["runs"] == 3
    kinds = [time["kind"] for time in results["profile"][file]]
    assert kinds[0] == "CONV_2D"
    assert kinds.count("ADD") == 3


def test_a_table_of_times_goes_from_benchmark_to_the_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, ddq, table = str(folder / "float.keras"), tmp_path / "ddq.keras", tmp_path / "table.json"
    compact = "--target=litert-compact"
    timed = ["benchmark", base, f"--table={table}", "--runs=3", compact]
    assert cli.run(timed) == 0
    printed = capsys.readouterr().out
    assert "CONV_2D 8x8, weights 16x3x3x3" in printed
    assert "for entering and leaving the runtime" in printed
    # The rows of the file are those of the model that it was made from.
    assert cli.run(["benchmark", str(folder / "ddq.tflite"), *timed[2:]]) == 0
    shapes = {row.shape for row in LatencyTable.load(table).rows}
    assert cli.run(timed) == 0
    assert {row.shape for row in LatencyTable.load(table).rows} <= shapes
    few = ["--limit=64", "--search_views=1", "--views=1", "--steps=0"]
    limits = [f"--latency_table={table}", "--latency_budget=1.0x"]
    made = ["reconstruct", base, "--data=digits", *few, compact, *limits, f"--out={ddq}"]
    capsys.readouterr()
    assert cli.run(made) == 0
    assert "us predicted (1.000 x of INT8's " in " ".join(capsys.readouterr().out.split())
    out, record = tmp_path / "ddq.tflite", tmp_path / "export.json"
    assert cli.run(["export", str(ddq), f"--out={out}", f"--json={record}"]) == 0
    told = json.loads(record.read_text())["results"]
    assert 0 <= told["predicted_us"] <= told["predicted_int8_us"]
    assert told["measured_us"] > 0
    assert "us predicted for operators with weights" in " ".join(capsys.readouterr().out.split())


def test_report_without_data_tells_sizes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sizes.html"
    assert cli.run(["report", str(folder / "ddq.keras"), f"--out={out}"]) == 0
    report = load(out.with_suffix(".json"))
    assert report.result is not None
    assert report.result.size_bytes == (folder / "ddq.tflite").stat().st_size


def _foreign(tmp_path: Path) -> dict[str, str]:
    """Files that are not what their names say."""
    (tmp_path / "half.keras").write_bytes(b"PK\x03\x04")
    (tmp_path / "none.tflite").write_bytes(b"not a model at all")
    image = keras.Input((8, 8, 3))
    x = keras.layers.LayerNormalization(axis=1, name="odd")(image)
    x = keras.layers.Dense(10)(keras.layers.Flatten()(x))
    keras.Model(image, x).save(tmp_path / "odd.keras")
    return {p.stem: str(p) for p in tmp_path.iterdir()}


_BAD = {
    "no such command": (["trian"], "Did you mean train?"),
    "unknown flag": (["train", "--epoch=3"], "Did you mean --epochs?"),
    "flag of another command": (["evaluate", "{float}", "--budget=1"], "unknown flag --budget"),
    "missing flag": (["train", "--data=digits"], "--out must be given"),
    "missing argument": (["export", "--out={out}.tflite"], "give DDQ.keras"),
    "not a number": (["train", "--epochs=x"], "--epochs=x"),
    "beyond any number": (["evaluate", "{float}", "--batch_size=99999999999999999999"], "99999"),
    "range of one": (["evaluate", "{float}", "--input_range=1"], "two numbers"),
    "missing file": (["quantize", "{out}x.keras", "{data}", "--out={out}.keras"], "not exist"),
    "table and profile": (
        ["benchmark", "{float}", "--table={out}.json", "--profile"],
        "Leave them out",
    ),
    "table of built-in kernels": (
        ["deploy", "{float}", "--table={out}.json", "--nouse_xnnpack"],
        "Leave it out",
    ),
    "no table": (
        ["quantize", "{float}", "{data}", "--latency_budget=1", "--out={out}.keras"],
        "needs latency_table",
    ),
    "a table of times": (
        ["quantize", "{float}", "{data}", "--latency_table={none}", "--out={out}.keras"],
        "cannot read the latency table",
    ),
    "truncated": (["quantize", "{half}", "{data}", "--out={out}.keras"], "half.keras"),
    "no tflite": (["evaluate", "{none}", "--data=digits"], "none.tflite"),
    "float to export": (["export", "{float}", "--out={out}.tflite"], "float model"),
    "unknown data": (["quantize", "{float}", "--data=foo", "--out={out}.keras"], "'foo'"),
    "impossible budget": (
        ["quantize", "{float}", "{data}", "--budget=0.1", "--out={out}.keras"],
        "impossible",
    ),
    "unreadable budget": (
        ["quantize", "{float}", "{data}", "--budget=few", "--out={out}.keras"],
        "'few'",
    ),
    "unsupported layer": (["quantize", "{odd}", "{data}", "--out={out}.keras"], "'odd'"),
    "wrong suffix": (["export", "{ddq}", "--out={out}.bin"], ".tflite"),
    "no Android project": (
        ["export", "{ddq}", "--out={out}.tflite", "--android={out}"],
        "app/src/main/assets in it",
    ),
    "stream without states": (
        ["export", "{ddq}", "--out={out}.tflite", "--streaming"],
        "needs a recurrent layer",
    ),
    "stream for an app": (
        ["export", "{ddq}", "--out={out}.tflite", "--streaming", "--android={app}"],
        "Leave one of the two out",
    ),
    "app without labels": (
        ["export", "{ddq}", "--out={out}.tflite", "--android={app}"],
        "--labels=FILE must name",
    ),
    "numbers out of their range": (
        ["quantize", "{float}", "{data}", "--out={out}.keras", "--epochs=0", "--distill=2"],
        "--epochs must lie in [1, inf). Received: epochs=0; --distill must lie in [0, 1]",
    ),
    "settings that contradict": (
        ["quantize", "{float}", "{data}", "--out={out}.keras", "--levels=free"],
        "stores uniform codes",
    ),
    "folder for json": (["export", "{ddq}", "--out={out}.tflite", "--json=/no/a"], "--json"),
    "file of another kind": (["verify", "{ddq}", "{float}", "{data}"], "float.keras"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_one_clear_message(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = _BAD[case]
    foreign = _foreign(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    names = {
        **foreign,
        "out": str(tmp_path / "made"),
        "float": str(folder / "float.keras"),
        "ddq": str(folder / "ddq.keras"),
        "data": "--data=digits",
        "app": str(Path(__file__).parents[1] / "examples" / "android"),
    }
    assert cli.run([argument.format(**names) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.startswith("ddq")
    assert "Traceback" not in captured.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_interruption(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddq_tf.jobs.evaluate_file", interrupt)
    assert cli.run(["evaluate", str(folder / "float.keras"), "--data=digits"]) == 130


def test_a_bug_shows_its_trace(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("ddq_tf.jobs.evaluate_file", fail)
    assert cli.run(["evaluate", str(folder / "float.keras"), "--data=digits"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_and_fits(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"ddq {name} " in printed.split("Example:")[1]
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name: str) -> None:
    command = COMMANDS[name]
    flags, _ = command.parse(command.example.split()[2:])
    assert len(command.made(flags)) == len(command.settings)


def test_help_needs_no_tensorflow() -> None:
    script = (
        "import sys; from ddq_tf import cli; code = cli.run(['train', '--help']); "
        "sys.exit(code or any(m in sys.modules for m in ('tensorflow', 'keras', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert done.returncode == 0


def test_the_models_listed_are_those_there_are() -> None:
    from ddq_tf import models

    flag = next(f for f in COMMANDS["train"].flags if f.name == "model")
    assert flag.shown.split("|") == sorted(models.MODELS)


@pytest.mark.slow
def test_the_demo(tmp_path: Path) -> None:
    assert cli.run(["demo", f"--out={tmp_path}"]) == 0
    report = load(tmp_path / "report.json")
    accuracies = {variant.label: variant.accuracy or 0 for variant in report.variants}
    assert accuracies["float"] >= 0.97
    assert accuracies["DDQ (LiteRT)"] >= accuracies["float"] - 0.02
    assert report.agreement is not None
    assert report.agreement.weight_codes_identical


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from ddq_tf.cli import run; sys.exit(run(['evaluate', '--help']))"
    command = f'{sys.executable} -c "{code}" | head -1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    assert done.stderr == ""
