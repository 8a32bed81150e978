"""The folder of `ddq web`: what is written, what is refused, where the runtime comes from."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import shutil
import tarfile

import keras
import numpy as np
import pytest

import ddq_tf
from ddq_tf import cli, web
from ddq_tf.errors import DDQError
from ddq_tf.export import ModelMetadata, Runner, export_tflite, tflite
from ddq_tf.export.ir import DType
from ddq_tf.web import runtime as litert_js
from ddq_tf.web.model_file import output_activation
from tests.export.graphs import Builder, small_network

LABELS = ("cat", "dog", "été", "bird", "none of these")
RUNTIME = {"litert.js": b"script"}


def make(folder, content, **more):
    options = {"name": "net", "preprocessing": web.Preprocessing(), "runtime": lambda: RUNTIME}
    return web.make_folder(folder, content, **{**options, **more})


def described(folder):
    return json.loads((folder / web.MADE_BY).read_text())


def network(*, metadata=None, activation=None, file, **types):
    """Exports a small network."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, activation=activation)(x))
    data = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 3)).astype(np.float32)
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(budget=None), data)
    return export_tflite(q, file, metadata=metadata, **types).path.read_bytes()


def test_the_folder_holds_page_model_and_runtime(tmp_path):
    content = tflite.write(small_network())
    told = make(tmp_path / "site", content)
    names = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*.*")}
    assert names == {
        *("index.html", "page.css", "page.js", "pixels.js", "model.js"),
        *("ddq_web.json", "model.tflite", "runtime/litert.js", "runtime/NOTICE.txt"),
    }
    assert (tmp_path / "site" / "model.tflite").read_bytes() == content
    assert described(tmp_path / "site") == told
    assert told["labels"] == []
    assert told["output"]["classes"] == 5
    assert "Apache" in (tmp_path / "site" / "runtime" / "NOTICE.txt").read_text()


def test_an_earlier_folder_is_replaced_and_another_refused(tmp_path):
    content = tflite.write(small_network())
    make(tmp_path / "site", content, name="one")
    (tmp_path / "site" / "left.txt").write_text("")
    make(tmp_path / "site", content, name="two")
    assert described(tmp_path / "site")["name"] == "two"
    assert not (tmp_path / "site" / "left.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(DDQError, match=r"must be new or empty.*other things"):
        make(tmp_path / "other", content)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_table_tells_what_each_pixel_becomes(tmp_path, reverse):
    content = tflite.write(small_network())
    rule = web.Preprocessing(low=(-0.5, -1.0, 0.0), high=2.0, channels="bgr" if reverse else "rgb")
    table = np.array(make(tmp_path / "s", content, preprocessing=rule)["input"]["codes"])
    info = Runner(content).input
    for channel, low in enumerate((-0.5, -1.0, 0.0)):
        for pixel in (0, 1, 77, 254, 255):
            step = np.float32((2.0 - low) / 255)
            value = np.float32(np.float32(pixel) * step) + np.float32(low)
            assert table[channel, pixel] == info.quantize(np.array(value))


@pytest.mark.parametrize("output_type", ["int8", "float32"])
@pytest.mark.parametrize(
    ("activation", "expected"), [(None, "none"), ("softmax", "softmax"), ("sigmoid", "sigmoid")]
)
def test_what_the_outputs_mean(tmp_path, activation, expected, output_type):
    file = tmp_path / "net.tflite"
    content = network(activation=activation, file=file, output_type=output_type)
    assert output_activation(content) == expected


def two_inputs():
    make_ = Builder()
    images = [make_.tensor((-1, 8, 8, 3), scale=0.02) for _ in range(2)]
    added = make_.op("ADD", images, (-1, 8, 8, 3), 0.04)
    mean = make_.op("MEAN", (added, make_.indices([1, 2])), (-1, 3), 0.04, keep_dims=False)
    return make_.graph({"a": images[0], "b": images[1]}, {"y": mean})


def vectors():
    make_ = Builder()
    x = make_.tensor((-1, 6), scale=0.02)
    return make_.graph({"x": x}, {"y": make_.weighted("FULLY_CONNECTED", x, (4, 6), (-1, 4))})


def map_output():
    make_ = Builder()
    x = make_.tensor((-1, 8, 8, 3), scale=0.02)
    same = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
    y = make_.weighted("CONV_2D", x, (4, 1, 1, 3), (-1, 8, 8, 4), **same)
    return make_.graph({"x": x}, {"y": y})


@pytest.mark.parametrize(
    ("graph", "words"),
    [(two_inputs, "one input"), (vectors, "an image"), (map_output, "one output")],
)
def test_files_that_the_page_cannot_run_are_refused(tmp_path, graph, words):
    with pytest.raises(DDQError, match=words):
        make(tmp_path / "site", tflite.write(graph()))
    assert not (tmp_path / "site").exists()


def test_other_bad_input_is_refused_before_the_runtime_is_asked_for(tmp_path):
    def never():
        raise AssertionError

    content = tflite.write(small_network(DType.INT8, 127))
    with pytest.raises(DDQError, match=r"5 labels are needed.*Received: 2"):
        make(tmp_path / "site", content, labels=("a", "b"), runtime=never)
    with pytest.raises(DDQError, match="TFLite Micro"):
        make(tmp_path / "site", b"TFLM_DECODE\0", runtime=never)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A package of our own in place of LiteRT.js: {name: content}, and its archive."""
    files = {name: f"content of {name}".encode() for name in litert_js._FILES}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/wasm/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(litert_js, "_FILES", hashes)
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    monkeypatch.setattr(litert_js, "_INTEGRITY", f"sha512-{digest}")
    return files, packed.getvalue()


def write_all(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "place", [".", "wasm", "runtime", "package/wasm", "node_modules/@litertjs/core/wasm"]
)
def test_the_runtime_is_found_in_a_folder(published, tmp_path, place):
    write_all(tmp_path / "given" / place, published[0])
    assert litert_js.find_runtime(tmp_path / "given") == published[0]


def test_the_runtime_is_found_in_npms_archive_and_checked(published, tmp_path):
    archive = tmp_path / f"litertjs-core-{web.VERSION}.tgz"
    archive.write_bytes(published[1])
    assert litert_js.find_runtime(tmp_path) == published[0]
    archive.write_bytes(published[1][:-1])
    with pytest.raises(DDQError, match=r"must have the hash sha512-.*Received: sha512-"):
        litert_js.find_runtime(tmp_path)


def test_changed_or_missing_files_are_named(published, tmp_path):
    write_all(tmp_path / "given", published[0])
    name = next(iter(published[0]))
    (tmp_path / "given" / name).write_bytes(b"other")
    with pytest.raises(DDQError, match=rf"byte by byte.*{name}.*npm pack"):
        litert_js.find_runtime(tmp_path / "given")
    (tmp_path / "given" / name).unlink()
    with pytest.raises(DDQError, match="must hold"):
        litert_js.find_runtime(tmp_path / "given")
    with pytest.raises(DDQError, match="must be a folder"):
        litert_js.find_runtime(tmp_path / "absent")


@pytest.mark.parametrize("npm", [False, True])
def test_without_a_network_nothing_is_written(tmp_path, monkeypatch, capsys, npm):
    if npm and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    if not npm:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    # A port at which nobody listens, and no second try.
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_prefer_online", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    file, site = tmp_path / "net.tflite", tmp_path / "site"
    file.write_bytes(tflite.write(small_network()))
    assert cli.run(["web", str(file), "--input_range=-1,1", f"--out={site}"]) == 2
    said = capsys.readouterr().err
    assert "could not be downloaded" in said
    assert "--runtime=FOLDER" in said
    assert not site.exists()


@pytest.fixture
def given(published, tmp_path):
    """A folder with the runtime."""
    write_all(tmp_path / "js", published[0])
    return tmp_path / "js"


def test_the_command(given, tmp_path, capsys):
    """What the file tells is taken, unless a flag says otherwise; each is said."""
    metadata = dataclasses.replace(
        ModelMetadata.for_range((0, 0, 0), (1, 2, 4), labels=LABELS), channels="bgr", crop=0.875
    )
    network(metadata=metadata, file=tmp_path / "dogs.tflite")
    record = tmp_path / "run.json"
    base = ["web", str(tmp_path / "dogs.tflite"), f"--out={tmp_path / 'site'}"]
    base += [f"--runtime={given}", f"--json={record}"]
    assert cli.run(base) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "0, 0, 0 to 1, 2, 4, from the file's metadata" in printed
    assert "0.875 of the centre (from the file's metadata), bilinear (by default)" in printed
    assert "bgr (from the file's metadata)" in printed
    told = described(tmp_path / "site")
    assert told["name"] == "dogs"
    assert told["labels"] == list(LABELS)
    assert fitted(told) == ("bgr", 0.875, "bilinear")
    results = json.loads(record.read_text())["results"]
    assert results["input"]["range"] == [[0, 0, 0], [1, 2, 4]]
    assert results["input"]["crop_from"] == "from the file's metadata"
    assert results["model_bytes"] == (tmp_path / "dogs.tflite").stat().st_size
    assert cli.run([*base, "--channels=rgb", "--crop=1", "--resize=bicubic"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of the centre (as given), bicubic (as given), rgb (as given)" in printed
    assert fitted(described(tmp_path / "site")) == ("rgb", 1, "bicubic")


def fitted(told):
    return tuple(told["input"][name] for name in ("channels", "crop", "resize"))


def test_labels_that_the_file_lost_may_be_given(given, tmp_path, capsys):
    content = network(metadata=ModelMetadata(labels=LABELS), file=tmp_path / "net.tflite")
    (tmp_path / "net.tflite").write_bytes(content[: content.rindex(b"PK\x03\x04")])
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    base = ["web", str(tmp_path / "net.tflite"), f"--out={tmp_path / 'site'}"]
    base += [f"--runtime={given}", "--input_range=-1,1"]
    assert cli.run(base) == 2
    assert "give --labels=FILE" in " ".join(capsys.readouterr().err.split())
    assert cli.run([*base, f"--labels={tmp_path / 'names.txt'}"]) == 0
    assert described(tmp_path / "site")["labels"] == list("abcde")


def test_labels_and_range_may_be_given(given, tmp_path):
    network(file=tmp_path / "net.tflite")
    (tmp_path / "names.txt").write_text("\n".join("abcde"))
    base = ["web", str(tmp_path / "net.tflite"), f"--out={tmp_path / 'site'}"]
    more = [f"--labels={tmp_path / 'names.txt'}", "--mean=128", "--std=64", "--channels=bgr"]
    assert cli.run([*base, f"--runtime={given}", *more]) == 0
    told = described(tmp_path / "site")
    assert told["labels"] == list("abcde")
    assert told["input"]["channels"] == "bgr"
    info = Runner((tmp_path / "net.tflite").read_bytes()).input
    assert told["input"]["codes"][0][192] == info.quantize(np.float32(1.0))


def test_an_unknown_normalization_is_asked_for(given, tmp_path, capsys):
    (tmp_path / "net.tflite").write_bytes(tflite.write(small_network()))  # its grid shows none
    base = ["web", str(tmp_path / "net.tflite"), f"--out={tmp_path / 'site'}"]
    assert cli.run([*base, f"--runtime={given}"]) == 2
    assert "Give --input_range=LOW,HIGH or --mean and --std" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
