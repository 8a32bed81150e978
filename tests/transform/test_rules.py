"""Rules: what holds for some layers, by name, class or function."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from ddq_tf import (
    DDQConfig,
    DDQError,
    ReconstructionConfig,
    Rule,
    quantize_model,
    reconstruct_model,
)
from ddq_tf.export import export_tflite, first_difference, tflite, verify
from ddq_tf.export.ir import DType
from ddq_tf.layers import FloatLayer, activation_layers, weighted_layers
from tests.toys import array, compiled, images, labels

L = keras.layers
X, Y = images(32), labels(32)


def net():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8, 8, 6)), L.Conv2D(8, 1, name="late")], name="inner")
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", activation="relu", name="early")(inputs)
    x = inner(L.SeparableConv2D(6, 3, padding="same", name="split")(x))
    x = L.GlobalAveragePooling2D()(L.ReLU()(x))
    return keras.Model(inputs, L.Dense(4, name="logits")(x))


def precisions(*rules, **more):
    config = DDQConfig(target="litert-int8", precisions=(4, 8), budget=None, rules=rules, **more)
    model = quantize_model(net(), config, X)
    return {layer.name: layer.quantizer.precisions for layer in weighted_layers(model)}


ALL = dict.fromkeys(("early", "split_depthwise", "split_pointwise", "late", "logits"), (4, 8))


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ("logits", ["logits"]),
        ("*l*", ["early", "split_depthwise", "split_pointwise", "late", "logits"]),
        ("?a*", ["early", "late"]),
        ("split", ["split_depthwise", "split_pointwise"]),
        ("split_pointwise", ["split_pointwise"]),
        (L.Dense, ["logits"]),
        (L.Conv2D, ["early", "late"]),
        (L.SeparableConv2D, ["split_depthwise", "split_pointwise"]),
        (lambda layer: layer.filters == 6, ["early", "split_depthwise", "split_pointwise"]),
    ],
)
def test_a_rule_takes_layers_by_name_class_or_function(match, taken):
    assert precisions(Rule(match, bits=6)) == {**ALL, **dict.fromkeys(taken, (6,))}


def test_the_first_rule_that_fits_counts():
    found = precisions(Rule("late", bits=2), Rule("*l*", precisions=(3, 4)))
    assert found == {**dict.fromkeys(ALL, (3, 4)), "late": (2,)}


def test_rules_choose_levels_and_ranges():
    rules = (Rule("early", levels="free", level_init="kmeans"), Rule("logits", per_channel=False))
    config = DDQConfig(target="litert-int8", precisions=(4,), budget=None, rules=rules)
    layers = {layer.name: layer for layer in weighted_layers(quantize_model(net(), config, X))}
    assert layers["early"].quantizer.scheme.levels == "free"
    assert layers["late"].quantizer.scheme.levels == "uniform"
    assert not layers["logits"].quantizer.per_channel
    assert layers["late"].quantizer.per_channel


def test_training_and_the_file_follow(tmp_path):
    rules = (Rule(L.Dense, bits=8), Rule("early", bits=8))
    config = DDQConfig(budget="auto", rules=rules)
    model = compiled(quantize_model(net(), config, X))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    bits = {layer.name: layer.num_bits for layer in weighted_layers(model)}
    assert (bits["logits"], bits["early"]) == (8, 8)
    result = export_tflite(model, tmp_path / "model.tflite")
    assert verify(model, result, [X]).equal_codes_share == 1


def test_rules_are_saved_with_what_they_took(tmp_path):
    rules = (Rule(L.Dense, bits=8), Rule(lambda layer: layer.name == "late", bits=4))
    config = DDQConfig(target="litert-int8", precisions=(2, 4), budget=None, rules=rules)
    model = quantize_model(net(), config, X)
    assert model.ddq_config.rule_of("logits").layers == ("logits",)
    assert model.ddq_config.rule_of("early") is None
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert [rule.layers for rule in copy.ddq_config.rules] == [("logits",), ("late",)]
        assert copy.ddq_config.rule_of("late").options == {"precisions": (4,)}
        assert [la.quantizer.precisions for la in weighted_layers(copy)] == [
            la.quantizer.precisions for la in weighted_layers(model)
        ]


def activation_bits(*rules, model=None, **more):
    config = DDQConfig(activation_bits=(4, 8), budget=None, rules=rules, **more)
    quantized = quantize_model(model or net(), config, X)
    return {layer.name: layer.quantizer.precisions for layer in activation_layers(quantized)}


# The input's quantizer, those of the layers, the mean's, and the output's.
USUAL = {
    "input_quant": (8,),
    "early_quant": (4, 8),
    "split_depthwise_quant": (4, 8),
    "split_pointwise_quant": (4, 8),
    "re_lu": (4, 8),
    "mean_quant": (4, 8),
    "logits_quant": (8,),
}


def test_rules_choose_the_precision_of_activations():
    assert list(activation_bits().values()) == list(USUAL.values())
    found = activation_bits(
        Rule("split", activation_bits=6),
        Rule(L.ReLU, activation_bits=[2, 3]),
        Rule("*", bits=8, activation_bits=5),
    )
    assert list(found.values()) == [(8,), (5,), (6,), (6,), (2, 3), (5,), (8,)]


def test_a_rule_of_kernels_leaves_activations_to_the_next():
    config = DDQConfig(rules=(Rule("early", bits=8), Rule("*", activation_bits=6)))
    model = quantize_model(net(), config, X)
    kernels, outputs = model.ddq_config.rules
    assert (kernels.layers, kernels.activations) == (("early",), ())
    assert (outputs.layers, outputs.activations[0]) == ((), "early")


def test_what_meets_in_a_concatenate_has_the_precision_of_the_first_rule(tmp_path):
    inputs = keras.Input((8, 8, 3))
    parts = [L.Conv2D(4, 1, name=name)(inputs) for name in ("left", "right")]
    x = L.Conv2D(4, 1, name="last")(L.Concatenate(name="both")(parts))
    model = keras.Model(inputs, L.GlobalAveragePooling2D()(x))
    for name in ("left", "right", "both"):
        rule = Rule(name, activation_bits=5)
        found = activation_bits(rule, model=model)
        assert [bits for name, bits in found.items() if name.endswith("_shared")] == [(5,)]
    quantized = quantize_model(model, DDQConfig(rules=[rule]), X)
    result = export_tflite(quantized, tmp_path / "model.tflite")
    assert verify(quantized, result, [X]).equal_codes_share == 1


def test_outputs_keep_8_bits_and_a_rule_for_them_is_an_error():
    with pytest.raises(DDQError, match=r"(?s)other bits than 8, computed by early.*'logits' takes"):
        activation_bits(Rule("logits", activation_bits=4))
    with pytest.raises(DDQError, match="'logits' takes no activation of a precision of its own"):
        activation_bits(Rule("logits", bits=8, activation_bits=4))


def mixed():
    """Every kind of kernel, a BatchNorm with gains of both signs, fused activations, a join."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    norm = L.BatchNormalization(gamma_initializer=keras.initializers.RandomUniform(-1, 2))
    x = L.ReLU(6.0)(norm(x))
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = L.ReLU()(L.BatchNormalization()(x))
    x = L.Conv2D(16, 3, 2, groups=4, activation="relu6", name="grouped")(x)
    x = L.Conv2DTranspose(8, 3, 2, padding="same", activation="tanh", name="up")(x)
    x = L.Concatenate()([x, L.Conv2D(8, 1, activation="relu", name="side")(x)])
    x = L.GlobalAveragePooling2D()(L.SeparableConv2D(8, 3, name="split")(x))
    return keras.Model(inputs, L.Dense(5, name="logits")(x))


FLOATS = images(32, (8, 8, 4))


@pytest.mark.parametrize("target", ["litert", "litert-int8"])
@pytest.mark.parametrize(
    "names",
    [
        *(["stem"], ["depthwise"], ["grouped"], ["up"], ["side"], ["split"], ["logits"]),
        ["stem", "depthwise", "up", "logits"],
    ],
)
def test_a_layer_left_in_float_is_one_in_the_file(names, target, tmp_path):
    rules = [Rule(name, in_float=True) for name in names]
    model = quantize_model(mixed(), DDQConfig(target=target, budget=None, rules=rules), FLOATS)
    result = export_tflite(model, tmp_path / "model.tflite")
    took = [name for rule in model.ddq_config.rules for name in rule.layers]
    written = tflite.read(result.path.read_bytes())
    kernels = [op for op in written.ops if len(op.inputs) > 2 and _is_float(written, op.inputs[1])]
    assert len(took) == len(kernels) == len(names) + ("split" in names)
    agreement = verify(model, result, [FLOATS])
    assert agreement.equal_codes_share == 1
    assert agreement.delegation.partitions == 1
    assert not agreement.delegation.undelegated
    assert first_difference(model, FLOATS) is None


def _is_float(graph, name):
    return graph.tensors[name].dtype is DType.FLOAT32


def test_a_layer_in_float_computes_what_the_float_network_does():
    model = mixed()
    rules = [Rule("logits", in_float=True)]
    config = DDQConfig(target="litert-int8", budget=None, rules=rules)
    quantized = quantize_model(model, config, FLOATS)
    (layer,) = [layer for layer in quantized.layers if isinstance(layer, FloatLayer)]
    assert "logits" not in [layer.name for layer in weighted_layers(quantized)]
    for mine, theirs in zip(layer.weights, model.get_layer("logits").weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


def test_a_layer_in_float_trains_and_is_saved(tmp_path):
    config = DDQConfig(rules=[Rule("split", in_float=True), Rule("stem", in_float=True)])
    model = compiled(quantize_model(mixed(), config, FLOATS))
    before = array(model.get_layer("stem").kernel)
    model.fit(FLOATS, labels(32), batch_size=8, epochs=2, verbose=0)
    assert not np.array_equal(before, array(model.get_layer("stem").kernel))
    assert model.weight_budget.used_bits <= model.weight_budget.capacity_bits
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(copy(FLOATS)), array(model(FLOATS)))
    result = export_tflite(copy, tmp_path / "model.tflite")
    assert verify(model, result, [FLOATS]).equal_codes_share == 1


def test_reconstruction_goes_around_layers_in_float(tmp_path):
    config = DDQConfig(rules=[Rule("grouped", in_float=True), Rule("stem", in_float=True)])
    recipe = ReconstructionConfig(distill_steps=2, views=1)
    model, _ = reconstruct_model(mixed(), FLOATS, config, recipe)
    assert [layer.name for layer in model.layers if isinstance(layer, FloatLayer)] == [
        "stem",
        "grouped",
    ]
    result = export_tflite(model, tmp_path / "model.tflite")
    assert verify(model, result, [FLOATS]).equal_codes_share == 1


def test_something_must_be_left_to_quantize():
    with pytest.raises(DDQError, match="nothing is left to quantize"):
        precisions(Rule("*", in_float=True))


def test_a_rule_that_takes_nothing_is_an_error():
    with pytest.raises(
        DDQError,
        match=r"(?s)there are early, split, late, logits;.*rule 'logit' takes none.*"
        r"rule 'late' takes none, since rules before it take all",
    ):
        precisions(Rule("logit", bits=8), Rule("*", bits=4), Rule("late", bits=8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("x"), "rule 'x': says nothing"),
        (lambda: Rule("x", in_float=True, bits=4), "leave out in_float or precisions"),
        (
            lambda: DDQConfig(rules=[Rule("x", activation_bits=9)]),
            "rule 'x': activation_bits must be distinct, ascending and within 2..8",
        ),
        (lambda: Rule("x", bits=4, precisions=(4,)), "bits or precisions, not both"),
        (lambda: Rule(3, bits=4), "a name pattern, a layer class or a function. *Received: 3"),
        (lambda: DDQConfig(rules=[Rule("x", bits=9)]), "distinct, ascending and within 2..8"),
        (lambda: DDQConfig(rules=[Rule("x", levels="free")]), "rule 'x': target 'litert' stores"),
        (lambda: DDQConfig(rules=[Rule("x", levels="round")]), "levels must be one of"),
    ],
)
def test_bad_rules_are_refused_at_once(make, message):
    with pytest.raises(DDQError, match=message.replace("function. *R", "function of a layer. R")):
        make()
