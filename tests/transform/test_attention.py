"""Attention, and products of tensors: what goes through, and what is refused."""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, quantize_model
from ddq_tf.export import export_tflite, first_difference, tflite, verify
from ddq_tf.export.ir import DType
from ddq_tf.graph import flatten
from ddq_tf.layers import DDQActivation, DDQMatmul, weighted_layers
from tests.toys import images

L = keras.layers
SHAPE = (12, 8)


def model_of(build, shape=SHAPE) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input(shape)
    return keras.Model(x, build(L.Dense(8, name="stem")(x)))


def block(x):
    """Two residual blocks of attention and an MLP, with all that training adds."""
    for number in range(2):
        attention = L.MultiHeadAttention(2, 4, dropout=0.1, name=f"attention_{number}")
        x = L.Add()([x, attention(x, x)])
        x = L.Add()([x, L.Dense(8)(L.Dense(16, "gelu")(x))])
    return L.Dense(3, "softmax", name="answer")(L.GlobalAveragePooling1D()(x))


def test_a_transformer_learns_and_stays_exact(tmp_path):
    model = model_of(block)
    x = images(64, SHAPE)
    labels = np.argmax(x.mean(axis=1)[:, :3], axis=-1)
    q = quantize_model(model, DDQConfig(target="litert"), calibration=x)
    projections = {
        f"{place}{part}"
        for place in ("", "attention_1_")
        for part in ("query", "key", "value", "attention_output")
    }
    names = {layer.name.removesuffix("_2") for layer in weighted_layers(q)}
    assert projections <= names
    q.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    losses = q.fit(x, labels, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    result = export_tflite(q, tmp_path / "net.tflite")
    found = verify(q, result, [x])
    assert first_difference(q, x) is None
    assert found.equal_codes_share == 1.0
    assert found.delegation.is_complete
    graph = tflite.read(result.path.read_bytes())
    kinds = collections.Counter(op.kind for op in graph.ops)
    assert kinds["BATCH_MATMUL"] == 4
    assert kinds["DEPTHWISE_CONV_2D"] == 0  # the scale of the scores is part of a kernel
    dense = [op for op in graph.ops if op.kind == "FULLY_CONNECTED"]
    assert DType.INT4 in {graph.tensors[op.inputs[1]].dtype for op in dense}
    q.save(tmp_path / "net.keras")
    again = export_tflite(keras.models.load_model(tmp_path / "net.keras"), tmp_path / "2.tflite")
    assert again.path.read_bytes() == result.path.read_bytes()


def second_factors(q):
    graph: Any = flatten(q)
    for node in graph.nodes:
        if isinstance(node.layer, DDQMatmul):
            before = graph.producer(node.inputs[1])
            while not isinstance(before.layer, DDQActivation):
                before = graph.producer(before.inputs[0])
            yield before.layer


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x @ L.Permute((2, 1))(x * x),
        lambda x: x @ L.Permute((2, 1))(keras.ops.relu(x)),
        lambda x: x @ L.Permute((2, 1))(L.Concatenate()([x * x, x[:, :, :0:-1]])[:, :, :8]),
        lambda x: keras.ops.softmax(x @ L.Dense(12)(L.Permute((2, 1))(x))),
    ],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_second_factors_lie_on_symmetric_grids_of_8_bits(build, bits, tmp_path):
    x = images(16, SHAPE)
    config = DDQConfig(budget=None, activation_bits=bits)
    q = quantize_model(model_of(build), config, calibration=x)
    for layer in second_factors(q):
        assert layer.quantizer.signed
        assert layer.quantizer.limits(layer.quantizer.num_bits) == (-128, 127)
    found = verify(q, export_tflite(q, tmp_path / "net.tflite"), [x])
    assert found.delegation.is_complete
    assert found.equal_codes_share == 1.0


def test_a_layer_that_is_called_twice_has_one_kernel():
    shared = L.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")
    model = model_of(lambda x: L.Add()([shared(x), L.Dense(4)(shared(L.Dense(8)(x)[:, ::-1]))]))
    q = quantize_model(model, DDQConfig(budget=None), calibration=images(8, SHAPE))
    assert len(weighted_layers(q)) == 4


def _heads(*tensors):
    """With one head each."""
    return [L.Reshape((12, 1, tensor.shape[-1]))(tensor) for tensor in tensors]


REFUSED = {
    "varying mask": (
        lambda x: L.MultiHeadAttention(2, 4)(x, x, attention_mask=x[:, :, :1] > 0),
        "has no integer form",
    ),
    "row without anything": (
        lambda x: L.Softmax()(x, mask=np.eye(12, 8, dtype=bool)[None]),
        "something in each row that is not masked",
    ),
    "mask before another layer": (
        lambda x: L.Dense(3)(x + np.where(np.eye(12, 8) > 0, -1e9, 0.0)),
        "a softmax over the last axis as the only reader",
    ),
    "bias of tokens": (
        lambda x: L.EinsumDense("abc,cd->abd", (12, 6), bias_axes="bd")(x),
        "a bias along the kernel's own",
    ),
    "kernel of each head": (
        lambda x: L.EinsumDense("abc,bcd->abd", (12, 6))(x),
        "needs an equation of a Dense",
    ),
    "broadcast": (
        lambda x: keras.ops.matmul(L.Reshape((3, 4, 8))(x), L.Reshape((1, 8, 12))(x)),
        "alike in all but the last two axes",
    ),
    "normalized": (lambda x: L.Dot(1, normalize=True)([x, x]), "the last with normalize=True"),
    "lengths of vectors": (
        lambda x: keras.ops.dot_product_attention(*_heads(x, L.Dense(6)(x), x)),
        "three tensors of fixed sizes",
    ),
    "additive": (lambda x: L.AdditiveAttention()([x, x]), "choose MultiHeadAttention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused(name):
    build, words = REFUSED[name]
    with pytest.raises(DDQError, match=words):
        quantize_model(model_of(build), DDQConfig(budget=None), calibration=images(4, SHAPE))


def test_sequences_of_unknown_length_are_refused():
    x = keras.Input((None, 8), name="tokens")
    model = keras.Model(x, L.MultiHeadAttention(2, 4)(x, x))
    with pytest.raises(DDQError, match=r"input 'tokens': needs a fixed size"):
        quantize_model(model, DDQConfig(budget=None), calibration=images(4, SHAPE))


def test_microcontrollers_are_told():
    model = model_of(lambda x: L.MultiHeadAttention(2, 4)(x, x))
    config = DDQConfig(target="tflm", budget=None)
    with pytest.raises(DDQError, match="no BATCH_MATMUL that is known to be exact"):
        quantize_model(model, config, calibration=images(4, SHAPE))
