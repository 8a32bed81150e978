"""The Android app: it compiles, its resources link, and it computes what training did.

Compiled with Debian's `kotlin` against stubs of Android (examples/android/check/stubs), and run on
a JVM through examples/android/check/Check.kt. Android itself is not here.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

import ddq_tf
from ddq_tf import data
from ddq_tf.export import Runner, export_tflite
from tests.examples.classifiers import (
    CLASSES,
    SIDE,
    as_trained,
    metadata,
    packed,
    pictures,
    small_model,
)

PROJECT = Path(__file__).parents[2] / "examples" / "android"
SOURCES = PROJECT / "app" / "src" / "main" / "kotlin"
# What needs nothing of Android; the rest of the sources is the app around it.
PURE = ("Archive", "Codes", "FlatBuffer", "ModelFile", "Picture", "Resizing")
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
STDLIB = Path("/usr/share/java/kotlin-stdlib.jar")


def program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is missing: apt-get install kotlin aapt android-framework-res")
    return found


def kotlin(out: Path, *sources: Path) -> None:
    """Compiles; a warning of our own sources is an error."""
    command = [program("kotlinc"), *map(str, sources), "-d", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    said = [line for line in ran.stderr.splitlines() if re.search(r"\.kt:\d+:\d+: ", line)]
    assert not [line for line in said if "stubs/" not in line], ran.stderr
    assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app's arithmetic, compiled without Android."""
    out = tmp_path_factory.mktemp("kotlin") / "check.jar"
    pure = [next(SOURCES.rglob(f"{name}.kt")) for name in PURE]
    kotlin(out, *pure, PROJECT / "check" / "Check.kt")
    return out


def check(jar: Path, *arguments: object) -> str:
    """Runs Check.kt; returns what it prints."""
    command = [program("java"), "-cp", f"{jar}:{STDLIB}", "org.example.classifier.check.CheckKt"]
    command += map(str, arguments)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def codes_of(jar: Path, file: Path, shown: list[np.ndarray], folder: Path) -> np.ndarray:
    """What the app feeds the model with, as the input's own type."""
    (folder / "pictures").write_bytes(packed(shown))
    check(jar, "inputs", file, folder / "pictures", folder / "codes")
    info = Runner(file).input
    codes = np.frombuffer((folder / "codes").read_bytes(), info.dtype)
    return codes.reshape(len(shown), *info.shape[1:])


def test_manifest_and_resources_link_and_all_sources_compile(tmp_path: Path) -> None:
    aapt = program("aapt")
    if not FRAMEWORK.exists():
        pytest.skip(f"{FRAMEWORK} is missing: apt-get install android-framework-res")
    main = PROJECT / "app" / "src" / "main"
    manifest = (main / "AndroidManifest.xml").read_text()
    # What Gradle puts in: the package, and the name of the application.
    manifest = manifest.replace("<manifest ", '<manifest package="org.example.classifier" ')
    manifest = manifest.replace("${applicationId}", "org.example.classifier")
    (tmp_path / "AndroidManifest.xml").write_text(manifest)
    (tmp_path / "gen").mkdir()
    command = [aapt, "package", "-f", "-m", "-M", str(tmp_path / "AndroidManifest.xml")]
    command += ["-S", str(main / "res"), "-I", str(FRAMEWORK), "-J", str(tmp_path / "gen")]
    command += ["--min-sdk-version", "24", "--target-sdk-version", "35"]
    command += ["-F", str(tmp_path / "app.apk")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    kotlin(tmp_path / "app.jar", SOURCES, PROJECT / "check" / "stubs", tmp_path / "gen")


def test_only_the_shell_knows_android() -> None:
    knowing = {
        path.stem
        for path in SOURCES.rglob("*.kt")
        if re.search(r"^import (android|androidx|org\.tensorflow)\.", path.read_text(), re.M)
    }
    assert knowing == {"Classifier", "MainActivity", "Pictures"}
    assert {path.stem for path in SOURCES.rglob("*.kt")} == knowing | set(PURE)


@pytest.mark.parametrize(
    ("dtype", "resize", "crop", "channels"),
    [
        ("int8", "bilinear", 1.0, "rgb"),
        ("uint8", "bicubic", 0.875, "rgb"),
        ("float32", "bilinear", 0.7, "bgr"),
        ("int8", "nearest", 1.0, "bgr"),
    ],
)
def test_inputs_are_those_of_training(
    dtype: str, resize: str, crop: float, channels: str, jar: Path, model: Any, tmp_path: Path
) -> None:
    file = tmp_path / "model.tflite"
    told = metadata(crop=crop, resize=resize, channels=channels)
    export_tflite(model, file, input_type=dtype, metadata=told)
    shown = [*pictures(30), pictures(1, least=SIDE, most=SIDE + 1)[0]]  # the last has the size
    fit = data.Fit(crop=crop, resize=resize)
    values = as_trained(shown, tmp_path / "data", fit, channels)
    expected = Runner(file).input.quantize(values)
    computed = codes_of(jar, file, shown, tmp_path)
    assert len(np.unique(expected)) > 100, "inputs that hardly vary prove nothing"
    if dtype == "float32":
        # The range comes back from the file's mean and std, float32: a rounding or two may differ.
        np.testing.assert_allclose(computed, expected, rtol=0, atol=2**-20)
    else:
        np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("known", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_every_level_of_a_usual_range(
    known: tuple[float, float], jar: Path, model: Any, tmp_path: Path
) -> None:
    low, high = known
    image = keras.Input((16, 16, 3))
    plain = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    whole = np.linspace(low, high, 768, dtype=np.float32).reshape(1, 16, 16, 3)
    q = ddq_tf.quantize_model(plain, calibration=whole)
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    file = tmp_path / "model.tflite"
    told = ddq_tf.export.ModelMetadata.for_range(low, high, labels=["a", "b", "c"])
    export_tflite(q, file, metadata=told)
    step = np.float32((high - low) / 255)
    values = levels.astype(np.float32) * step + np.float32(low)
    np.testing.assert_array_equal(
        codes_of(jar, file, [levels[0]], tmp_path), Runner(file).input.quantize(values)
    )


def test_real_pictures(jar: Path, model: Any, tmp_path: Path, shared_dir: Path) -> None:
    """Photographs of the ImageNet sample, cut and resized as most ImageNet networks want it."""
    path = shared_dir / "data" / "imagenet-sample-256.tfrecord"
    feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    shown = [
        tf.io.decode_jpeg(
            tf.io.parse_single_example(record, feature)["image/encoded"], channels=3
        ).numpy()
        for record in tf.data.TFRecordDataset(str(path)).take(16)
    ]
    file = tmp_path / "model.tflite"
    export_tflite(model, file, metadata=metadata(crop=0.875, resize="bicubic"))
    fit = data.Fit(crop=0.875, resize="bicubic")
    values = as_trained(shown, tmp_path / "data", fit, "rgb")
    expected = Runner(file).input.quantize(values)
    np.testing.assert_array_equal(codes_of(jar, file, shown, tmp_path), expected)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("last", ["logits", "softmax"])
def test_answers(last: str, dtype: str, jar: Path, model: Any, tmp_path: Path) -> None:
    if last == "softmax":
        image = keras.Input((8, 8, 3))
        flat = keras.layers.Flatten()(image)
        plain = keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax")(flat))
        noise = np.random.default_rng(0).normal(0, 1, (8, 8, 8, 3)).astype(np.float32)
        model = ddq_tf.quantize_model(plain, calibration=noise)
    file = tmp_path / "model.tflite"
    export_tflite(model, file, output_type=dtype, metadata=metadata())
    info, rng = Runner(file).output, np.random.default_rng(3)
    outputs = rng.normal(0, 3, (20, CLASSES)).astype(np.float32)
    if dtype != "float32":
        limits = np.iinfo(info.dtype)
        outputs = rng.integers(limits.min, limits.max + 1, (20, CLASSES)).astype(info.dtype)
    (tmp_path / "outputs").write_bytes(outputs.tobytes())
    lines = check(jar, "answers", file, tmp_path / "outputs").splitlines()
    values = info.dequantize(outputs).astype(np.float64)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    expected = values if last == "softmax" else powers / powers.sum(axis=1, keepdims=True)
    assert len(lines) == 20
    for line, row in zip(lines, expected, strict=True):
        told, order = line.split("\t"), np.argsort(-row, kind="stable")[:3]
        assert told[::2] == [f"class {index}, été" for index in order]
        np.testing.assert_allclose([float(word) for word in told[1::2]], row[order], rtol=1e-12)


def test_pictures_are_turned_upright(jar: Path, tmp_path: Path) -> None:
    (shown,) = pictures(1)
    (tmp_path / "pictures").write_bytes(packed([shown]))
    check(jar, "upright", tmp_path / "pictures", tmp_path / "turned")
    turned = (tmp_path / "turned").read_bytes()
    expected = b""
    for orientation in range(1, 9):
        image = Image.fromarray(shown)
        image.getexif()[0x0112] = orientation
        expected += np.asarray(ImageOps.exif_transpose(image)).tobytes()
    assert turned == expected


@pytest.mark.parametrize(
    ("size", "wanted", "steps"),
    [((4000, 3000), 224, 2), ((8000, 6000), 224, 4), ((4000, 3000), 512, 1), ((640, 480), 96, 1)],
)
def test_large_pictures_are_shrunk_in_decoding(
    size: tuple[int, int], wanted: int, steps: int, jar: Path
) -> None:
    assert check(jar, "steps", *size, wanted).strip() == str(steps)


def test_files_that_are_no_classifier_are_refused(jar: Path, model: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tflite"
    export_tflite(model, whole, metadata=metadata())
    cases = {"is no .tflite file": b"not a model", "damaged": whole.read_bytes()[:900]}
    told = metadata()
    for words, kept in (
        ("no metadata", None),
        ("name no labels", dataclasses.replace(told, labels=())),
        ("input range", dataclasses.replace(told, mean=(), std=())),
        ('does not resize by "area"', dataclasses.replace(told, resize="area")),
    ):
        export_tflite(model, tmp_path / "x.tflite", metadata=kept)
        cases[words] = (tmp_path / "x.tflite").read_bytes()
    (tmp_path / "none").write_bytes(b"")
    for words, content in cases.items():
        (tmp_path / "x.tflite").write_bytes(content)
        said = check(jar, "answers", tmp_path / "x.tflite", tmp_path / "none")
        assert said.startswith("refused: "), words
        assert words in said
