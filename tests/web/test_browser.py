"""The page in a browser: the codes it makes of pictures, and the codes that the model gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from chromium import serve
from PIL import Image
from web_codes import inputs_of, open_model, outputs_of

import ddq_tf
from ddq_tf import data, web
from ddq_tf.export import Runner, export_tflite, tflite
from ddq_tf.export.ir import DType
from ddq_tf.layers import weighted_layers
from tests.export.graphs import Builder, small_network

SHOW = """new Promise((resolve) => {
  const done = () => document.querySelector("#answers li") || !problem.hidden;
  const wait = () => done() ? resolve() : setTimeout(wait, 20);
  wait();
})"""


@pytest.fixture
def opened(browser, runtime, tmp_path) -> Iterator[Callable]:
    """Opens a file on its page, and returns its runner."""
    with contextlib.ExitStack() as stack:

        def open_file(content, *, compat=False, labels=(), name="net", **preprocessing):
            rule = web.Preprocessing(**preprocessing)
            folder = tmp_path / "site"
            web.make_folder(
                folder,
                content,
                name=name,
                preprocessing=rule,
                labels=labels,
                runtime=lambda: runtime,
            )
            browser.complaints.clear()
            browser.requests.clear()
            url = stack.enter_context(serve(folder))
            open_model(browser, url, compat=compat)
            return Runner(content)

        yield open_file


def random_codes(runner, count, seed=0):
    shape = (count, *runner.input.shape[1:])
    if runner.input.dtype == np.float32:
        return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    limits = np.iinfo(runner.input.dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max + 1, shape).astype(runner.input.dtype)


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(("narrow", "limit"), [(DType.INT8, 127), (DType.INT4, 7), (DType.INT2, 1)])
def test_all_codes_are_those_of_x86(opened, browser, narrow, limit, compat):
    runner = opened(tflite.write(small_network(narrow, limit)), compat=compat)
    assert browser.evaluate("ddq.runtime.relaxed") is not compat
    codes = random_codes(runner, 100)
    expected = runner.run(codes)["logits"]
    assert np.unique(expected).size > 50
    np.testing.assert_array_equal(outputs_of(browser, runner, codes), expected)


@pytest.mark.parametrize(("narrow", "limit"), [(DType.INT8, 127), (DType.INT4, 7), (DType.INT2, 1)])
def test_xnnpack_runs_the_weights(opened, browser, narrow, limit):
    make = Builder()
    image = make.tensor((-1, 8, 8, 3), scale=0.02, zero_point=-5)
    flat = make.op("RESHAPE", (image, make.indices([-1, 192])), (-1, 192), 0.02, -5)
    dense = make.weighted("FULLY_CONNECTED", flat, (64, 192), (-1, 64), dtype=narrow, limit=limit)
    content = tflite.write(make.graph({"image": image}, {"y": dense}))
    runner = opened(content)
    codes = random_codes(runner, 100)
    built_in = Runner(content, delegate=False).run(codes)["y"]
    expected = runner.run(codes)["y"]
    assert (built_in != expected).any()  # the built-in kernel rounds in another way
    np.testing.assert_array_equal(outputs_of(browser, runner, codes), expected)


def convolution(narrow):
    """A pointwise convolution as it stands, of the same codes whatever stores them."""
    make = Builder()
    image = make.tensor((-1, 12, 12, 3), scale=0.02, zero_point=-5)
    same = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
    x = make.weighted(
        "CONV_2D", image, (64, 1, 1, 3), (-1, 12, 12, 64), dtype=narrow, limit=7, **same
    )
    flat = make.op("RESHAPE", (x, make.indices([-1, 9216])), (-1, 9216), 0.05, 3)
    return tflite.write(make.graph({"image": image}, {"y": flat}))


def test_built_in_int4_convolutions_round_as_xnnpack_does_and_not_as_on_x86(opened, browser):
    runner = opened(convolution(DType.INT4))
    codes = random_codes(runner, 20)
    expected = Runner(convolution(DType.INT8)).run(codes)["y"]
    assert (runner.run(codes)["y"] != expected).any()
    np.testing.assert_array_equal(outputs_of(browser, runner, codes), expected)


@pytest.fixture(scope="module")
def mobile_net():
    """A small MobileNetV2 whose BatchNorms saw data, pointwise kernels alternately 4 and 8 bits."""
    keras.utils.set_random_seed(0)
    model = ddq_tf.models.mobilenet_v2((32, 32, 3), 0.35, 10, batch_norm_momentum=0.0)
    images = np.random.default_rng(0).uniform(-1, 1, (32, 32, 32, 3)).astype(np.float32)
    model(images, training=True)
    q = ddq_tf.quantize_model(model, ddq_tf.DDQConfig(budget=None), images)
    for index, layer in enumerate(weighted_layers(q)):
        layer.quantizer.choice.assign(index % len(layer.quantizer.precisions))
    return q


@pytest.mark.parametrize("types", [("int8", "int8"), ("uint8", "uint8"), ("float32", "float32")])
def test_a_whole_network_of_each_type(opened, browser, mobile_net, types, tmp_path):
    file = tmp_path / "net.tflite"
    export_tflite(mobile_net, file, input_type=types[0], output_type=types[1])
    runner = opened(file.read_bytes())
    codes = random_codes(runner, 40)
    expected = next(iter(runner.run(codes).values()))
    assert np.unique(expected).size > 20
    np.testing.assert_array_equal(outputs_of(browser, runner, codes), expected)


def pictures(folder, sizes):
    """Writes smooth pictures of some sizes, and returns their files."""
    (folder / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = []
    for index, (width, height) in enumerate(sizes):
        noise = rng.integers(0, 256, (max(height // 6, 2), max(width // 6, 2), 3), np.uint8)
        picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        files.append(folder / "a" / f"{index}.png")
        picture.save(files[-1])
    return files


@pytest.mark.parametrize(
    ("fit", "rule"),
    [
        (data.Fit(), {"low": -1.0, "high": 1.0}),
        (data.Fit(crop=0.875), {"low": 0.0, "high": 255.0, "channels": "bgr"}),
        (
            data.Fit(crop=0.6, resize="bicubic"),
            {"low": (-2.1, -2.0, -1.8), "high": (2.2, 2.4, 2.6)},
        ),
        (data.Fit(resize="nearest"), {"low": 0.0, "high": 1.0, "channels": "bgr"}),
    ],
)
def test_pictures_become_the_codes_that_training_saw(opened, browser, tmp_path, fit, rule):
    make = Builder()
    low, high = np.min(rule["low"]), np.max(rule["high"])
    scale = (high - low) / 256
    image = make.tensor((-1, 24, 24, 3), scale=scale, zero_point=round(-128 - low / scale))
    pooled = make.op("MEAN", (image, make.indices([1, 2])), (-1, 3), scale, 0, keep_dims=False)
    content = tflite.write(make.graph({"image": image}, {"y": pooled}))
    runner = opened(content, crop=fit.crop, resize=fit.resize, **rule)
    # Wide, high, smaller than the input, and of its size.
    files = pictures(tmp_path / "images", [(131, 77), (60, 200), (13, 17), (24, 24), (301, 299)])
    dataset = data.load(f"images:{tmp_path / 'images'}", image_size=24, fit=fit, val_fraction=0.4)
    seen = {}
    for name in ("train", "val", "test"):
        split = data.batches(
            dataset,
            name,
            batch_size=8,
            input_range=(rule["low"], rule["high"]),
            channels=rule.get("channels", "rgb"),
        )
        for inputs, _ in split:
            seen |= {codes.tobytes(): codes for codes in runner.quantize_input(inputs.numpy())}
    assert len(seen) == len(files)
    for file in files:
        codes = inputs_of(browser, runner, file.read_bytes())
        assert codes.tobytes() in seen, file.name


def test_the_page_shows_labels_as_text_and_asks_nobody_else(opened, browser, tmp_path):
    labels = ["<img src=x onerror=alert(1)>", "</script>", "été", "&amp;", "e"]
    content = tflite.write(small_network())
    runner = opened(content, labels=labels, name="<b>net</b>")
    (file,) = pictures(tmp_path / "images", [(40, 30)])
    browser.choose_file("#file", file)
    browser.evaluate(SHOW)
    rows = browser.evaluate("[...document.querySelectorAll('#answers li')].map((r) => r.innerText)")
    codes = inputs_of(browser, runner, file.read_bytes())
    logits = runner.dequantize(runner.run(codes[None])["logits"])[0]
    shares = tf.nn.softmax(logits).numpy()
    expected = [f"{labels[i]}\n{shares[i] * 100:.1f} %" for i in np.argsort(-shares, kind="stable")]
    assert rows == expected
    assert browser.evaluate("document.querySelector('h1').textContent") == "<b>net</b>"
    assert browser.evaluate("document.querySelectorAll('#answers img, h1 b').length") == 0
    assert "ms in the network" in browser.evaluate("times.textContent")
    assert browser.evaluate("seen.width") == 8
    origin = browser.evaluate("location.origin")
    assert len(browser.requests) >= 8
    assert [r for r in browser.requests if not r.startswith((origin, "data:", "blob:"))] == []
    assert browser.complaints == []


def test_a_file_without_labels_and_one_that_is_no_picture(opened, browser, tmp_path):
    opened(tflite.write(small_network()))
    (file,) = pictures(tmp_path / "images", [(40, 30)])
    browser.command("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab")
    assert browser.evaluate("document.activeElement.id") == "file"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    browser.choose_file("#file", broken)
    browser.evaluate(SHOW)
    assert "no picture that the browser can read" in browser.evaluate("problem.textContent")
    browser.choose_file("#file", file)
    browser.wait("document.querySelectorAll('#answers li').length == 5")
    assert browser.evaluate("problem.hidden")
    assert "class " in browser.evaluate("document.querySelector('#answers li').innerText")


def test_what_the_server_lacks_is_told(browser, runtime, tmp_path):
    rule = web.Preprocessing()
    content = tflite.write(small_network())
    web.make_folder(
        tmp_path / "site", content, name="net", preprocessing=rule, runtime=lambda: runtime
    )
    (tmp_path / "site" / "model.tflite").unlink()
    with serve(tmp_path / "site") as url:
        browser.visit(url)
        browser.wait("!problem.hidden")
        assert "model.tflite (404)" in browser.evaluate("problem.textContent")
        (tmp_path / "site" / "model.tflite").write_bytes(content[: len(content) // 2])
        browser.visit(url)
        browser.wait("!problem.hidden")
        assert "LiteRT.js cannot run this file" in browser.evaluate("problem.textContent")


@pytest.mark.slow
def test_real_pictures(opened, browser, shared_dir, tmp_path):
    path = shared_dir / "models" / "mlperf_tiny" / "pretrainedResnet.h5"
    images = data.load(f"tfrecord:{shared_dir / 'data' / 'cifar10-test.tfrecord'}")
    batches = data.batches(images, "test", batch_size=200, input_range=(0.0, 255.0), limit=200)
    inputs = next(iter(batches))[0].numpy()
    model = keras.models.load_model(path, compile=False)
    q = ddq_tf.quantize_model(
        model, ddq_tf.DDQConfig(target="litert-int8", budget=None), inputs[:64]
    )
    for layer in weighted_layers(q):
        layer.quantizer.choice.assign(layer.quantizer.precisions.index(4))
    export_tflite(q, tmp_path / "resnet8.tflite")
    runner = opened((tmp_path / "resnet8.tflite").read_bytes(), low=0.0, high=255.0)
    codes = runner.quantize_input(inputs)
    expected = next(iter(runner.run(codes).values()))
    np.testing.assert_array_equal(outputs_of(browser, runner, codes), expected)
