import dataclasses

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, first_difference, tflite, verification, verify
from ddq_tf.export.operators import weight_kind
from tests.toys import images, mixed_net, shake

X = images(32)
CONFIG = DDQConfig(budget=None)


@pytest.fixture(scope="module")
def model():
    return quantize_model(shake(mixed_net()), CONFIG, X)


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    return export_tflite(model, tmp_path_factory.mktemp("file") / "net.tflite").path.read_bytes()


def with_tensor(content, name, **changes):
    graph = tflite.read(content)
    tensor = dataclasses.replace(graph.tensors[name], **changes)
    return tflite.write(dataclasses.replace(graph, tensors={**graph.tensors, name: tensor}))


def weights_of(content):
    graph = tflite.read(content)
    return [graph.tensors[op.inputs[1]] for op in graph.ops if weight_kind(op)]


def test_an_honest_file_passes(model, content):
    proof = verify(model, content, [X])
    assert proof.weight_codes_identical
    assert proof.equal_codes_share >= 0.999
    assert proof.delegation.is_complete


def test_a_large_batch_is_looked_at_in_parts(model, content, monkeypatch):
    whole = verify(model, content, [X])
    sizes = []
    call = type(model).__call__

    def seen(self, inputs, **options):
        sizes.append(len(inputs))
        return call(self, inputs, **options)

    monkeypatch.setattr(verification, "examples_at_once", lambda model: 12)
    monkeypatch.setattr(type(model), "__call__", seen)
    assert verify(model, content, [X]) == whole
    assert sizes == [12, 12, 8]


@pytest.mark.parametrize("layer", range(4))
def test_one_flipped_code_is_found(model, content, layer):
    tensor = weights_of(content)[layer]
    data = tensor.data.copy()
    data.flat[-1] += -1 if data.flat[-1] > 0 else 1
    tampered = with_tensor(content, tensor.name, data=data)
    assert not verify(model, tampered, [X[:1]]).weight_codes_identical


def test_a_flipped_code_of_a_transposed_convolution_is_found(tmp_path):
    up = keras.layers.Conv2DTranspose(2, 3, 2, "same")
    model = quantize_model(shake(keras.Sequential([keras.Input((8, 8, 3)), up])), CONFIG, X)
    content = export_tflite(model, tmp_path / "net.tflite").path.read_bytes()
    (tensor,) = weights_of(content)
    tampered = with_tensor(content, tensor.name, data=-tensor.data)
    assert verify(model, content, [X[:1]]).weight_codes_identical
    assert not verify(model, tampered, [X[:1]]).weight_codes_identical


def test_a_shifted_output_is_found(model, content):
    graph = tflite.read(content)
    bias = graph.tensors[graph.ops[-1].inputs[2]]
    step = graph.tensors[graph.ops[-1].outputs[0]].quantization.scale[0]
    shift = np.rint(3 * step / bias.quantization.scale).astype(np.int32)
    proof = verify(model, with_tensor(content, bias.name, data=bias.data + shift), [X])
    assert proof.weight_codes_identical
    assert proof.equal_codes_share < 0.1
    assert proof.max_lsb == 3
    assert proof.top1_agreement == 1, "all outputs moved together"


@pytest.mark.parametrize("output_type", ["int8", "uint8", "float32"])
def test_a_wrong_output_is_found_whatever_type_the_file_shows(model, tmp_path, output_type):
    path = export_tflite(model, tmp_path / "net.tflite", output_type=output_type).path
    other = quantize_model(shake(mixed_net(), seed=5), CONFIG, X)
    assert verify(model, path, [X]).equal_codes_share >= 0.999
    proof = verify(other, path, [X])
    assert proof.equal_codes_share < 0.5
    assert not proof.weight_codes_identical


def test_a_file_of_another_shape_is_refused(content):
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(7)(keras.layers.GlobalAveragePooling2D()(inputs))
    other = quantize_model(keras.Model(inputs, outputs), CONFIG, X)
    with pytest.raises(DDQError, match="another model"):
        verify(other, content, [X])


def test_batches_may_bring_labels_and_differ_in_size(model, content):
    proof = verify(model, content, [(X[:20], np.zeros(20)), X[20:21]])
    assert proof.num_samples == 21


def test_no_inputs_are_refused(model, content):
    with pytest.raises(DDQError, match="at least one input"):
        verify(model, content, [])


def test_no_file_is_refused(model, tmp_path):
    with pytest.raises(DDQError, match=r"cannot read the model .*absent.tflite.*No such"):
        verify(model, tmp_path / "absent.tflite", [X])
    with pytest.raises(DDQError, match="TFL3"):
        verify(model, b"not a model", [X])


def test_first_difference_names_the_operator_and_who_differs(model, monkeypatch):
    assert first_difference(model, X[:4]) is None
    computed = verification.simulate

    def tampered(graph, inputs, **options):
        results = dict(computed(graph, inputs, **options))
        name = graph.ops[-1].outputs[0]
        results[name] = results[name] + np.int8(3)
        return results

    monkeypatch.setattr(verification, "simulate", tampered)
    difference = first_difference(model, X[:4])
    assert difference.party == "Keras"
    assert difference.num_different == difference.num_codes


def test_first_difference_takes_no_call_of_a_shared_layer_for_another():
    """A Reshape called on the second of two first, then three times in a row on the first."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 4))
    first, second = (keras.layers.Conv1D(4, 1)(x) for _ in range(2))
    fold, wide = keras.layers.Permute((2, 1)), keras.layers.Reshape((4, 6))
    outputs = [fold(first), wide(second), wide(wide(wide(first)))]
    sequences = images(16, (6, 4))
    shared = quantize_model(keras.Model(x, outputs), CONFIG, sequences)
    assert first_difference(shared, sequences) is None
