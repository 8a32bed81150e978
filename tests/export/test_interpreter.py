import subprocess
import sys

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.interpreter import Runner, delegation
from ddq_tf.export.ir import DType
from ddq_tf.quantizers.fake_quant import fake_quantize
from tests.export.graphs import Builder, small_network
from tests.toys import array


def test_interface_and_batches(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite.write(small_network()))
    runner = Runner(path, batch_size=4)
    assert runner.input.shape == (-1, 8, 8, 3)
    assert runner.input.dtype == np.int8
    assert (runner.input.scale, runner.input.zero_point) == (np.float32(0.02), -5)
    codes = runner.quantize_input(np.random.default_rng(0).normal(0, 1, (6, 8, 8, 3)))
    together = runner.run(codes)["logits"]
    assert together.shape == (6, 5)
    for position in range(6):
        alone = runner.run({"image": codes[position : position + 1]})["logits"]
        np.testing.assert_array_equal(alone[0], together[position])
    np.testing.assert_allclose(runner.dequantize(together), (together - 3.0) * 0.05, rtol=1e-6)


def test_quantize_rounds_halves_to_even_and_saturates():
    info = Runner(tflite.write(small_network())).input
    steps = np.array([0.5, 1.5, -0.5, 900, -900])
    assert info.quantize(steps * info.scale).tolist() == [-5, -3, -5, 127, -128]


@pytest.mark.parametrize("scale", [np.float32(s) for s in (0.0078, 0.029114962, 1 / 3, 1e-6, 3e5)])
def test_quantize_is_keras_and_the_operator_quantize_at_every_half(scale):
    halves = (np.arange(-128, 127) + 0.5).astype(np.float32) * scale
    values = np.concatenate(
        [np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf)] + [halves]
    )
    keras_codes = array(fake_quantize(values, scale, np.float32(-128), np.float32(127))) / scale
    make = Builder()
    real = make.tensor((-1, 765), scale=None, dtype=DType.FLOAT32)
    codes = make.op("QUANTIZE", (real,), (-1, 765), float(scale))
    runner = Runner(tflite.write(make.graph({"x": real}, {"y": codes})))
    (ran,) = runner.run({"x": values[None]})["y"]
    ours = runner.outputs["y"].quantize(values)
    np.testing.assert_array_equal(ours, ran)
    np.testing.assert_array_equal(ours, np.rint(keras_codes).astype(np.int8))


def test_inputs_and_outputs_come_in_the_order_of_the_file():
    """The runtime gives a signature sorted by name."""
    make = Builder()
    second, first = (make.tensor((-1, 4, 4, 2), scale=scale) for scale in (0.1, 0.2))
    total = make.op("ADD", (second, first), (-1, 4, 4, 2), 0.3)
    twice = make.op("ADD", (total, second), (-1, 4, 4, 2), 0.4)
    graph = make.graph({"z": second, "a": first}, {"y": total, "b": twice})
    runner = Runner(tflite.write(graph))
    scales = {name: float(info.scale) for name, info in runner.inputs.items()}
    assert list(scales) == ["z", "a"]
    assert list(scales.values()) == pytest.approx([0.1, 0.2])
    codes = np.zeros((3, 4, 4, 2), np.int8)
    received = runner.run({"a": codes, "z": codes})
    assert list(received) == list(runner.outputs) == ["y", "b"]
    assert [float(info.scale) for info in runner.outputs.values()] == pytest.approx([0.3, 0.4])


def test_delegation_names_what_is_left_out():
    make = Builder()
    image = make.tensor((-1, 4, 4, 2), scale=0.1)
    before = make.op("ADD", (image, image), (-1, 4, 4, 2), 0.2)
    between = make.op("RELU", (before,), (-1, 4, 4, 2), 0.2)
    after = make.op("ADD", (between, before), (-1, 4, 4, 2), 0.2)
    last = make.op("ADD", (after, image), (-1, 4, 4, 2), 0.2)
    found = delegation(tflite.write(make.graph({"x": image}, {"y": last})))
    assert found.undelegated == ("RELU (operator 1)",)
    assert (found.partitions, found.delegated_ops, found.total_ops) == (2, 3, 4)
    assert not found.is_complete


def test_int4_convolution_leaves_the_delegate():
    make = Builder()
    image = make.tensor((-1, 4, 4, 2), scale=0.1)
    output = make.weighted("CONV_2D", image, (2, 3, 3, 2), (-1, 2, 2, 2), limit=7, dtype=DType.INT4)
    assert delegation(tflite.write(make.graph({"x": image}, {"y": output}))).partitions == 0


@pytest.mark.parametrize("call", [Runner, delegation])
def test_no_model(call, tmp_path):
    with pytest.raises(DDQError, match="TFL3"):
        call(b"not a model")
    with pytest.raises(DDQError, match="cannot read"):
        call(tmp_path / "absent.tflite")
    with pytest.raises(DDQError, match=r"refuses|is damaged"):
        call(tflite.write(small_network())[:900])


def test_wrong_inputs():
    runner = Runner(tflite.write(small_network()))
    with pytest.raises(DDQError, match="quantize makes codes"):
        runner.run(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(DDQError, match=r"inputs are \['image'\]"):
        runner.run({"picture": np.zeros((1, 8, 8, 3), np.int8)})
    with pytest.raises(DDQError, match="at least one"):
        runner.run(np.zeros((0, 8, 8, 3), np.int8))


def test_a_runner_is_called_like_a_model():
    runner = Runner(tflite.write(small_network()))
    real = np.random.default_rng(0).normal(0, 1, (6, 8, 8, 3)).astype(np.float32)
    wanted = runner.dequantize(runner.run(runner.quantize_input(real))["logits"])
    for given in (real, [real], {"image": real}):
        np.testing.assert_array_equal(runner(given), wanted)
    with pytest.raises(DDQError, match=r"needs the inputs \['image'\]. Received: list of \(2,\)"):
        runner([real[0], real[0]])
    with pytest.raises(DDQError, match=r"needs the inputs \['image'\]. Received: \['picture'\]"):
        runner({"picture": real})


def test_several_outputs_come_by_name():
    make = Builder()
    first, second = (make.tensor((-1, 4, 4, 2), scale=scale) for scale in (0.1, 0.2))
    total = make.op("ADD", (first, second), (-1, 4, 4, 2), 0.3)
    twice = make.op("ADD", (total, second), (-1, 4, 4, 2), 0.4)
    runner = Runner(tflite.write(make.graph({"a": first, "b": second}, {"y": total, "z": twice})))
    ones = np.ones((3, 4, 4, 2), np.float32)
    found = runner([ones, 2 * ones])
    assert list(found) == ["y", "z"]
    np.testing.assert_allclose(found["y"], 3.0 * ones, atol=0.16)
    np.testing.assert_allclose(found["z"], 5.0 * ones, atol=0.31)


def forged(change):
    """A file of ours, changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite.write(small_network())))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def name_no_text(model):
    model.subgraphs[0].tensors[0].name = b"\xff\xfe"


def drop_operators(model):
    model.subgraphs[0].operators = []


def sign_another_tensor(model):
    model.signatureDefs[0].inputs[0].tensorIndex = 3


@pytest.mark.parametrize("change", [name_no_text, drop_operators, sign_another_tensor])
def test_forged_files_are_refused(change):
    with pytest.raises(DDQError):
        Runner(forged(change))(np.zeros((1, 8, 8, 3), np.float32))


def test_no_tensor_without_a_scale_ends_the_process():
    """In a process of its own: LiteRT aborts on some of them."""
    code = """
import numpy as np
from ddq_tf.errors import DDQError
from ddq_tf.export import Runner
from tests.export.test_interpreter import forged
def drop(number):
    def change(model):
        model.subgraphs[0].tensors[number].quantization = None
    return change
for number in range(COUNT):
    try:
        Runner(forged(drop(number)))(np.zeros((1, 8, 8, 3), np.float32))
    except DDQError:
        pass
print("alive")
""".replace("COUNT", str(len(small_network().tensors)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr[-500:]
