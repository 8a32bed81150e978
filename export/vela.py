"""Arm's Ethos-U NPUs: what Vela, their compiler, makes of a file.

Vela wants 8-bit weights and compresses them without loss, so the low-bit codes of the target
litert-int8 take less flash than codes that use all 8 bits.

Needs the package ethos-u-vela (`pip install "ddq_tf[ethos-u]"`).
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from ddq_tf.errors import DDQError, missing_package
from ddq_tf.export.interpreter import content_of
from ddq_tf.files import atomic_write_bytes

_MEMORIES = ("on_chip_flash", "off_chip_flash", "sram")
_OPERATORS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VelaReport:
    """What Vela says of a compiled network.

    Attributes:
        accelerator: that it was compiled for.
        npu_operators: how many run on the NPU.
        cpu_operators: how many it leaves to the CPU.
        flash_bytes: of flash for weights, biases, scales and commands, in whole blocks of 16.
        sram_bytes: of SRAM for activations and buffers.
        inference_s: Vela's estimate, in seconds; a model of the hardware, not a measurement.
    """

    accelerator: str
    npu_operators: int
    cpu_operators: int
    flash_bytes: int
    sram_bytes: int
    inference_s: float


def compile_with_vela(
    model: bytes | str | os.PathLike[str],
    *,
    accelerator: str = "ethos-u55-128",
    out: str | os.PathLike[str] | None = None,
) -> VelaReport:
    """Compiles an int8 file with Vela's default system configuration.

    Args:
        model: the content of a .tflite file, or its path.
        accelerator: as Vela names it.
        out: where to keep the compiled file; None to drop it.

    Raises:
        DDQError: if ethos-u-vela is missing or refuses the file.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise missing_package("compiling for Ethos-U needs", "ethos-u-vela", "ethos-u")
    content = content_of(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "model.tflite"
        source.write_bytes(content)
        printed = _run(source, accelerator)
        summary = next(folder.glob("*_summary_*.csv"))
        with open(summary, newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        if out is not None:
            atomic_write_bytes(out, (folder / "model_vela.tflite").read_bytes())
    operators = {unit: int(count) for unit, count in _OPERATORS.findall(printed)}
    kib = {name: float(row[f"{name}_memory_used"]) for name in _MEMORIES}
    return VelaReport(
        accelerator=accelerator,
        npu_operators=operators["NPU"],
        cpu_operators=operators["CPU"],
        flash_bytes=round(1024 * (kib["on_chip_flash"] + kib["off_chip_flash"])),
        sram_bytes=round(1024 * kib["sram"]),
        inference_s=float(row["inference_time"]),
    )


def _run(source: Path, accelerator: str) -> str:
    """Runs Vela in a process of its own, which a crash in its native code ends; its output."""
    command = [sys.executable, "-m", "ethosu.vela", str(source)]
    command += ["--accelerator-config", accelerator, "--output-dir", str(source.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not _OPERATORS.search(done.stdout):
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise DDQError(
            f"Vela refuses this model (exit status {done.returncode}): {' '.join(said)}. It takes "
            "8-bit weights only: export for the target 'litert-int8'"
        )
    return done.stdout
