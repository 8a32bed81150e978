"""Codes in the browser against codes on x86: LiteRT.js's WebAssembly in headless Chromium.

    python benchmarks/web_exactness.py --runtime=DIR [--shared=DIR] [--operators] [NETWORK ...]

Each network is quantized and exported, put on a page by `ddq web`, and run in the browser on real
images: whether all output codes are those of LiteRT on this machine, with relaxed SIMD and without
(`compat`), and those of the same weight codes in a litert-int8 file, which tells of both machines
what built-in kernels round in their own way. The pictures are also given to the page as files: PNG
must become the codes that training saw; JPEG too where it is decoded with the accurate cosine
transform, as browsers and Pillow do, which TensorFlow does not do by default. Milliseconds of one
inference stand beside those of one x86 thread, for information.

With --operators, the result of every operator of the networks of exactness.py is compared on two
images. DIR holds LiteRT.js, as `ddq web --runtime` takes it; --shared the images and models that
developers have. Writes benchmarks/results/web_exactness.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import dataclasses
import io
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import exactness
import keras
import numpy as np
import tensorflow as tf
from chromium import Page, find_chromium, open_page, serve
from PIL import Image
from provenance import write_result
from web_codes import inputs_of, open_model, outputs_of, times_of

import ddq_tf
from ddq_tf import data, jobs, models, web
from ddq_tf.data import Fit
from ddq_tf.data.sources import Encoded
from ddq_tf.export import Runner, export_tflite, tflite
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import with_all_outputs
from ddq_tf.grids import align
from ddq_tf.layers import weighted_layers
from ddq_tf.targets import TARGETS

SEED = 0
IMAGES = 400
CALIBRATION = 128
TIMED_RUNS = 100
CIFAR, IMAGENET = "cifar10-test.tfrecord", "imagenet-sample-256.tfrecord"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A network, as it is quantized and fed.

    Attributes:
        model: makes the float network, given the folder of models and real inputs.
        side: of its images, px.
        images: the TFRecord file.
        target: of the export.
        bits: of the weights, in turns over the layers that can have them.
        low: what pixel 0 becomes.
        high: what pixel 255 becomes.
        fit: how pictures come to its size.
        count: of images.
    """

    model: Callable[[Path, np.ndarray], keras.Model]
    side: int
    images: str
    target: str = "litert"
    bits: tuple[int, ...] = (4, 8)
    low: float = -1.0
    high: float = 1.0
    fit: Fit = dataclasses.field(default_factory=Fit)
    count: int = IMAGES


def mobilenet_v2(folder: Path, inputs: np.ndarray) -> keras.Model:
    """Returns an untrained MobileNetV2 0.5 whose BatchNorms saw data."""
    keras.utils.set_random_seed(SEED)
    model = models.mobilenet_v2((32, 32, 3), 0.5, 10, batch_norm_momentum=0.0)
    model(inputs, training=True)
    return model


def saved(name: str) -> Callable[[Path, np.ndarray], keras.Model]:
    """Returns what loads a published model."""
    return lambda folder, inputs: jobs.load_float_model(folder / name)


RESNET8 = saved("mlperf_tiny/pretrainedResnet.h5")
DOG_BREEDS = saved("dog_breeds/dog_breed_mobilenetv2.h5")
CASES = {
    "mobilenet_v2_0.5_litert": Case(model=mobilenet_v2, side=32, images=CIFAR),
    "mobilenet_v2_0.5_litert_int8": Case(
        model=mobilenet_v2, side=32, images=CIFAR, target="litert-int8"
    ),
    "mobilenet_v2_0.5_litert_compact_2_bits": Case(
        model=mobilenet_v2, side=32, images=CIFAR, target="litert-compact", bits=(2,)
    ),
    "resnet8_litert_int8": Case(
        model=RESNET8, side=32, images=CIFAR, target="litert-int8", bits=(4,), low=0.0, high=255.0
    ),
    "resnet8_litert_compact": Case(
        model=RESNET8,
        side=32,
        images=CIFAR,
        target="litert-compact",
        bits=(4,),
        low=0.0,
        high=255.0,
    ),
    "vww_96_litert": Case(
        model=saved("mlperf_tiny/vww_96.h5"),
        side=96,
        images=IMAGENET,
        low=0.0,
        fit=Fit(crop=0.875, resize="bicubic"),
    ),
    "dog_breeds_litert": Case(
        model=DOG_BREEDS, side=160, images=IMAGENET, bits=(4,), low=0.0, count=200
    ),
}


def quantized(case: Case, model: keras.Model, inputs: np.ndarray) -> ddq_tf.DDQModel:
    """Returns the DDQ model with the bits of a case."""
    config = ddq_tf.DDQConfig(target=case.target, budget=None)
    q = ddq_tf.quantize_model(model, config, inputs)
    turns = itertools.cycle(case.bits)
    for layer in weighted_layers(q):
        stored, wanted = layer.quantizer.precisions, next(turns)
        if wanted in stored:
            layer.quantizer.choice.assign(stored.index(wanted))
    align(q)
    return q


def encoded(path: Path, count: int) -> list[bytes]:
    """Returns the JPEG files in a TFRecord, the first `count`."""
    feature = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
    records = tf.data.TFRecordDataset(str(path)).take(count)
    return [tf.io.parse_single_example(r, feature)["image/encoded"].numpy() for r in records]


def as_png(pixels: tf.Tensor) -> bytes:
    """Returns pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


def real_inputs(case: Case, files: Sequence[bytes]) -> np.ndarray:
    """Returns the inputs that training would make of pictures."""
    labels = np.zeros(len(files), np.int64)
    items = tf.data.Dataset.from_tensor_slices((list(files), labels))
    source = Encoded(origin=case.images, items=items, read=tf.identity, labels=labels)
    shape = (case.side, case.side, 3)
    dataset = data.Dataset(
        name=case.images,
        image_shape=shape,
        class_names=("",),
        splits={"test": source.open(shape, fit=case.fit, in_memory=True)},
    )
    batches = data.batches(dataset, "test", batch_size=100, input_range=(case.low, case.high))
    return np.concatenate([inputs.numpy() for inputs, _ in batches])


def make_site(folder: Path, content: bytes, case: Case, runtime: Mapping[str, bytes]) -> Path:
    """Puts a file on a page."""
    rule = web.Preprocessing(
        low=case.low, high=case.high, crop=case.fit.crop, resize=case.fit.resize
    )
    site = folder / "site"
    web.make_folder(site, content, name="net", preprocessing=rule, runtime=lambda: runtime)
    return site


def share(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Counts codes, those that are equal, and the largest difference."""
    distance = np.abs(one.astype(np.int64) - other.astype(np.int64))
    return {
        "codes": int(one.size),
        "codes_equal": int(np.sum(distance == 0)),
        "max_lsb": int(distance.max()),
    }


def measure(
    page: Page, case: Case, runtime: Mapping[str, bytes], shared: Path, folder: Path
) -> dict[str, Any]:
    """Returns all comparisons of one network."""
    files = encoded(shared / "data" / case.images, case.count)
    inputs = real_inputs(case, files)
    chosen = np.random.default_rng(SEED).permutation(len(inputs))[:CALIBRATION]
    model = case.model(shared / "models", inputs[chosen])
    q = quantized(case, model, inputs[chosen])
    content = export_tflite(q, folder / "net.tflite").path.read_bytes()
    twin = export_tflite(q, folder / "twin.tflite", target="litert-int8").path.read_bytes()
    runner = Runner(content)
    codes = runner.quantize_input(inputs)
    expected, twins = (next(iter(Runner(c).run(codes).values())) for c in (content, twin))
    built_in = next(iter(Runner(content, delegate=False).run(codes).values()))
    figures: dict[str, Any] = {
        "target": case.target,
        "bits": list(case.bits),
        "input_shape": list(inputs.shape[1:]),
        "file_bytes": len(content),
        "images": len(inputs),
        "distinct_output_codes": int(np.unique(expected).size),
        "x86_built_in_kernels": share(built_in, expected),
        "x86_same_codes_in_int8": share(twins, expected),
    }
    with serve(make_site(folder, content, case, runtime)) as url:
        for name, compat in (("relaxed_simd", False), ("compat", True)):
            open_model(page, url, compat=compat)
            answers = outputs_of(page, runner, codes)
            figures[name] = {
                **share(answers, expected),
                "same_codes_in_int8": share(answers, twins),
                "median_ms": statistics.median(times_of(page, codes[0], TIMED_RUNS)),
            }
        open_model(page, url)
        figures["x86_one_thread_median_ms"] = statistics.median(x86_times(runner, codes[:1]))
        figures["pictures"] = pictures(page, case, runner, files)
    return figures


def pictures(page: Page, case: Case, runner: Runner, files: Sequence[bytes]) -> dict[str, Any]:
    """Compares the page's codes of picture files with those of ddq_tf.data."""
    accurate = [as_png(tf.io.decode_jpeg(f, 3, dct_method="INTEGER_ACCURATE")) for f in files]
    found = {}
    for name, given, seen in (
        ("png", accurate, accurate),
        ("jpeg", files, files),
        ("jpeg_decoded_accurately", files, accurate),
    ):
        got = np.stack([inputs_of(page, runner, file) for file in given])
        want = runner.quantize_input(real_inputs(case, seen))
        answers = [next(iter(runner.run(codes).values())).argmax(-1) for codes in (got, want)]
        found[name] = {
            "files": len(files),
            **share(got, want),
            "equal_answers": int(np.sum(answers[0] == answers[1])),
        }
    return found


def x86_times(runner: Runner, example: np.ndarray) -> list[float]:
    """Returns the milliseconds of single inferences on one thread of this machine."""
    times = []
    for _ in range(TIMED_RUNS):
        start = time.perf_counter()
        runner.run(example)
        times.append(1000 * (time.perf_counter() - start))
    return times


_START = """(async () => {
  window.litert = await import(new URL("model.js", location));
  window.runtime = await litert.loadRuntime("runtime/");
})()"""
_OPEN = """(async () => {
  window.opened?.close();
  window.opened = await litert.Model.open(runtime, sent);
})()"""
_RUN = """(async () => {
  const input = opened.inputs[0];
  const results = await opened.run([new input.array(sent.buffer)]);
  const bytes = results.map((r) => new Uint8Array(r.buffer));
  const whole = new Uint8Array(bytes.reduce((sum, part) => sum + part.length, 0));
  bytes.reduce((start, part) => (whole.set(part, start), start + part.length), 0);
  return whole;
})()"""


def bare_folder(folder: Path, runtime: Mapping[str, bytes]) -> Path:
    """Makes a folder with the runtime and what opens a file, but no model."""
    (folder / "runtime").mkdir()
    for name, content in runtime.items():
        (folder / "runtime" / name).write_bytes(content)
    page = Path(web.__file__).parent / "page"
    (folder / "model.js").write_bytes((page / "model.js").read_bytes())
    (folder / "index.html").write_text("<!doctype html><title>operators</title>")
    return folder


def operators(page: Page, name: str, models_folder: Path) -> dict[str, Any]:
    """Compares every operator's result of a network of exactness.py, on two images."""
    model, images = exactness.network(name, models_folder)
    q = exactness.quantized(model, images)
    graph = with_all_outputs(run_passes(lower(q), TARGETS["litert"]))
    content = tflite.write(graph)
    runner = Runner(content)
    codes = runner.quantize_input(images[:2])
    ran = runner.run(codes)
    page.put("sent", content)
    page.evaluate(_OPEN)
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for example in codes:
        page.put("sent", np.ascontiguousarray(example).tobytes())
        content_of_all, start = page.get(_RUN), 0
        for output, info in runner.outputs.items():
            size = int(np.prod(info.shape[1:])) * info.dtype.itemsize
            part = np.frombuffer(content_of_all[start : start + size], info.dtype)
            parts[output].append(part.reshape(info.shape[1:]))
            start += size
        assert start == len(content_of_all)
    computed = {output: np.stack(found) for output, found in parts.items()}
    return exactness.compared(graph, computed, ran)


def summary(rows: Mapping[str, Any], every: Mapping[str, Any]) -> dict[str, Any]:
    """Adds up the counts of all networks."""
    total: dict[str, Any] = {
        "networks": len(rows),
        "images": sum(row["images"] for row in rows.values()),
    }
    for name in ("relaxed_simd", "compat"):
        total[name] = {
            key: sum(row[name][key] for row in rows.values()) for key in ("codes", "codes_equal")
        }
    for kind in ("png", "jpeg", "jpeg_decoded_accurately"):
        total[kind] = {
            key: sum(row["pictures"][kind][key] for row in rows.values())
            for key in ("files", "codes", "codes_equal", "equal_answers")
        }
    if every:
        kinds: collections.Counter[str] = collections.Counter()
        for row in every.values():
            kinds.update(row["different_by_operator"])
        total["operators"] = {
            "models": len(every),
            "values": sum(row["elements"] for row in every.values()),
            "different": sum(row["different"] for row in every.values()),
            "different_by_operator": dict(kinds),
        }
    return total


def browser_version() -> str:
    """Returns what Chromium calls itself."""
    done = subprocess.run([find_chromium() or "", "--version"], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="some only, not written")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--runtime", type=Path, required=True, help="folder with LiteRT.js")
    parser.add_argument("--operators", action="store_true", help="also those of exactness.py")
    options = parser.parse_args()
    runtime = web.find_runtime(options.runtime)
    rows, every = {}, {}
    with open_page() as page, tempfile.TemporaryDirectory() as first:
        for name in options.names or CASES:
            if name in CASES:
                with tempfile.TemporaryDirectory() as folder:
                    case = CASES[name]
                    rows[name] = measure(page, case, runtime, options.shared, Path(folder))
                print(name, rows[name], flush=True)
        if options.operators:
            with serve(bare_folder(Path(first), runtime)) as url:
                page.visit(url)
                page.evaluate(_START)
                for name in exactness.NAMES:
                    if not options.names or name in options.names:
                        every[name] = operators(page, name, options.shared / "models")
                        print(name, every[name], flush=True)
                        keras.backend.clear_session()
    if not options.names:
        found = {
            "browser": browser_version(),
            "litert_js": f"{web.PACKAGE} {web.VERSION}",
            "summary": summary(rows, every),
            "networks": rows,
            "operators": every,
        }
        write_result("web_exactness", found, seed=SEED)


if __name__ == "__main__":
    main()
