import keras
import numpy as np
import pytest
from absl import logging
from ai_edge_litert import schema_py_generated as schema

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import ModelMetadata, Runner, export_tflite, exporter, runtime_check
from ddq_tf.export.exporter import min_runtime
from ddq_tf.export.ir import DType, Graph
from ddq_tf.targets import TARGETS
from tests.export.graphs import Builder

K = keras.layers


@pytest.fixture(scope="module")
def net():
    """A model with outputs of every kind of ending: BatchNorm, softmax, sigmoid."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4), name="image")
    x = K.BatchNormalization(name="normed")(K.Conv2D(4, 1)(image))
    flat = K.Flatten()(x)
    outputs = [
        K.Dense(3 + index, activation=name, name=f"by_{name}")(flat)
        for index, name in enumerate(("softmax", "sigmoid"))
    ]
    model = keras.Model(image, [*outputs, x])
    images = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 4)).astype("float32")
    return quantize_model(model, DDQConfig(budget=None, target="litert-compact"), images)


@pytest.mark.parametrize("output_type", ["int8", "float32"])
def test_the_signature_bears_the_names_of_the_float_model(net, output_type, tmp_path):
    net.save(tmp_path / "net.keras")
    expected = {"by_softmax": (-1, 3), "by_sigmoid": (-1, 4), "normed": (-1, 8, 8, 4)}
    for model in (net, keras.models.load_model(tmp_path / "net.keras")):
        result = export_tflite(model, tmp_path / "net.tflite", output_type=output_type)
        runner = Runner(result.path)
        assert list(runner.inputs) == ["image"]
        assert {name: info.shape for name, info in runner.outputs.items()} == expected
        assert list(result.graph.outputs) == list(expected)


@pytest.mark.parametrize(("bits", "least"), [(8, "1.0.1"), (4, "1.3.0"), (2, "2.1.2")])
def test_the_file_says_the_oldest_runtime(net, bits, least, tmp_path):
    for layer in net.weight_budget.layers:
        layer.quantizer.choose(layer.quantizer.precisions.index(bits))
    result = export_tflite(net, tmp_path / "net.tflite")
    data = result.path.read_bytes()
    assert result.min_runtime == min_runtime(data) == least
    assert least == TARGETS["litert-compact"].min_runtime[bits]
    model = schema.ModelT.InitFromPackedBuf(data)
    (entry,) = (item for item in model.metadata if item.name == b"min_runtime_version")
    # As the stock converter writes it: 16 bytes, zeros at the end.
    assert bytes(model.buffers[entry.buffer].data) == least.encode().ljust(16, b"\0")


def test_inner_names_are_dropped_unless_kept(net, tmp_path):
    def names(**options) -> list[bytes]:
        data = export_tflite(net, tmp_path / "net.tflite", **options).path.read_bytes()
        tensors = schema.ModelT.InitFromPackedBuf(data).subgraphs[0].tensors
        return [tensor.name for tensor in tensors if tensor.name]

    assert len(names()) == 1 + 3
    assert len(names(keep_names=True)) > 10


def test_metadata_that_do_not_fit_leave_no_file(net, tmp_path):
    path = tmp_path / "net.tflite"
    with pytest.raises(DDQError, match="labels need one output"):
        export_tflite(net, path, metadata=ModelMetadata(labels=["a", "b", "c"]))
    assert not path.exists()


def test_a_model_above_its_budget_is_exported_with_a_warning(tmp_path, caplog):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), K.Dense(40), K.Dense(4)], name="small")
    x = np.random.default_rng(0).uniform(-1, 1, (16, 6)).astype("float32")
    q = quantize_model(model, DDQConfig(budget="5bits"), x)
    export_tflite(q, tmp_path / "before.tflite")
    assert "model 'small' takes 400 weight bytes, more than its budget of 250" in caplog.text
    caplog.clear()
    q.compile("sgd", "mse")
    q.fit(x, np.zeros((16, 4), "float32"), verbose=0)
    export_tflite(q, tmp_path / "after.tflite")
    assert not caplog.text


def huge_multiplier() -> Graph:
    """A layer that multiplies by 300, on grids of scale 1."""
    make = Builder()
    image = make.tensor((-1, 4), scale=1)
    weights = make.tensor((), scale=[300, 1], data=np.eye(2, 4))
    bias = make.tensor((), DType.INT32, [300, 1], data=[0, 0])
    return make.graph(
        {"x": image}, {"y": make.op("FULLY_CONNECTED", (image, weights, bias), (-1, 2), 1)}
    )


def export_instead(monkeypatch, path, graph):
    monkeypatch.setattr(exporter, "lower", lambda *arguments, **options: graph)
    monkeypatch.setattr(exporter, "align_if_needed", lambda model: False)
    return export_tflite(keras.Sequential(), path, target="litert-int8")


def test_what_litert_cannot_run_is_refused_by_name(monkeypatch, tmp_path):
    path = tmp_path / "net.tflite"
    with pytest.raises(DDQError, match=r"layer 'layer_0' \(FULLY_CONNECTED\).*in channel 0"):
        export_instead(monkeypatch, path, huge_multiplier())
    assert not path.exists()


def test_a_file_that_litert_refuses_is_not_written(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime_check, "problems", lambda graph: [])
    path = tmp_path / "net.tflite"
    path.write_bytes(b"as it was")
    with pytest.raises(DDQError, match="refuses this model: failed to create XNNPACK runtime"):
        export_instead(monkeypatch, path, huge_multiplier())
    assert path.read_bytes() == b"as it was"


def test_scales_below_what_xnnpack_takes_are_told(monkeypatch, tmp_path, caplog):
    make = Builder()
    reads = [make.tensor((-1, 4), scale=scale) for scale in (1, 1e-5)]
    graph = make.graph(
        dict(zip("ab", reads, strict=True)), {"y": make.op("ADD", reads, (-1, 4), 1)}
    )
    logging.use_absl_handler()
    with caplog.at_level("WARNING"):
        assert export_instead(monkeypatch, tmp_path / "net.tflite", graph).path.exists()
    assert "layer 'layer_0' (ADD): input scale / output scale below 0.000976" in caplog.text
