"""`ddq demo`: the whole way, from data to a verified file, on data that is always at hand."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.export.exporter import export_tflite
from ddq_tf.jobs.quantize import quantize_float
from ddq_tf.jobs.report import Subject, make_report, save_report
from ddq_tf.jobs.screen import Screen
from ddq_tf.jobs.train import train_float
from ddq_tf.pictures import DataOptions
from ddq_tf.recipes import DDQ_RECIPE, FLOAT_RECIPE, TrainConfig
from ddq_tf.report import Report

_BATCH_SIZE = 64
_BUDGET = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo made.

    Attributes:
        folder: with float.keras, ddq.keras, ddq.tflite, report.html and report.json.
        report: everything measured.
        wall_s: seconds by stage.
    """

    folder: Path
    report: Report
    wall_s: dict[str, float]

    @property
    def results(self) -> dict[str, Any]:
        """What JSON should hold."""
        return {
            "folder": str(self.folder),
            "wall_s": self.wall_s,
            "report": self.report.to_dict(),
        }


def run_demo(
    folder: str | os.PathLike[str],
    *,
    fast: bool = False,
    seed: int = 0,
    command: str = "",
    screen: Screen | None = None,
) -> DemoResult:
    """Trains MobileNetV2 (alpha 0.35) on scikit-learn's digits, quantizes, exports, verifies.

    Interrupted, it resumes the training that was under way.

    Args:
        folder: for the results; made if missing.
        fast: half of the training: shows the way, not the accuracy.
        seed: of everything.
        command: to note in the report.
        screen: where to tell what is going on.
    """
    screen, folder = screen or Screen(), _folder(folder)
    backup = folder / f".resume-{'fast' if fast else 'full'}-{seed}"
    clock = _Clock()
    options = DataOptions(spec="digits", batch_size=_BATCH_SIZE)
    trained = train_float(
        "mobilenet_v2",
        options,
        TrainConfig(
            epochs=8 if fast else 13,
            optimizer="adam",
            learning_rate=FLOAT_RECIPE.rates["adam"],
            batch_size=_BATCH_SIZE,
            seed=seed,
        ),
        out=folder / "float.keras",
        model_options={"alpha": 0.35, "output_stride": 16, "batch_norm_momentum": 0.9},
        checkpoint_dir=backup / "float",
        screen=screen,
    )
    clock.lap("float training")
    quantized = quantize_float(
        trained.path,
        options,
        DDQConfig(budget=_BUDGET, seed=seed),
        dataclasses.replace(
            DDQ_RECIPE.settings,
            epochs=5 if fast else 8,
            batch_size=_BATCH_SIZE,
            seed=seed,
        ),
        out=folder / "ddq.keras",
        checkpoint_dir=backup / "ddq",
        screen=screen,
    )
    clock.lap("DDQ training")
    shutil.rmtree(backup, ignore_errors=True)
    screen.heading("Exporting, verifying and comparing with the stock int8 converter")
    exported = export_tflite(quantized.model, folder / "ddq.tflite")
    subject = Subject(
        model=quantized.model,
        content=exported.path.read_bytes(),
        float_model=trained.model,
        images=quantized.images,
        history=quantized.history,
        bits_history=quantized.bits_history,
        error_history=quantized.error_history,
        seed=seed,
    )
    report = make_report(subject, command=command, title="DDQ demo", screen=screen)
    save_report(report, folder / "report.html")
    clock.lap("export, verification, baseline")
    return DemoResult(folder=folder, report=report, wall_s=clock.laps)


def _folder(folder: str | os.PathLike[str]) -> Path:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DDQError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
    return Path(folder)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.monotonic()

    def lap(self, name: str) -> None:
        """Ends a stage."""
        now = time.monotonic()
        self.laps[name] = round(now - self._start, 1)
        self._start = now
