import dataclasses
import json

import pytest

from ddq_tf import TARGETS, Budget, DDQConfig, DDQError
from ddq_tf.targets import OpKind, get_target

WEIGHTS = 1000


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.6, 4800),
        (1, 8000),
        (1.0, 8000),
        ("0.6", 4800),
        ("60%", 4800),
        (" 60 % ", 4800),
        ("4.3bits", 4300),
        ("4.3 BITS", 4300),
        (480, 3840),
        ("480", 3840),
        ("480bytes", 3840),
        ("480 B", 3840),
        ("1kb", 8000),
        ("1KiB", 8192),
        ("0.5KiB", 4096),
        ("1MB", 8_000_000),
        ("1MiB", 8 * 1024**2),
        (Budget(average_bits=3), 3000),
    ],
)
def test_budget_as_users_write_it(value, bits):
    assert Budget.parse(value).bits_of(WEIGHTS) == pytest.approx(bits)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        1.5,
        "1.5",
        "",
        "small",
        "4..3bits",
        "-5%",
        "101%",
        "9bits",
        "0bytes",
        True,
        None,
        [0.5],
        float("nan"),
    ],
)
def test_budget_refuses(value):
    with pytest.raises(DDQError, match=r"[Bb]udget.*Received"):
        Budget.parse(value)


@pytest.mark.parametrize(
    "given", [{}, {"fraction": 0.5, "average_bits": 4}, {"fraction": 0}, {"average_bits": 9}]
)
def test_budget_has_exactly_one_valid_measure(given):
    with pytest.raises(DDQError, match="Budget needs"):
        Budget(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"target": "phone"}, "target must be one of.*litert.*'phone'"),
        ({"budget": 1.5}, "fraction up to 1 or whole bytes"),
        ({"precisions": ()}, "precisions"),
        ({"precisions": (8, 4)}, "ascending"),
        ({"precisions": (1, 8)}, "within 2..8"),
        ({"activation_bits": 9}, "activation_bits.*within 2..8.*9"),
        ({"activation_bits": (8, 4)}, "activation_bits.*ascending"),
        ({"activation_bits": ()}, "activation_bits"),
        ({"activation_bits": (4, 8), "activation_budget": 3}, "activation_budget.*lowest.*4.*3"),
        ({"activation_budget": 8.5}, "activation_budget.*8.5"),
        ({"activation_calibration": "max"}, "activation_calibration.*'max'"),
        ({"levels": "learned"}, "levels must be one of.*'learned'"),
        ({"level_init": "random"}, "level_init must be one of.*'random'"),
        ({"correction": -0.1}, r"correction must lie in \[0, inf\).*-0.1"),
        ({"correction": float("inf")}, "correction"),
        ({"levels": "free"}, "'litert' stores uniform codes.*'litert-int8' or 'tflm'"),
        ({"search_fraction": 1}, "search_fraction"),
        ({"search_fraction": 0}, "search_fraction"),
        ({"calibration_images": 0}, "calibration_images"),
        ({"seed": -1}, "seed must lie in.*-1"),
    ],
)
def test_config_refuses(given, words):
    with pytest.raises(DDQError, match=words):
        DDQConfig(**given)


def test_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DDQConfig().target = "tflm"  # type: ignore[misc]


@pytest.mark.parametrize(
    "config",
    [
        DDQConfig(),
        DDQConfig(target="litert-int8", budget="4.3bits", precisions=(2, 8), seed=3),
        DDQConfig(budget=None),
        DDQConfig(
            target="tflm",
            levels="free",
            level_init="kmeans",
            correction=0.3,
            per_channel=False,
            activation_bits=(2, 4, 8),
            activation_budget=4.5,
            activation_calibration="percentile",
        ),
    ],
)
def test_config_round_trip_through_json(config):
    assert DDQConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", TARGETS)
def test_targets_store_what_they_learn(name):
    target = get_target(name)
    assert target.name == name
    for kind in OpKind:
        learned = target.learned_bits(kind)
        assert list(learned) == sorted(learned)
        assert learned[-1] == 8
        for bits in range(2, 9):
            for row in (3, 6, 8):
                stored = target.stored_bits(kind, bits, row)
                assert stored >= bits
                assert stored in target.min_runtime


@pytest.mark.parametrize(
    ("kind", "channels", "expected"),
    [
        (OpKind.POINTWISE, 16, (4, 8)),
        (OpKind.POINTWISE, 3, (8,)),
        (OpKind.DENSE, 7, (8,)),
        (OpKind.CONV, 16, (8,)),
        (OpKind.DEPTHWISE, 16, (8,)),
    ],
)
def test_precisions_are_those_that_stay_delegated(kind, channels, expected):
    assert DDQConfig().precisions_for(kind, channels) == expected


def test_two_bits_are_learned_on_request():
    assert DDQConfig().precisions_for(OpKind.DENSE, 8) == (4, 8)
    assert DDQConfig(precisions=(2, 4, 8)).precisions_for(OpKind.DENSE, 8) == (2, 4, 8)
    assert DDQConfig(target="litert-compact").precisions_for(OpKind.DENSE, 8) == (2, 4, 8)
    assert DDQConfig(target="litert-compact").precisions_for(OpKind.DENSE, 6) == (4, 8)


def test_precisions_can_be_told():
    assert DDQConfig(precisions=(3, 5)).precisions_for(OpKind.CONV, 3) == (3, 5)
    assert DDQConfig(target="litert-compact").precisions_for(OpKind.CONV, 3) == (4, 8)


@pytest.mark.parametrize(("bits", "precisions"), [(8, (8,)), (4, (4,)), ((2, 4, 8), (2, 4, 8))])
def test_activation_bits_are_one_or_several(bits, precisions):
    assert DDQConfig(activation_bits=bits).activation_precisions == precisions


@pytest.mark.parametrize("target", ["litert-int8", "tflm"])
def test_targets_that_hold_any_code_take_free_levels(target):
    assert DDQConfig(target=target, levels="free").levels == "free"
