import dataclasses
import importlib.util
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from ddq_tf import DDQConfig, DDQError, export, quantize_model
from ddq_tf.export import tflite, tflm
from ddq_tf.export.interpreter import Runner
from ddq_tf.export.ir import DType
from ddq_tf.export.operators import weight_kind
from ddq_tf.export.tflm_verification import dense_as_convolution, verify_tflm
from ddq_tf.targets import get_target, lookup_bytes
from tests.export.graphs import Builder, small_network
from tests.toys import images, shake

needs_tflm = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None, reason="tflite-micro is not installed"
)
X = images(8, (16, 16, 3))


def free_network(values, seed=0):
    """Convolution, depthwise and dense; each channel has codes of its own, `values` at most."""
    make = Builder(seed)
    image = make.tensor((-1, 6, 6, 16), scale=0.02, zero_point=-5)
    conv = make.weighted(
        "CONV_2D", image, (12, 5, 5, 16), (-1, 6, 6, 12), padding="SAME", scale=0.04
    )
    depthwise = make.weighted(
        "DEPTHWISE_CONV_2D",
        conv,
        (1, 6, 6, 12),
        (-1, 1, 1, 12),
        axis=3,
        scale=0.05,
    )
    flat = make.op("RESHAPE", (depthwise, make.indices([-1, 12])), (-1, 12), 0.05, 3)
    logits = make.weighted("FULLY_CONNECTED", flat, (7, 12), (-1, 7), scale=0.06)
    graph = make.graph({"x": image}, {"y": logits})
    tensors = dict(graph.tensors)
    for name in weights_of(graph):
        tensor = tensors[name]
        last = np.moveaxis(tensor.data, tensor.quantization.axis, 0)
        freely = [
            make.rng.choice(
                make.rng.choice(np.arange(-128, 128), min(values, channel.size), replace=False),
                channel.shape,
            )
            for channel in last
        ]
        codes = np.moveaxis(np.array(freely, np.int8), 0, tensor.quantization.axis)
        tensors[name] = dataclasses.replace(tensor, data=np.ascontiguousarray(codes))
    return dataclasses.replace(graph, tensors=tensors)


def weights_of(graph):
    return [op.inputs[1] for op in graph.ops if weight_kind(op)]


def codes_for(graph, count=16):
    shape = graph.tensors[next(iter(graph.inputs.values()))].shape[1:]
    return np.random.default_rng(1).integers(-128, 128, (count, *shape)).astype(np.int8)


def encoded(content):
    """Indices, header with tables, and shape of every tensor that a TFLM_DECODE unpacks."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (subgraph,) = model.subgraphs
    for op in subgraph.operators:
        if model.operatorCodes[op.opcodeIndex].customCode == b"TFLM_DECODE":
            inputs = [bytes(model.buffers[subgraph.tensors[i].buffer].data) for i in op.inputs]
            yield (*inputs, tuple(subgraph.tensors[op.outputs[0]].shape))


def decoded(content):
    """The tensors, by the format's description: big-endian indices, 16 bytes of header, tables."""
    for indices, tables, shape in encoded(content):
        axis, bits, stride = tables[5] >> 4, tables[5] & 7, tables[6]
        stream = np.unpackbits(np.frombuffer(indices, np.uint8))[: np.prod(shape) * bits]
        index = (stream.reshape(-1, bits) @ (1 << np.arange(bits)[::-1])).reshape(shape)
        table = np.frombuffer(tables[16:], np.int8).reshape(-1, stride)
        yield table[np.indices(shape)[axis], index]


@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 16, 17, 33, 128])
def test_lookups_take_the_width_that_the_codes_need(values):
    graph = free_network(values)
    names = list(graph.tensors)
    for lookup in tflm.lookups(graph):
        tensor = graph.tensors[names[lookup.tensor]]
        channels = np.moveaxis(tensor.data, tensor.quantization.axis, 0)
        most = max(len(set(channel.ravel().tolist())) for channel in channels)
        assert 2**lookup.index_bits >= most
        assert lookup.index_bits == 1 or 2 ** (lookup.index_bits - 1) < most
        assert lookup.axis == tensor.quantization.axis
        packed = lookup_bytes(lookup.index_bits, tensor.data.size, len(channels), most)
        assert lookup.size_bytes == packed < tensor.data.size


def test_lookups_leave_what_would_grow():
    assert len(tflm.lookups(free_network(2))) == 2, "the dense layer is too small to gain"
    assert tflm.lookups(free_network(200)) == []
    narrow = free_network(2)
    tensors = {
        name: dataclasses.replace(t, dtype=DType.INT4, data=np.clip(t.data, -8, 7))
        if name in weights_of(narrow)
        else t
        for name, t in narrow.tensors.items()
    }
    assert tflm.lookups(dataclasses.replace(narrow, tensors=tensors)) == []


def test_dense_layers_as_convolutions_compute_the_same():
    graph = small_network(DType.INT8, 127)
    rewritten = dense_as_convolution(graph)
    assert "FULLY_CONNECTED" not in {op.kind for op in rewritten.ops}
    codes = codes_for(graph)
    before, after = (Runner(tflite.write(g)).run(codes) for g in (graph, rewritten))
    np.testing.assert_array_equal(before["logits"], after["logits"])


def test_a_missing_package_is_named_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    path = tmp_path / "net.tflite"
    with pytest.raises(DDQError, match=r"tflite-micro.*pip install.*ddq_tf\[tflm\]"):
        export.export_tflite(object(), path, target="tflm")
    with pytest.raises(DDQError, match=r"ddq_tf\[tflm\]"):
        tflm.MicroRunner(b"")
    assert not path.exists()


@needs_tflm
@pytest.mark.parametrize("values", [1, 2, 3, 4, 6, 8, 13, 16, 32, 64, 128])
def test_compressed_files_hold_and_compute_the_same(values):
    graph = free_network(values)
    plain = tflite.write(graph)
    compressed = tflm.compress(plain)
    expected = [graph.tensors[list(graph.tensors)[item.tensor]] for item in tflm.lookups(graph)]
    received = list(decoded(compressed))
    assert len(received) == len(expected)
    for tensor, codes in zip(expected, received, strict=True):
        np.testing.assert_array_equal(codes, tensor.data)
    assert len(compressed) < len(plain) or not expected
    codes = codes_for(graph)
    outputs = [tflm.MicroRunner(content).run(codes) for content in (plain, compressed)]
    assert len(np.unique(outputs[0])) > 20
    np.testing.assert_array_equal(*outputs)


@needs_tflm
def test_what_is_counted_is_what_the_file_saves():
    graph = free_network(16)
    names = list(graph.tensors)
    found = tflm.lookups(graph)
    saved = sum(graph.tensors[names[item.tensor]].data.size - item.size_bytes for item in found)
    plain = tflite.write(graph)
    # Buffers begin at multiples of 16 bytes.
    assert abs(len(plain) - len(tflm.compress(plain)) - saved) <= 48 * len(found)


@needs_tflm
def test_a_file_without_gain_stays_as_it_is():
    plain = tflite.write(free_network(200))
    assert tflm.compress(plain) == plain


@needs_tflm
@pytest.mark.parametrize("content", [b"", b"no model", b"\0\0\0\0TFL3" + bytes(60)])
def test_what_is_no_model_is_refused(content):
    with pytest.raises(DDQError, match=r"TFL3|damaged"):
        tflm.MicroRunner(content)


@needs_tflm
def test_wrong_inputs_are_refused():
    runner = tflm.MicroRunner(tflite.write(free_network(4)))
    with pytest.raises(DDQError, match=r"int8 of shape \(examples, 6, 6, 16\)"):
        runner.run(np.zeros((1, 6, 6, 15), np.int8))
    with pytest.raises(DDQError, match="float32"):
        runner.run(np.zeros((1, 6, 6, 16), np.float32))


def network(seed=0, classes=10):
    """A network whose layers gain from tables: a residual block, a depthwise and a dense layer."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    y = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x))
    x = layers.ReLU(6.0)(layers.Add()([x, y]))
    x = layers.DepthwiseConv2D(7, padding="same", activation="relu")(x)
    x = layers.Conv2D(48, 1, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return shake(keras.Model(inputs, layers.Dense(classes, activation="softmax")(x)))


def quantized(bits, model=None, calibration=X, **options):
    config = DDQConfig(target="tflm", budget=None, **options)
    q = quantize_model(network() if model is None else model, config, calibration)
    for layer in q.weight_budget.layers:
        layer.quantizer.choice.assign(layer.quantizer.precisions.index(bits))
    return q


@pytest.fixture(scope="module")
def model():
    return quantized(3)


@needs_tflm
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_exported_files_compute_what_their_plain_twin_and_the_reference_do(bits, tmp_path):
    q = quantized(bits)
    result = export.export_tflite(q, tmp_path / "net.tflite")
    plain = tflite.write(result.graph)
    assert result.size_bytes == result.path.stat().st_size < len(plain)
    assert [p.name for p in tmp_path.iterdir()] == ["net.tflite"]
    assert result.sizes.total == result.size_bytes
    content = result.path.read_bytes()
    coded = {list(result.graph.tensors)[item.tensor] for item in tflm.lookups(result.graph)}
    plainly = [name for name in weights_of(result.graph) if name not in coded]
    assert coded
    assert result.sizes.weights == sum(
        len(indices) + len(tables) - 16 for indices, tables, _ in encoded(content)
    ) + sum(result.graph.tensors[name].data.size for name in plainly)
    assert b"min_runtime_version" in content
    assert result.min_runtime.encode() in content
    proof = verify_tflm(q, result, [X])
    assert proof.num_samples == 8
    assert proof.num_codes == 80
    assert proof.equals_plain
    assert proof.equals_reference
    assert proof.top1_agreement == 1
    assert proof.max_lsb <= 3


@needs_tflm
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_free_levels_take_their_bits_and_are_exact(bits, tmp_path):
    q = quantized(bits, levels="free", level_init="kmeans")
    result = export.export_tflite(q, tmp_path / "net.tflite")
    found = tflm.lookups(result.graph)
    names = list(result.graph.tensors)
    assert found
    assert max(item.index_bits for item in found) == bits
    coded = [result.graph.tensors[names[item.tensor]].data for item in found]
    gaps = {int(gap) for codes in coded for gap in np.diff(np.unique(codes))}
    assert len(gaps) > 1, "levels as uniform ones would prove nothing"
    for expected, received in zip(coded, decoded(result.path.read_bytes()), strict=True):
        np.testing.assert_array_equal(expected, received)
    proof = verify_tflm(q, result, [X])
    assert proof.equals_plain
    assert proof.equals_reference


@needs_tflm
def test_the_budget_counts_what_is_stored(model, tmp_path):
    result = export.export_tflite(model, tmp_path / "net.tflite")
    counted = model.weight_budget.used_bits / 8
    graph = result.graph
    saved = {list(graph.tensors)[i.tensor]: i.size_bytes for i in tflm.lookups(graph)}
    stored = sum(saved.get(name, graph.tensors[name].data.size) for name in weights_of(graph))
    assert saved
    channels = sum(layer.quantizer.num_channels for layer in model.weight_budget.layers)
    # At b bits the uniform levels are 2^b - 1: one entry of each table less than counted.
    assert 0 <= counted - stored <= channels


@needs_tflm
def test_another_models_file_is_found(model, tmp_path):
    other = export.export_tflite(quantized(3, network(seed=3)), tmp_path / "other.tflite")
    proof = verify_tflm(model, other, [(X, np.zeros(8))])
    assert not proof.equals_plain
    assert not proof.equals_reference
    assert proof.equal_codes_share < 0.5
    fewer = export.export_tflite(quantized(3, network(classes=5)), tmp_path / "fewer.tflite")
    with pytest.raises(DDQError, match="another model"):
        verify_tflm(model, fewer, [X])


@needs_tflm
def test_verification_needs_inputs_and_codes(model, tmp_path):
    path = tmp_path / "net.tflite"
    export.export_tflite(model, path)
    with pytest.raises(DDQError, match="at least one input"):
        verify_tflm(model, path, [])
    export.export_tflite(model, path, input_type="float32")
    with pytest.raises(DDQError, match="int8 or uint8"):
        verify_tflm(model, path, [X])


def lively(model, size, low, high, count=8):
    """Gives BatchNorm the statistics of data, so that random networks stay alive."""
    data = np.random.default_rng(0).uniform(low, high, (count, size, size, 3)).astype(np.float32)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(data, training=True)
    return data


def assert_exact(model, data, bits, tmp_path):
    q = quantized(bits, model, data)
    result = export.export_tflite(q, tmp_path / "net.tflite")
    assert len(tflm.lookups(result.graph)) > 5
    proof = verify_tflm(q, result, [data])
    assert proof.equals_plain
    assert proof.equals_reference
    codes = codes_for(result.graph)
    contents = (tflite.write(result.graph), result.path.read_bytes())
    plain, compressed = (tflm.MicroRunner(content).run(codes) for content in contents)
    np.testing.assert_array_equal(plain, compressed)
    assert len(np.unique(plain)) > 3


@needs_tflm
@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 4])
def test_resnet8_is_exact(bits, shared_dir, tmp_path):
    path = shared_dir / "models" / "mlperf_tiny" / "pretrainedResnet.h5"
    model = keras.models.load_model(path, compile=False)
    data = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    assert_exact(model, data, bits, tmp_path)


@needs_tflm
@pytest.mark.slow
def test_mobilenet_v2_is_exact(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((64, 64, 3), 0.35, weights=None, classes=10)
    assert_exact(model, lively(model, 64, -1, 1), 3, tmp_path)


def test_the_target_is_told_apart():
    target = get_target("tflm")
    assert target.lookup_tables
    assert target.runtime == "tflite-micro"
    assert not target.fully_connected_pointwise


def tiny(tail):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, tail(keras.layers.Conv2D(4, 3)(inputs)))


def micro_proof(tail, tmp_path):
    x = images(4)
    q = quantize_model(tiny(tail), DDQConfig(target="tflm", budget=None), x)
    return verify_tflm(q, export.export_tflite(q, tmp_path / "model.tflite"), [x])


@needs_tflm
def test_a_transposed_convolution_is_compared_example_by_example(tmp_path):
    proof = micro_proof(keras.layers.Conv2DTranspose(2, 2, strides=2), tmp_path)
    assert proof.equals_plain
    assert proof.equals_reference


@needs_tflm
@pytest.mark.parametrize("kind", ["Layer", "RMS", "Unit", "Group"])
def test_normalizations_are_right_in_tflite_micro_too(kind, tmp_path):
    arguments = {"groups": 2} if kind == "Group" else {}
    proof = micro_proof(getattr(keras.layers, f"{kind}Normalization")(**arguments), tmp_path)
    assert proof.equals_plain
    assert proof.equals_reference


@needs_tflm
def test_reference_kernels_that_lack_an_operator_are_left_out(tmp_path):
    proof = micro_proof(keras.layers.ELU(), tmp_path)
    assert proof.equals_plain
    assert proof.equals_reference is None


@needs_tflm
def test_an_operator_that_tflite_micro_lacks_is_refused_before_any_work(tmp_path):
    gelu = tiny(keras.layers.Activation("gelu", name="bump"))
    with pytest.raises(DDQError, match=r"'bump'.*tflite-micro, where .* 'tflm' runs, has no GELU"):
        quantize_model(gelu, DDQConfig(target="tflm", budget=None), images(4))
    q = quantize_model(gelu, DDQConfig(target="litert-int8", budget=None), images(4))
    with pytest.raises(DDQError, match=r"(?s)'tflm' cannot run the model.*'bump.* has no GELU"):
        export.export_tflite(q, tmp_path / "model.tflite", target="tflm")


def swapped(axes):
    """Two axes change places, of as many with the batch."""
    inputs = keras.Input((4,))
    x = keras.layers.Reshape((2, 3) * (axes // 2 - 1) + (2,) * (axes % 2 + 1))(
        keras.layers.Dense(6 ** (axes // 2 - 1) * 2 ** (axes % 2 + 1))(inputs)
    )
    return keras.Model(inputs, keras.layers.Permute((2, 1, *range(3, axes)))(x))


def cut(axes):
    """The first of an axis, of as many with the batch."""
    inputs = keras.Input((4,))
    x = keras.layers.Reshape((2,) * (axes - 1))(keras.layers.Dense(2 ** (axes - 1))(inputs))
    return keras.Model(inputs, x[:, :1])


@needs_tflm
@pytest.mark.parametrize(("operator", "make"), [("TRANSPOSE", swapped), ("STRIDED_SLICE", cut)])
def test_more_axes_than_the_runtime_takes_are_refused_before_work(operator, make, tmp_path):
    config = DDQConfig(budget=None, target="tflm")
    x = images(8, (4,))
    most = config.resolved_target.most_axes[operator]
    model = quantize_model(make(most), config, x)
    result = export.export_tflite(model, tmp_path / "net.tflite")
    assert verify_tflm(model, result, [x]).equals_reference
    with pytest.raises(DDQError, match=rf"at most {most} axes in {operator}, the batch among"):
        quantize_model(make(most + 1), config, x)
