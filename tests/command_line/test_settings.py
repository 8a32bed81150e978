"""Flags against the dataclasses whose fields they set, and against what commands call."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddq_tf import DDQConfig, DDQError, ReconstructionConfig, commands
from ddq_tf.arguments import check_types, problems_of, same_as, setting
from ddq_tf.command_line import Command, Group, Outcome, Settings
from ddq_tf.command_line.settings import help_of
from ddq_tf.commands import COMMANDS
from ddq_tf.data import Fit
from ddq_tf.pictures import DataOptions
from ddq_tf.recipes import DDQ_RECIPE, FLOAT_RECIPE, TrainConfig
from ddq_tf.scheme import WeightScheme

ON_A_COMMAND_LINE = (DDQConfig, TrainConfig, ReconstructionConfig, DataOptions)
# Where a command chooses another default than the dataclass, and which.
OTHERWISE = {
    ("train", "epochs"): 20,
    ("quantize", "epochs"): 15,
    ("quantize", "distill"): 0.5,
    ("reconstruct", "batch_size"): 32,
    ("reconstruct", "narrow_range"): False,
    ("verify", "batch_size"): 64,
    ("evaluate", "batch_size"): 64,
    ("report", "batch_size"): 64,
}


def bound() -> Iterator[tuple[str, Command, Settings, dataclasses.Field[Any]]]:
    for name, command in COMMANDS.items():
        for settings in command.settings:
            for field in dataclasses.fields(settings.kind):
                yield name, command, settings, field


def default(command: Command, name: str) -> Any:
    return next(flag.default for flag in command.flags if flag.name == name)


def test_every_file_of_a_command_is_in_the_table():
    folder = Path(commands.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(COMMANDS)


def test_every_field_is_a_flag_or_left_out_for_a_reason():
    for name, command, settings, field in bound():
        there = any(flag.name == settings.name_of(field.name) for flag in command.flags)
        assert there != (field.name in settings.left_out), f"{name}: {field.name}"
    for command in COMMANDS.values():
        for settings in command.settings:
            assert set(settings.left_out) <= {f.name for f in dataclasses.fields(settings.kind)}
            assert all(len(reason.split()) >= 4 for reason in settings.left_out.values())


@pytest.mark.parametrize("kind", ON_A_COMMAND_LINE)
def test_every_setting_is_a_flag_of_some_command(kind):
    left_out = [set(s.left_out) for c in COMMANDS.values() for s in c.settings if s.kind is kind]
    assert set.intersection(*left_out) <= {"rules"}


def test_a_flags_default_is_that_of_the_dataclass():
    found = {}
    for name, command, settings, field in bound():
        if field.name in (*settings.left_out, *settings.follows):
            continue
        told = default(command, settings.name_of(field.name))
        required = field.default is dataclasses.MISSING
        if told != (None if required else field.default):
            found[name, field.name] = told
    assert found == OTHERWISE


@pytest.mark.parametrize(("command", "recipe"), [("train", FLOAT_RECIPE), ("quantize", DDQ_RECIPE)])
def test_the_learning_rate_suits_the_optimizer(command, recipe):
    files = ["a.keras"] if COMMANDS[command].files else []
    for optimizer, rate in recipe.rates.items():
        given = ["--data=digits", "--out=b.keras", f"--optimizer={optimizer}", *files]
        flags, _ = COMMANDS[command].parse(given)
        assert COMMANDS[command].made(flags)[TrainConfig].learning_rate == rate
    assert recipe.settings.learning_rate == recipe.rates[recipe.settings.optimizer]


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_of_several_settings_have_one_default(name):
    defaults: dict[str, set[Any]] = {}
    for settings in COMMANDS[name].settings:
        for flag in settings.flags:
            defaults.setdefault(flag.name, set()).add(flag.default)
    assert all(len(found) == 1 for found in defaults.values()), defaults


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_has_the_default_of_what_its_command_calls(name):
    command = COMMANDS[name]
    module, _, function = command.job.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
    shared = {flag.name: flag.default for flag in command.flags if flag.name in parameters}
    assert shared
    for flag, told in shared.items():
        wanted = parameters[flag].default
        if wanted is not inspect.Parameter.empty:
            wanted = ",".join(wanted) if isinstance(wanted, tuple) else wanted
            assert told == wanted, f"--{flag}"


def test_a_call_is_of_the_job_that_is_named():
    for name, command in COMMANDS.items():
        tree = ast.parse(Path(inspect.getfile(command.run)).read_text("utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        function = command.job.split(".")[-1]
        assert called & {function, f"jobs.{function}"}, name


@pytest.mark.parametrize("kind", [*ON_A_COMMAND_LINE, Fit, WeightScheme])
def test_every_field_is_explained(kind):
    words = help_of(kind)
    assert all(words.get(field.name) for field in dataclasses.fields(kind))


def test_what_a_command_line_says_is_what_the_docstring_says():
    assert help_of(DataOptions)["mean"].startswith("instead of --input_range, with --std: inputs")
    assert help_of(TrainConfig)["distill"] == "share of the float model's opinion in the loss"
    assert "none for no pressure" in help_of(DDQConfig)["budget"]
    for kind in ON_A_COMMAND_LINE:
        for words in help_of(kind).values():
            assert not set(words) & set('`"')
            assert not words.endswith(".")
            assert " see " not in words


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Brew:
    """A dataclass of every type that a setting has.

    Attributes:
        beans: which ones.
        grams: of beans.
        share: of milk.
        strong: whether it wakes.
        cups: how many, in turns.
        ratios: of water.
        name: on the cup; None for whoever comes; see `ddq_tf.Rule`.
    """

    beans: str = setting("java", choices={"java": "mild", "kenya": "sour"})
    grams: int = setting(15, within="[5, 30]", shown="GRAMS")
    share: float = setting(0.1, within="[0, 1)")
    strong: bool = True
    cups: int | tuple[int, ...] = 2
    ratios: tuple[float, ...] | None = None
    name: str | None = "me"

    def __post_init__(self) -> None:
        check_types(self)


BREW = Command(
    name="brew",
    summary="Brew.",
    groups=(Group(title="Coffee", of=(Settings(kind=_Brew),)),),
    example="ddq brew",
    job="none",
    run=lambda call: Outcome(results={}),
)


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        ([], _Brew()),
        (["--beans=kenya", "--grams=30"], _Brew(beans="kenya", grams=30)),
        (["--share=0.5", "--nostrong"], _Brew(share=0.5, strong=False)),
        (["--cups=1,2", "--ratios=1,2.5"], _Brew(cups=(1, 2), ratios=(1, 2.5))),
        (["--name=none"], _Brew(name=None)),
        (["--name=you"], _Brew(name="you")),
    ],
)
def test_fields_of_every_type_become_flags(typed, made):
    flags, _ = BREW.parse(typed)
    assert BREW.made(flags) == {_Brew: made}


def test_the_help_of_fields_of_every_type():
    coffee = BREW.help().split("Coffee:\n")[1]
    assert [line.split()[0] for line in coffee.splitlines() if line.startswith("  --")] == [
        "--beans=java|kenya",
        "--grams=GRAMS",
        "--share=NUMBER",
        "--[no]strong",
        "--cups=N,N",
        "--ratios=N,N",
        "--name=TEXT",
    ]
    assert "which ones: java (mild); kenya (sour) (default: java)" in " ".join(coffee.split())
    assert "on the cup; none for whoever comes (default: me)" in " ".join(coffee.split())


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--grams=4", "--share=1"], r"--grams must lie in \[5, 30\]. Rec.*; --share must lie in"),
        (["--beans=robusta"], "should be one of <java|kenya>"),
        (["--cups=one"], "give whole numbers"),
    ],
)
def test_values_that_do_not_fit_are_named_all_at_once(typed, words):
    with pytest.raises(DDQError, match=words):
        BREW.made(BREW.parse(typed)[0])


def test_problems_of_values():
    assert problems_of(_Brew, {"beans": "java", "grams": 5}) == []
    assert problems_of(_Brew, {"beans": "tea", "grams": 2.5}) == [
        "beans must be one of ['java', 'kenya']. Received: beans='tea'",
        "grams must be a whole number. Received: grams=2.5",
    ]
    with pytest.raises(DDQError, match=r"(?s)_Brew cannot be made:.*beans must.*grams must lie"):
        _Brew(beans="tea", grams=2)


def test_a_field_like_another_dataclasss():
    @dataclasses.dataclass(frozen=True)
    class Tea:
        grams: int = same_as(_Brew, "grams")

        def __post_init__(self) -> None:
            check_types(self)

    assert Tea() == Tea(15)
    with pytest.raises(DDQError, match=r"grams must lie in \[5, 30\]"):
        Tea(31)


def test_defaults_that_stand_in_a_signature_too():
    from ddq_tf.export import ModelMetadata, export_tflite
    from ddq_tf.jobs import export_file
    from ddq_tf.jobs.pixels import DEFAULT_INPUT_RANGE
    from ddq_tf.training import Distillation, QuantizerLearningRate

    def defaults(function: Any) -> dict[str, Any]:
        return {n: p.default for n, p in inspect.signature(function).parameters.items()}

    from ddq_tf import data

    assert defaults(Distillation)["temperature"] == TrainConfig().distill_temperature
    assert "factor" in defaults(QuantizerLearningRate)
    assert (ModelMetadata().crop, ModelMetadata().resize) == (Fit().crop, Fit().resize)
    for function in (data.batches, data.calibration_batches):
        assert defaults(function)["input_range"] == DEFAULT_INPUT_RANGE
    ours, theirs = defaults(export_file), defaults(export_tflite)
    for name in ("target", "input_type", "output_type", "keep_names"):
        assert ours[name] == theirs[name]
