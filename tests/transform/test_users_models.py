"""Models as users write them go through the whole line: subclassed, with layers of their own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from ddq_tf import DDQConfig, Rule, jobs, load_model, quantize_model, reconstruct_model
from ddq_tf.errors import DDQError
from ddq_tf.export import export_tflite, first_difference, verify
from ddq_tf.graph import flatten
from ddq_tf.graph.inputs import Interface
from ddq_tf.layers import DDQConv2D, DDQDense
from tests.toys import array, images, shake
from tests.users import MODELS, ResNet, frames, functions, lambdas, operations, resnet, steps

L = keras.layers


def of(model, count=16):
    """Inputs of a model, in its structure."""
    interface = Interface(model)
    given = [images(count, shape[1:], seed=n) for n, shape in enumerate(interface.shapes)]
    return interface.packed(given)


@pytest.mark.parametrize("make", [*MODELS, steps, frames], ids=lambda make: make.__name__)
def test_model_and_file_agree_after_a_step_of_training(make, tmp_path):
    keras.utils.set_random_seed(0)
    model = shake(make())
    x = of(model)
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=x)
    wanted = keras.tree.map_structure(array, model(x, training=False))
    received = keras.tree.map_structure(array, quantized(x, training=False))
    keras.tree.assert_same_structure(wanted, received)
    quantized.compile(
        keras.optimizers.SGD(1e-3),
        keras.tree.map_structure(lambda _: "mse", wanted),
        run_eagerly=True,
    )
    quantized.fit(x, wanted, batch_size=8, verbose=0)
    quantized.save(tmp_path / "net.keras")
    loaded = load_model(tmp_path / "net.keras")
    file = export_tflite(loaded, tmp_path / "net.tflite")
    assert first_difference(loaded, x) is None
    found = verify(loaded, file, [x])
    assert found.equal_codes_share >= (0.9999 if make.__name__ in ("inside", "operations") else 1.0)
    assert found.weight_codes_identical


def test_calls_that_share_a_variable_share_a_layer():
    model = operations()
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=of(model))
    convolutions = [n.layer for n in flatten(quantized).nodes if type(n.layer) is DDQConv2D]
    dense = [n.layer for n in flatten(quantized).nodes if type(n.layer) is DDQDense]
    assert (len(convolutions), len(set(map(id, convolutions)))) == (3, 2)
    assert (len(dense), len(set(map(id, dense)))) == (3, 2)


def test_a_function_that_is_an_activation_leaves_its_layer_what_it_was():
    model = functions()
    model.get_layer("shared").trainable = False
    rules = (Rule(lambda layer: layer is model.get_layer("shared"), bits=8),)
    quantized = quantize_model(model, DDQConfig(budget=None, rules=rules), calibration=of(model))
    layer = quantized.get_layer("shared")
    assert not layer.trainable
    assert layer.quantizer.precisions == (8,)
    calls = [node for node in flatten(quantized).nodes if node.layer is layer]
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("function", "cure"),
    [
        (lambda x: tf.math.erf(x) * 2, "write the same by keras.ops"),
        (lambda x: x if float(keras.ops.max(x)) > 0 else -x, "no values of tensors"),
    ],
)
def test_a_function_that_cannot_be_read_is_told_with_its_line(function, cure):
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, L.Conv2D(4, 3, activation=function, name="odd")(x))
    with pytest.raises(DDQError, match=rf"'odd_lambda'.*test_users_models\.py:\d+: .*{cure}"):
        quantize_model(model, calibration=of(model))


def test_a_variable_of_a_layer_and_of_an_operation_is_refused():
    class Tied(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(6, use_bias=False, name="dense")

        def call(self, x):
            return keras.ops.matmul(self.dense(x), self.dense.kernel)

    model = Tied(name="tied")
    model(images(2, (6,)))
    with pytest.raises(DDQError, match=r"'matmul' \(Matmul\).*shares its 'kernel' with.*'dense'"):
        quantize_model(model, calibration=images(8, (6,)))


def test_a_frozen_part_stays_frozen():
    model = resnet()
    model.blocks[0].trainable = False
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=of(model))
    frozen = model.blocks[0].first.name, model.blocks[0].first_norm.name
    assert not any(quantized.get_layer(name).trainable for name in frozen)
    assert quantized.get_layer(model.blocks[1].first.name).trainable


def test_doctor_and_reconstruction_take_them():
    model = resnet()
    diagnosis = jobs.diagnose(model, measure=True)
    assert diagnosis.can_be_quantized
    assert diagnosis.outputs[0].words.startswith("logits")
    before = model.get_weights()
    quantized, blocks = reconstruct_model(model, images(32, (16, 16, 3)))
    assert blocks
    assert first_difference(quantized, images(4, (16, 16, 3))) is None
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_all_that_stands_in_the_way_is_told_at_once_with_its_lines():
    class Flow(L.Layer):
        def call(self, x):
            return x if keras.ops.max(x) > 1 else -x

        def compute_output_shape(self, shape):
            return shape

    x = inputs = keras.Input((8, 8, 3), name="image")
    x = L.Lambda(lambda image: keras.ops.cos(image), name="waves")(x)
    x = Flow(name="flow")(L.Conv2D(4, 3, name="conv")(x))
    x = L.LayerNormalization(axis=1, name="groups")(x)
    model = keras.Model(inputs, x, name="net")
    with pytest.raises(DDQError) as error:
        quantize_model(model, calibration=images(4))
    words = str(error.value)
    assert "'waves_cos' (Cos), in 'waves' (Lambda), tests/transform/test_users_models.py" in words
    assert "'flow' (Flow): cannot be read at tests/transform/test_users_models.py" in words
    assert "control flow" in words
    assert "'groups' (LayerNormalization): " in words
    troubles = jobs.diagnose(model).troubles
    assert {trouble.kind for trouble in troubles} == {"Cos", "Flow", "LayerNormalization"}


def test_a_call_of_ones_own_beside_a_training_step_of_ones_own_is_refused():
    class Trained(ResNet):
        def train_step(self, data):
            return super().train_step(data)

    model = Trained(name="trained")
    model(images(2, (16, 16, 3)))
    with pytest.raises(DDQError, match=r"'trained' \(Trained\).*own train_step and a call\(\)"):
        quantize_model(model, calibration=images(8, (16, 16, 3)))


def test_a_lambda_needs_no_name_to_come_back(tmp_path):
    model = lambdas()
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=of(model))
    assert not any(isinstance(layer, L.Lambda) for layer in quantized.layers)


@pytest.mark.parametrize("kind", ["mobilenet_v2", "resnet50", "densenet"])
def test_preprocessing_within_the_model(kind, tmp_path):
    x = keras.Input((16, 16, 3))
    prepared = getattr(keras.applications, kind).preprocess_input(x)
    model = keras.Model(x, L.Conv2D(4, 3, activation="relu")(prepared))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.float32)
    quantized = quantize_model(model, DDQConfig(budget=None), calibration=pixels)
    wanted = array(model(pixels))
    assert np.abs(array(quantized(pixels)) - wanted).max() < 0.03 * wanted.max()
    file = export_tflite(quantized, tmp_path / "net.tflite")
    assert verify(quantized, file, [pixels]).equal_codes_share == 1.0


def test_columns_that_one_scale_cannot_hold_are_told():
    rows = images(64, (4,)) * np.float32([1e-3, 1.0, 1.0, 1.0])
    norm = L.Normalization(mean=[0.0] * 4, variance=[1e-6, 1.0, 1.0, 1.0])
    model = keras.Sequential([keras.Input((4,), name="row"), norm, L.Dense(3)])
    with pytest.raises(UserWarning, match=r"'row': 1 of 4 columns \(the first is number 0\)"):
        quantize_model(model, DDQConfig(budget=None), calibration=rows)
    quantize_model(model, DDQConfig(budget=None), calibration=rows[:, 1:2] * np.ones(4, np.float32))
