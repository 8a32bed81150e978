"""Rules: what holds for some layers, by name, class or function."""

from __future__ import annotations

import keras
import pytest

from ddq_tf import DDQConfig, DDQError, Rule, quantize_model
from ddq_tf.export import export_tflite, verify
from ddq_tf.layers import weighted_layers
from tests.toys import compiled, images, labels

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


def test_a_rule_that_takes_nothing_is_an_error():
    with pytest.raises(
        DDQError,
        match=r"(?s)there are early, split, late, logits:.*rule 'logit' takes none.*"
        r"rule 'late' takes none, since rules before it take all",
    ):
        precisions(Rule("logit", bits=8), Rule("*", bits=4), Rule("late", bits=8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("x"), "rule 'x': says nothing"),
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
