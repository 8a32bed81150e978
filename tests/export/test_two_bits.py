"""Models of two-bit weights in target `litert`, from Keras to LiteRT."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import DDQConfig, DDQError, Rule, quantize_model
from ddq_tf.export import Runner, export_tflite, first_difference
from ddq_tf.export.interpreter import delegation
from ddq_tf.export.ir import Graph
from ddq_tf.layers import weighted_layers
from tests.toys import images, mixed_net, shake

K = keras.layers


def widths(graph: Graph) -> list[str]:
    """Types of the weights, in order of the operators."""
    tensors = (graph.tensors[op.inputs[1]] for op in graph.ops if len(op.inputs) == 3)
    return [tensor.dtype.value for tensor in tensors]


def lowest(model: keras.Model) -> keras.Model:
    """Gives every layer its lowest precision."""
    for layer in weighted_layers(model):
        layer.quantizer.choose(0)
    return model


def pointwise_net(channels: int, filters: int, units: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((5, 7, channels))
    x = K.Conv2D(filters, 1)(image)
    x = K.ReLU(6.0)(K.BatchNormalization()(x))
    x = K.GlobalAveragePooling2D()(x)
    return shake(keras.Model(image, K.Dense(units)(x)))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("channels", "filters", "units", "expected"),
    [
        (8, 12, 10, ["INT2", "INT2"]),
        (4, 4, 1, ["INT2", "INT2"]),
        (6, 20, 1001, ["INT4", "INT2"]),
        (3, 18, 1, ["INT8", "INT4"]),
        (12, 7, 3, ["INT2", "INT8"]),
        (4, 1, 2, ["INT2", "INT8"]),
    ],
)
def test_codes_are_keras_s_in_one_partition(channels, filters, units, expected, batch, tmp_path):
    data = images(24, (5, 7, channels))
    config = DDQConfig(precisions=(2,), budget=None, narrow_range=batch == 1)
    q = quantize_model(pointwise_net(channels, filters, units), config, data)
    result = export_tflite(q, tmp_path / "net.tflite")
    assert widths(result.graph) == expected
    sizes = (channels * filters, filters * units)
    bits = [int(name.removeprefix("INT")) for name in expected]
    stored = sum(size * width for size, width in zip(sizes, bits, strict=True))
    assert q.weight_budget.used_bits == stored
    assert first_difference(q, data[:batch]) is None
    taken = delegation(result.path.read_bytes())
    assert (taken.is_complete, taken.partitions) == (True, 1)
    assert result.min_runtime == ("2.1.2" if "INT2" in expected else "1.3.0")


def test_only_files_that_may_hold_two_bits_ask_for_their_runtime(tmp_path):
    model = shake(mixed_net())
    runtimes, types = {}, {}
    for precisions in ((4, 8), (2, 4, 8)):
        config = DDQConfig(precisions=precisions, budget=None)
        q = lowest(quantize_model(model, config, images(16)))
        for layer in weighted_layers(q):  # codes of 0 would fit into two bits
            layer.kernel.assign(keras.ops.zeros_like(layer.kernel))
        result = export_tflite(q, tmp_path / "net.tflite")
        runtimes[precisions], types[precisions] = result.min_runtime, set(widths(result.graph))
    assert runtimes == {(4, 8): "1.3.0", (2, 4, 8): "2.1.2"}
    assert types == {(4, 8): {"INT8", "INT4"}, (2, 4, 8): {"INT8", "INT2"}}


def test_a_rule_gives_one_layer_two_bits(tmp_path):
    rules = (Rule("expand", bits=2),)
    q = quantize_model(shake(mixed_net()), DDQConfig(budget=None, rules=rules), images(16))
    result = export_tflite(q, tmp_path / "net.tflite")
    assert widths(result.graph) == ["INT8", "INT2", "INT8", "INT8"]
    assert first_difference(q, images(8)) is None


def test_spatial_convolutions_keep_eight_bits_that_cost_them_nothing():
    config = DDQConfig(precisions=(2, 4, 8), budget=0.6)
    q = quantize_model(shake(mixed_net()), config, images(16))
    budget = q.weight_budget
    by_name = {layer.name: cost for layer, cost in zip(budget.layers, budget.costs, strict=True)}
    assert set(by_name["conv"]) == {8.0 * 3 * 3 * 3 * 8}
    assert list(by_name["expand"]) == [128.0 * bits for bits in (2, 4, 8)]


def test_an_impossible_budget_names_the_precisions_that_go_lower():
    model = shake(mixed_net())
    with pytest.raises(DDQError, match=r"precisions=\(2, 4, 8\) go lower") as told:
        quantize_model(model, DDQConfig(budget=0.5), images(16))
    assert "impossible" in str(told.value)
    q = quantize_model(model, DDQConfig(budget="288bytes", precisions=(2, 4, 8)), images(16))
    assert q.weight_budget.least_bits / 8 == 216 + 288 / 4  # of the convolution, of the rest
    with pytest.raises(DDQError) as told:
        quantize_model(model, DDQConfig(budget=0.1, precisions=(2, 4, 8)), images(16))
    assert "(2, 4, 8) go lower" not in str(told.value)


def test_the_file_is_smaller_and_computes_on_batches_of_any_size(tmp_path):
    data = images(16, (5, 7, 64))
    sizes = {}
    for bits in (2, 4, 8):
        config = DDQConfig(precisions=(bits,), budget=None)
        q = quantize_model(pointwise_net(64, 128, 1001), config, data)
        result = export_tflite(q, tmp_path / f"{bits}.tflite")
        sizes[bits] = result.size_bytes
        if bits == 2:
            runner = Runner(result.path)
            codes = runner.quantize_input(data)
            (whole,) = runner.run(codes).values()
            (part,) = runner.run(codes[:3]).values()
            np.testing.assert_array_equal(whole[:3], part)
    weights = 64 * 128 + 128 * 1001
    assert sizes[8] - sizes[4] == pytest.approx(weights / 2, abs=64)
    assert sizes[4] - sizes[2] == pytest.approx(weights / 4, abs=64)
