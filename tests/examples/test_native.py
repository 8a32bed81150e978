"""The C program on LiteRT's C API computes the codes of this machine's interpreter, bit for bit.

Here with the library of the installed package; on emulated ARM, a core with dot products and one
without, with that of the aarch64 package: `tests/arm64/setup.sh DIR` makes the emulator,
DDQ_ARM64=DIR names it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ai_edge_litert
import keras
import numpy as np
import pytest
from PIL import Image

import ddq_tf
from ddq_tf import data
from ddq_tf.export import ModelMetadata, Runner, export_tflite
from ddq_tf.jobs import load_float_model
from tests.examples.classifiers import RANGE, SIDE, metadata, pictures, small_model

PROGRAM = Path(__file__).parents[2] / "examples" / "native" / "classify.c"
LIBRARY = "libLiteRt.so"
ON_CORE = Path(__file__).parents[1] / "arm64" / "run_models.py"
CORES = ("cortex-a76", "cortex-a53")
FLAGS = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra", "-Werror")


def compiled(compiler: list[str], library: Path, folder: Path) -> Path:
    """The program, beside the one library that it needs."""
    shutil.copy(library, folder)
    out = folder / "classify"
    command = [*compiler, *FLAGS, str(PROGRAM), str(folder / LIBRARY), "-lm", "-o", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return out


def of_version_2_3(version: str) -> None:
    if tuple(map(int, version.split(".")[:2])) < (2, 3):
        pytest.skip(f"examples/native/litert.h tells of LiteRT 2.3, not of {version}")


def cross_compiler() -> list[str]:
    if found := shutil.which("aarch64-linux-gnu-gcc"):
        return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28"]
    pytest.skip(
        "no compiler for ARM: apt-get install gcc-aarch64-linux-gnu, or pip install ziglang"
    )


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled program on a core, "host" being this machine's own."""

    core: str
    start: list[str]
    environment: dict[str, str]

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*self.start, *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=500, check=False, env=self.environment
        )


@pytest.fixture(scope="module", params=["host", *CORES])
def classify(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("native")
    if request.param == "host":
        compiler = shutil.which("cc")
        library = Path(ai_edge_litert.__path__[0]) / LIBRARY
        if not compiler or not library.exists() or platform.system() != "Linux":
            pytest.skip("needs a C compiler, and LiteRT's library for Linux")
        of_version_2_3(importlib.metadata.version("ai-edge-litert"))
        start = [str(compiled([compiler], library, folder))]
        libraries = {"LD_LIBRARY_PATH": str(folder)}
    else:
        made = os.environ.get("DDQ_ARM64")
        if not made:
            pytest.skip("DDQ_ARM64 names no emulator; tests/arm64/setup.sh DIR makes one")
        arm = Path(made)
        library = arm / "site" / "ai_edge_litert" / LIBRARY
        program = compiled(cross_compiler(), library, folder)
        start = [str(arm / "qemu-aarch64-static"), "-cpu", request.param]
        start += ["-L", str(arm / "cores" / request.param)]
        start += ["-E", f"LD_LIBRARY_PATH={folder}", str(program)]
        libraries = {}

    return Program(request.param, start, {**os.environ, **libraries})


def as_ppm(shown: Sequence[np.ndarray], folder: Path) -> list[Path]:
    paths = [folder / f"{index:04}.ppm" for index in range(len(shown))]
    for path, picture in zip(paths, shown, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def scaled(shown: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """The values that training makes of levels."""
    ends = [np.asarray(end, np.float64) for end in (low, high)]
    step = ((ends[1] - ends[0]) / 255).astype(np.float32)
    return shown.astype(np.float32) * step + ends[0].astype(np.float32)


def run(
    classify: Program, file: Path, paths: Sequence[Path], folder: Path
) -> tuple[np.ndarray, list[str]]:
    """Returns the codes of all pictures, and what is printed of each."""
    ran = classify(file, *paths, f"--codes={folder / 'codes'}")
    assert ran.returncode == 0, ran.stderr
    codes = np.frombuffer((folder / "codes").read_bytes(), Runner(file).output.dtype)
    return codes, ran.stdout.splitlines()


def expect(
    classify: Program,
    file: Path,
    shown: np.ndarray,
    values: np.ndarray,
    labels: Sequence[str],
    folder: Path,
) -> None:
    """Compares codes and labels with those of the interpreter here."""
    runner = Runner(file)
    (expected,) = runner.run(runner.input.quantize(values)).values()
    assert len(np.unique(expected)) > 20, "outputs that hardly vary prove nothing"
    paths = as_ppm(shown, folder)
    codes, lines = run(classify, file, paths, folder)
    np.testing.assert_array_equal(codes.reshape(expected.shape), expected)
    assert len(lines) == len(paths)
    for line, path, row in zip(lines, paths, expected, strict=True):
        assert line.startswith(f"{path}: {labels[row.argmax()]}, ")


@pytest.mark.parametrize(("dtype", "channels"), [("int8", "rgb"), ("uint8", "bgr")])
def test_made_pictures(dtype: str, channels: str, classify: Program, tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    told = metadata(channels=channels)
    export_tflite(small_model(), file, input_type=dtype, output_type=dtype, metadata=told)
    shown = np.stack(pictures(24, least=SIDE, most=SIDE + 1))
    seen = shown if channels == "rgb" else shown[..., ::-1]
    expect(classify, file, shown, scaled(seen, *RANGE), told.labels, tmp_path)


@pytest.fixture(scope="module")
def resnet(shared_dir: Path) -> tuple[keras.Model, data.Dataset]:
    """MLPerf Tiny's ResNet-8, and CIFAR-10's pictures."""
    plain = load_float_model(shared_dir / "models" / "mlperf_tiny" / "pretrainedResnet.h5")
    return plain, data.load(f"tfrecord:{shared_dir / 'data' / 'cifar10-test.tfrecord'}")


def exported(plain: keras.Model, dataset: data.Dataset, file: Path) -> np.ndarray:
    """Writes a quantized network to a file; returns 100 pictures for it."""
    some = data.calibration_batches(dataset, input_range=(0, 255), num_samples=64)
    q = ddq_tf.quantize_model(plain, calibration=some)
    for layer in q.weight_budget.layers:
        layer.quantizer.choice.assign(0)  # the fewest bits
    told = ModelMetadata.for_range(0, 255, labels=dataset.class_names)
    export_tflite(q, file, metadata=told)
    return dataset.source("test").select(np.arange(0, 1000, 10)).images


def test_real_pictures(classify: Program, tmp_path: Path, resnet: Any) -> None:
    plain, dataset = resnet
    head = plain.layers[-1]
    logits = keras.layers.Dense(head.units, name="logits")
    bare = keras.Model(plain.input, logits(head.input))
    logits.set_weights(head.get_weights())
    shown = exported(bare, dataset, tmp_path / "model.tflite")
    values = scaled(shown, 0, 255)
    expect(classify, tmp_path / "model.tflite", shown, values, dataset.class_names, tmp_path)


def test_probabilities(classify: Program, tmp_path: Path, resnet: Any) -> None:
    """A final softmax runs in LiteRT's built-in kernel, which rounds differently on ARM."""
    plain, dataset = resnet
    file = tmp_path / "model.tflite"
    shown = exported(plain, dataset, file)
    runner = Runner(file)
    inputs = runner.input.quantize(scaled(shown, 0, 255))
    (here,) = runner.run(inputs).values()
    there = here if classify.core == "host" else on_core(classify.core, file, inputs)
    codes = run(classify, file, as_ppm(shown, tmp_path), tmp_path)[0].reshape(here.shape)
    np.testing.assert_array_equal(codes, there)
    np.testing.assert_array_equal(codes.argmax(axis=1), here.argmax(axis=1))
    np.testing.assert_allclose(codes.astype(int), here.astype(int), rtol=0, atol=1)


def on_core(core: str, file: Path, inputs: np.ndarray) -> np.ndarray:
    """The codes of LiteRT's own interpreter on an emulated core."""
    np.save(file.with_suffix(".input.npy"), inputs)
    command = [Path(os.environ["DDQ_ARM64"]) / "python", core, ON_CORE, file.parent]
    subprocess.run(command, capture_output=True, timeout=500, check=True)
    return np.load(file.with_suffix(".output.npy"))


def test_what_it_cannot_use_is_refused(classify: Program, tmp_path: Path) -> None:
    file, model = tmp_path / "model.tflite", small_model()
    shown = [pictures(1, least=side, most=side + 1)[0] for side in (SIDE, SIDE + 3)]
    fits, too_large = as_ppm(shown, tmp_path)
    export_tflite(model, file)
    assert "no labels" in refused(classify, file, fits)
    export_tflite(model, file, metadata=ModelMetadata(labels=metadata().labels))
    assert "input range" in refused(classify, file, fits)
    export_tflite(model, file, input_type="float32", metadata=metadata())
    assert "must be int8 or uint8" in refused(classify, file, fits)
    export_tflite(model, file, metadata=metadata())
    assert f"takes {SIDE} x {SIDE} pixels" in refused(classify, file, too_large)
    assert "cannot read" in refused(classify, file, tmp_path / "none.ppm")
    assert "usage" in refused(classify, file)


def refused(classify: Program, *arguments: object) -> str:
    ran = classify(*arguments)
    assert ran.returncode == 1
    (said,) = (line for line in ran.stderr.splitlines() if line.startswith("classify: "))
    return said
