"""Activations of fewer than 8 bits: INT8 tensors in which only 2^b codes occur."""

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, quantize_model
from ddq_tf.export import Runner, export_tflite, first_difference, verify
from ddq_tf.export import tflite as files
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import with_all_outputs
from ddq_tf.grids.fold import Grid
from ddq_tf.layers import activation_layers
from ddq_tf.targets import TARGETS
from tests.export.test_lower_layers import CASES
from tests.toys import compiled, images, labels, shake

K = keras.layers


def narrow(model, bits, budget=None):
    """A DDQ model of narrow activations, trained for a few steps."""
    shape = model.input_shape[1:]
    x = images(64, tuple(d or 8 for d in shape))
    config = DDQConfig(budget=None, activation_bits=bits, activation_budget=budget)
    q = quantize_model(shake(model, seed=4), config, x)
    return q, x


def block(inputs):
    """Every kind of result: ReLU, ReLU6, linear, sum, product, mean, concatenation."""
    x = K.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    y = K.DepthwiseConv2D(3, padding="same")(x)
    y = K.ReLU(6.0)(K.BatchNormalization()(y))
    linear = K.Conv2D(6, 1)(y)
    total = K.Add()([x, linear])
    rectified = K.ReLU()(K.Add()([total, K.Conv2D(6, 1)(total)]))
    product = K.Multiply()([rectified, total])
    pooled = K.AveragePooling2D(2)(K.Concatenate()([product, linear]))
    return K.Dense(4, name="logits")(K.GlobalAveragePooling2D()(K.MaxPooling2D(2)(pooled)))


def toy():
    inputs = keras.Input((8, 8, 3), name="image")
    return keras.Model(inputs, block(inputs), name="toy")


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 7])
def test_file_equals_model_and_only_2_to_the_b_codes_occur(bits, tmp_path):
    keras.utils.set_random_seed(bits)
    q, x = narrow(toy(), bits)
    proof = verify(q, export_tflite(q, tmp_path / "net.tflite"), [x])
    assert (proof.equal_codes_share, proof.max_lsb) == (1.0, 0)
    assert proof.delegation.is_complete
    shown = with_all_outputs(run_passes(lower(q), TARGETS["litert"]))
    runner = Runner(files.write(shown))
    ran = runner.run(runner.quantize_input(x))
    inner = [name for op in shown.ops for name in op.outputs if "unclamped" not in name]
    counts = {name: len(np.unique(ran[name])) for name in inner if not name.startswith("logits")}
    assert max(counts.values()) <= 2**bits, counts
    assert max(counts.values()) > 2 ** (bits - 1), "the clamp is meant to be reached"


@pytest.mark.parametrize("case", CASES)
def test_every_layer_has_an_exact_form(case):
    keras.utils.set_random_seed(1)
    q, x = narrow(CASES[case](), 4)
    assert first_difference(q, x[:16]) is None


def test_learned_precisions_are_exported_as_they_are_in_force(tmp_path):
    q, x = narrow(toy(), (2, 4, 8), budget=4.0)
    compiled(q, eager=False).fit(x, labels(64), batch_size=8, epochs=4, verbose=0)
    learned = [layer.quantizer for layer in activation_layers(q)]
    assert len({quantizer.num_bits for quantizer in learned}) > 1
    proof = verify(q, export_tflite(q, tmp_path / "net.tflite"), [x])
    assert (proof.equal_codes_share, proof.max_lsb) == (1.0, 0)


def test_inputs_and_logits_keep_8_bits():
    q, _ = narrow(toy(), 4)
    bits = [layer.quantizer.num_bits for layer in activation_layers(q)]
    assert (bits[0], bits[-1]) == (8, 8)
    assert set(bits[1:-1]) == {4}


@pytest.mark.parametrize(
    ("qmin", "qmax", "zero_points"),
    [
        (0, 255, (-128,)),
        (-128, 127, (0,)),
        (-127, 127, (0,)),
        (0, 15, (-128, 112)),
        (0, 3, (-128, 124)),
        (-7, 7, (120, -121)),
        (-1, 1, (126, -127)),
    ],
)
def test_zero_points_bound_both_ends_by_saturation(qmin, qmax, zero_points):
    grid = Grid(scale=np.float32(0.1), qmin=qmin, qmax=qmax)
    assert grid.zero_points == zero_points
    codes = np.arange(-400, 400)
    for zero_point in zero_points:
        codes = np.clip(codes + zero_point, -128, 127) - zero_point
    if grid.is_narrow:
        assert (codes.min(), codes.max()) == (qmin, qmax)
