import ast
import dataclasses
import json

import numpy as np
import pytest
from random_models.build import model_of
from random_models.code import keras_code
from random_models.examples import EXAMPLES, name_of
from random_models.generate import Maker, generate, is_extreme
from random_models.run import GOOD, run
from random_models.shrink import shrink
from random_models.spec import Call, Case, Source, Spec, from_json, spec_from, to_json

from ddq_tf.kinds import FUNCTIONS, RULES


def pooled() -> Case:
    """A planted fault lies where a pooling reads a convolution."""
    calls = (
        Call(writes=1, kind="ReLU", reads=(0,)),
        Call(writes=2, kind="Conv2D", reads=(1,), arguments={"filters": 8, "kernel_size": 3}),
        Call(writes=3, kind="MaxPooling2D", reads=(2,), arguments={"strides": 1}),
        Call(writes=4, kind="Add", reads=(3, 3)),
        Call(writes=5, kind="Flatten", reads=(4,)),
        Call(writes=6, kind="Dense", reads=(5,), arguments={"units": 4}),
    )
    spec = Spec(inputs=(Source(writes=0, shape=(8, 8, 3)),), calls=calls, outputs=(6, 1))
    return Case(
        spec=spec, config={"target": "tflm", "budget": None, "per_channel": False}, epochs=2
    )


def has_planted_fault(case: Case) -> bool:
    try:
        model_of(case.spec)
    except (IndexError, ValueError):
        return False
    kinds = {call.writes: call.kind for call in case.spec.calls}
    return any(
        call.kind == "MaxPooling2D" and kinds.get(call.reads[0]) == "Conv2D"
        for call in case.spec.calls
    )


def test_a_seed_gives_the_same_case_also_through_json():
    for seed in range(40):
        case = generate(seed)
        assert case == generate(seed)
        assert from_json(json.loads(json.dumps(to_json(case)))) == case
        ast.parse(keras_code(case))


def test_the_mix_reaches_what_matters():
    cases = [generate(seed) for seed in range(200)]
    calls = [call for case in cases for call in case.spec.calls]
    kinds = {call.kind for call in calls}
    assert {"Conv2D", "Conv1D", "Dense", "Model", "Concatenate", "Multiply", "Softmax"} <= kinds
    assert any(call.shares is not None for call in calls)
    assert {case.config["target"] for case in cases} >= {"litert", "tflm"}
    two_bits = [case for case in cases if case.config.get("precisions") == [2]]
    assert any(case.config["target"] == "litert" for case in two_bits)
    assert 0.2 < sum(map(is_extreme, cases)) / len(cases) < 0.45
    assert any(len(case.spec.outputs) > 1 for case in cases)


def every_call(spec: Spec) -> list[Call]:
    inner = [spec_from(call.arguments["spec"]) for call in spec.calls if "spec" in call.arguments]
    return [*spec.calls, *(call for each in inner for call in every_call(each))]


def test_every_rule_is_drawn_but_those_of_layers_that_users_never_write():
    """Its examples stand in models of its input shape, in the graph and as models of their own."""
    left_out = {name_of(rule) for rule in RULES.rules if not rule.examples}
    assert all(name.startswith(("DDQ", "Float")) for name in left_out)
    assert len(EXAMPLES) + len(left_out) == len(RULES.rules)
    for name, examples in EXAMPLES.items():
        maker = Maker(np.random.default_rng(0), extreme=False)
        source = maker.add_input(examples[0].shape)
        maker.call("use", source, rule=name, number=0)


def test_new_layers_are_drawn_in_mixtures():
    cases = [generate(seed) for seed in range(150)]
    calls = [call for case in cases for call in every_call(case.spec)]
    kinds = {call.kind for call in calls}
    assert {"LayerNormalization", "MultiHeadAttention", "EinsumDense", "OwnLayer", "use"} <= kinds
    assert kinds & {"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"}
    rules = {call.arguments["rule"] for call in calls if call.kind in ("use", "example")}
    assert len(rules) > 60
    activations = {call.arguments.get("activation") for call in calls}
    islands = {name for name, function in FUNCTIONS.items() if function.formula is not None}
    assert len(activations & islands) > 8


def test_shrinking_leaves_little_beside_the_fault():
    small = shrink(pooled(), has_planted_fault)
    assert [call.kind for call in small.spec.calls] == ["Conv2D", "MaxPooling2D"]
    assert small.spec.calls[0].arguments == {"filters": 1, "kernel_size": 1}
    assert small.config == {"target": "litert", "budget": None}
    assert (small.epochs, len(small.spec.outputs)) == (0, 1)


def test_shrinking_gives_back_what_cannot_be_smaller():
    small = shrink(pooled(), has_planted_fault)
    assert shrink(small, has_planted_fault) == small
    assert not has_planted_fault(dataclasses.replace(small, spec=generate(0).spec))


@pytest.mark.parametrize("seed", range(12))
def test_the_file_computes_what_the_model_does(seed, tmp_path):
    case = generate(seed)
    outcome = run(case, tmp_path, limit_s=30)
    assert outcome.kind in GOOD, f"{outcome.fault}\n{outcome.detail}\n{keras_code(case)}"
