import importlib.util

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, export, quantize_model
from ddq_tf.export import tflite, vela
from ddq_tf.export.ir import DType
from tests.export.graphs import small_network

needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None, reason="ethos-u-vela is not installed"
)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DDQError, match=r"ethos-u-vela.*pip install.*ddq_tf\[ethos-u\]"):
        vela.compile_with_vela(b"")


@needs_vela
def test_a_small_network_runs_on_the_npu_and_fewer_codes_take_less_flash(tmp_path):
    out = tmp_path / "net.tflite"
    wide, narrow = (
        vela.compile_with_vela(tflite.write(small_network(DType.INT8, limit)), out=out)
        for limit in (127, 1)
    )
    assert out.read_bytes()[4:8] == b"TFL3"
    assert wide.cpu_operators == narrow.cpu_operators == 0
    assert wide.npu_operators == narrow.npu_operators > 0
    assert narrow.flash_bytes < wide.flash_bytes
    assert wide.sram_bytes > 0
    assert wide.inference_s > 0
    assert wide.accelerator == "ethos-u55-128"


@needs_vela
def test_what_vela_refuses_is_told(tmp_path):
    with pytest.raises(DDQError, match="Vela refuses this model"):
        vela.compile_with_vela(b"no model")
    path = tmp_path / "int4.tflite"
    path.write_bytes(tflite.write(small_network(DType.INT4)))
    with pytest.raises(DDQError, match="litert-int8"):
        vela.compile_with_vela(path)
    content = tflite.write(small_network(DType.INT8))
    with pytest.raises(DDQError, match="ethos-u85-2048"):
        vela.compile_with_vela(content, accelerator="ethos-u1")


def export_of(model, data, bits, path):
    q = quantize_model(model, DDQConfig(target="litert-int8", budget=None), data)
    for layer in q.weight_budget.layers:
        layer.quantizer.choice.assign(layer.quantizer.precisions.index(bits))
    return export.export_tflite(q, path).path.read_bytes()


def assert_on_npu(model, data, tmp_path):
    content = export_of(model, data, 4, tmp_path / "net.tflite")
    ours = vela.compile_with_vela(content)
    stock = vela.compile_with_vela(export.stock_int8(model, [data]))
    assert ours.cpu_operators == stock.cpu_operators == 0
    assert ours.npu_operators > 10
    assert ours.flash_bytes < 0.75 * stock.flash_bytes
    eight = vela.compile_with_vela(export_of(model, data, 8, tmp_path / "eight.tflite"))
    assert ours.flash_bytes < eight.flash_bytes


@needs_vela
@pytest.mark.slow
def test_resnet8_runs_on_the_npu(shared_dir, tmp_path):
    path = shared_dir / "models" / "mlperf_tiny" / "pretrainedResnet.h5"
    model = keras.models.load_model(path, compile=False)
    data = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)
    assert_on_npu(model, data, tmp_path)


@needs_vela
@pytest.mark.slow
def test_mobilenet_v2_runs_on_the_npu(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), 0.5, weights=None, classes=10)
    data = np.random.default_rng(0).uniform(-1, 1, (4, 96, 96, 3)).astype(np.float32)
    assert_on_npu(model, data, tmp_path)
