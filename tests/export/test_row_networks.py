"""Networks of LayerNormalization and dense layers: from `fit` to a file in one partition."""

import keras
import numpy as np
import pytest
from keras.src.applications.convnext import ConvNeXt

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import export_tflite, first_difference, tflite, verify
from ddq_tf.export.ir import DType

L = keras.layers
SIDE = 32
IMAGES = np.random.default_rng(0).uniform(0, 255, (32, SIDE, SIDE, 3)).astype(np.float32)
LABELS = np.arange(32) % 10


def convnext() -> keras.Model:
    return ConvNeXt(
        depths=[1, 1, 1, 1],
        projection_dims=[8, 16, 24, 32],
        drop_path_rate=0.1,
        input_shape=(SIDE, SIDE, 3),
        weights=None,
        classes=10,
        name="convnext",
    )


def mlp(x, width, norm):
    """Pre-norm: x + Dense(GELU(Dense(norm(x))))."""
    y = L.Dense(width, activation="gelu")(norm()(x))
    return x + L.Dense(x.shape[-1])(y)


def mixer(norm=L.LayerNormalization) -> keras.Model:
    """Tolstikhin et al., 2021, with 16 tokens of 32 channels."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = L.Conv2D(32, 8, 8)(L.Rescaling(1 / 127.5, -1)(inputs))
    x = L.Reshape((16, 32))(x)
    for _ in range(2):
        y = L.Permute((2, 1))(norm()(x))
        y = L.Dense(16)(L.Dense(24, activation="gelu")(y))
        x = L.Add()([x, L.Permute((2, 1))(y)])
        x = mlp(x, 64, norm)
    return keras.Model(inputs, L.Dense(10, "softmax")(L.GlobalAveragePooling1D()(norm()(x))))


MODELS = {
    "convnext": convnext,
    "mixer": mixer,
    "mixer of rms": lambda: mixer(L.RMSNormalization),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_way(name, tmp_path):
    keras.utils.set_random_seed(0)
    q = quantize_model(MODELS[name](), DDQConfig(target="litert"), calibration=IMAGES)
    q.compile("adam", "sparse_categorical_crossentropy")
    q.fit(IMAGES, LABELS, epochs=1, batch_size=16, verbose=0)
    q.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    assert first_difference(loaded, IMAGES) is None
    file = export_tflite(loaded, tmp_path / "net.tflite")
    found = verify(loaded, file, [IMAGES])
    assert found.equal_codes_share == 1.0
    assert found.delegation.is_complete
    assert found.delegation.partitions == 1


def test_dense_layers_of_sequences_have_int4_weights(tmp_path):
    """Dense on rank 3 is FULLY_CONNECTED that keeps the axes."""
    config = DDQConfig(target="litert", precisions=(4,), budget=None)
    file = export_tflite(quantize_model(mixer(), config, calibration=IMAGES), tmp_path / "a.tflite")
    graph = tflite.read(file.path.read_bytes())
    dense = [op for op in graph.ops if op.kind == "FULLY_CONNECTED"]
    assert len(dense) == 9
    assert {graph.tensors[op.inputs[1]].dtype for op in dense} == {DType.INT4}
    assert sum(op.attrs.get("keep_num_dims", False) for op in dense) == 8
