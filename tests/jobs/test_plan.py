"""What is told before a job: counts against those by hand, times by a clock that is set."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import pytest
from rich.console import Console

from ddq_tf import DDQConfig, cli, quantize_model
from ddq_tf.jobs import plan
from ddq_tf.jobs.screen import Screen
from ddq_tf.pictures import Augment
from ddq_tf.recipes import TrainConfig
from tests.toys import images, mixed_net

# Weights of `mixed_net`: a convolution, two pointwise ones and a dense layer.
_CONV, _NARROW = 3 * 3 * 3 * 8, 8 * 16 + 16 * 8 + 8 * 4


class Clock:
    """Seconds as they are set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def screen() -> Screen:
    return Screen(Console(file=io.StringIO(), width=200))


def printed(screen: Screen) -> str:
    assert screen.console is not None
    return screen.console.file.getvalue()  # type: ignore[attr-defined]


def test_what_is_quantized() -> None:
    config = DDQConfig(budget=0.8)
    rows = dict(plan.quantization_rows(quantize_model(mixed_net(), config, images(8)), config))
    assert rows["quantized"].startswith("4 layers: ")
    assert rows["quantized"].endswith(f"; {_CONV + _NARROW} weights")
    assert rows["target"] == "litert, precisions of 4, 8 bits"
    budget = f"{int(0.8 * (_CONV + _NARROW))} bytes (80 % of int8)"
    assert rows["budget"] == f"{budget}; {_CONV + _NARROW} at the highest precisions"
    free = DDQConfig(budget=None)
    rows = dict(plan.quantization_rows(quantize_model(mixed_net(), free, images(8)), free))
    assert rows["budget"].startswith("none")


def test_steps_of_a_training() -> None:
    rows = dict(plan.training_rows(TrainConfig(epochs=3, batch_size=32), 40))
    assert rows["training"] == "3 epochs of 40 steps of 32 images: 120 steps, sgd"
    assert rows["augmentation"] == "none"
    changes = Augment(flip=True, pad_crop=4, least_area=0.08)
    rows = dict(plan.training_rows(TrainConfig(), 40, changes))
    assert rows["augmentation"] == ("mirrored, a random part of at least 8%, shifted by up to 4 px")


@pytest.mark.parametrize(
    ("epoch", "words"),
    [
        # 20 s to trace, then 2 s a step: 3 epochs of 30 steps and 6 evaluated batches at a third.
        (0, "about 4 min in all: 2.0 s for a step, of 90; the first took 20.0 s"),
        (2, "about 1 min in all: 2.0 s for a step, of 30; the first took 20.0 s"),
    ],
)
def test_the_time_of_a_training(screen: Screen, epoch: int, words: str) -> None:
    clock = Clock()
    forecast = plan.Forecast(screen, 6, clock)
    forecast.set_params({"epochs": 3, "steps": 30})
    forecast.on_epoch_begin(epoch)
    for batch in range(30):
        clock.now += 2.0 if batch else 20.0
        forecast.on_train_batch_end(batch)
        assert bool(printed(screen)) == (batch >= 5)
    assert printed(screen).strip() == words


def test_the_time_of_steps(screen: Screen) -> None:
    clock = Clock()
    forecast = plan.ProgressForecast(screen, clock)
    for done in range(10, 101):
        forecast.update(done, 100)
        clock.now += 3
        assert bool(printed(screen)) == (done >= 15)
    assert printed(screen).strip().startswith("about 4 min left")  # 85 steps of 3 s


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.2, "1 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h"), (7260, "2 h 1 min")],
)
def test_durations(value: float, words: str) -> None:
    assert plan.duration(value) == words


def test_a_line_leaves_keras_bar_whole() -> None:
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True)
    Screen(terminal).aside("about 4 min")
    told: Any = terminal.file
    assert told.getvalue() == "\r\x1b[2Kabout 4 min\n"
    Screen().aside("nothing")


def test_commands_tell_before_they_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = mixed_net()
    answers = keras.layers.Dense(10, "softmax")(model.get_layer("pool").output)
    keras.Model(model.input, answers).save(tmp_path / "a.keras")
    data = ["--data=digits", "--limit=256", "--batch_size=32"]
    for command, words in (
        (["quantize", "--epochs=1"], "1 epoch of 8 steps of 32 images: 8 steps, sgd"),
        (["reconstruct", "--search_views=0"], "in closed form, on 4 views of 256 images"),
    ):
        name, *rest = command
        out = f"--out={tmp_path / name}.keras"
        assert cli.run([name, str(tmp_path / "a.keras"), *data, *rest, out]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "256 train, " in told
        assert "8x8 px; 10 classes" in told
        assert "bytes (60 % of int8, or the least possible)" in told
        assert words in told
        assert told.index("quantized ") < told.index("about ") < told.index("saved")
