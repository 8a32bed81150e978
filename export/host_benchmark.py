"""Latency and memory of .tflite files in this computer's LiteRT interpreter, side by side.

A computer is no phone: ratios between files carry over only as far as the kernels do.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from ddq_tf.errors import DDQError
from ddq_tf.export.interpreter import Model, Runner, TensorInfo, content_of

WARMUP_RUNS = 10
_MEMORY_RUNS = 3
_SMAPS = Path("/proc/self/smaps_rollup")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # sets VmHWM, the peak of resident memory, to what is resident now
_PROBE = "from ddq_tf.export.host_benchmark import probe_memory; probe_memory()"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """What one model took.

    Attributes:
        name: as given.
        size_bytes: of the file.
        runs: how many inferences were timed.
        median_ms: time of one inference, one example.
        p10_ms: a tenth of the inferences was faster.
        p90_ms: a tenth was slower.
        ratio: median of the times over those of the first model in the same round, so that what
            slows the computer for a while slows both.
        memory_mib: private memory that loading and running the model adds to a fresh process:
            the file, which this runtime copies (on phones it can be mapped instead), the packed
            weights and the activations. None where the system does not tell (other than Linux).
        peak_memory_mib: the most that the process grew meanwhile, the runtime's own code included.
            None likewise.
    """

    name: str
    size_bytes: int
    runs: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    ratio: float
    memory_mib: float | None
    peak_memory_mib: float | None


def benchmark(
    models: Mapping[str, Model],
    *,
    runs: int = 200,
    num_threads: int = 1,
    delegate: bool = True,
    seed: int = 0,
) -> list[BenchmarkRow]:
    """Times models on random inputs, one example at a time, in turns.

    Args:
        models: paths or contents of .tflite files by name; the first is the yardstick.
        runs: timed inferences of each model, after ten that are not.
        num_threads: used by each op.
        delegate: whether XNNPACK may take over ops, as in every default runtime.
        seed: of the random inputs.

    Returns:
        A row for each model, in their order.

    Raises:
        DDQError: if there is no model, a model cannot be run, or a number is below 1.
    """
    if not models or min(runs, num_threads) < 1:
        raise DDQError(
            "give at least one model, and runs and num_threads of at least 1. Received: "
            f"{len(models)} models, runs={runs}, num_threads={num_threads}"
        )
    contents = {name: content_of(model) for name, model in models.items()}
    interpreters = [
        prepared(content, num_threads=num_threads, delegate=delegate, seed=seed)
        for content in contents.values()
    ]
    for interpreter in interpreters:
        for _ in range(WARMUP_RUNS):
            interpreter.invoke()
    times_ms = interleaved_ms(interpreters, runs)
    rows = []
    for (name, content), times in zip(contents.items(), times_ms, strict=True):
        memory_mib, peak_mib = _memory_mib(content, num_threads=num_threads, delegate=delegate)
        p10, median, p90 = np.percentile(times, (10, 50, 90))
        rows.append(
            BenchmarkRow(
                name=name,
                size_bytes=len(content),
                runs=runs,
                median_ms=float(median),
                p10_ms=float(p10),
                p90_ms=float(p90),
                ratio=float(np.median(times / times_ms[0])),
                memory_mib=memory_mib,
                peak_memory_mib=peak_mib,
            )
        )
    return rows


def probe_memory() -> None:
    """Prints what a model adds to this process; the child's side of `benchmark`.

    Prints two numbers: private bytes, and the peak of resident bytes.
    Takes its arguments from the command line: path, threads, delegate (0 or 1).
    """
    path, num_threads, delegate = sys.argv[1], int(sys.argv[2]), bool(int(sys.argv[3]))
    _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    private, resident = _private_bytes(), _status_bytes("VmRSS")
    interpreter = _interpreter(num_threads=num_threads, delegate=delegate, path=path)
    for _ in range(_MEMORY_RUNS):
        interpreter.invoke()
    print(_private_bytes() - private, _status_bytes("VmHWM") - resident)


def prepared(content: bytes, *, num_threads: int, delegate: bool, seed: int) -> Interpreter:
    """Returns an interpreter with one random example set; raises DDQError if it cannot run."""
    infos = Runner(content, delegate=delegate).inputs  # refuses what cannot be run
    interpreter = _interpreter(num_threads=num_threads, delegate=delegate, content=content)
    rng = np.random.default_rng(seed)
    for info in infos.values():
        interpreter.set_tensor(info.index, _random(info, rng))
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise DDQError(f"the LiteRT runtime cannot run this model: {error}") from error
    return interpreter


def _interpreter(
    *, num_threads: int, delegate: bool, content: bytes | None = None, path: str | None = None
) -> Interpreter:
    """Returns an interpreter with its tensors allocated; a dynamic batch is then 1."""
    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_path=path,
        model_content=content,
        num_threads=num_threads,
        experimental_op_resolver_type=resolver,
    )
    interpreter.allocate_tensors()
    return interpreter


def _random(info: TensorInfo, rng: np.random.Generator) -> np.ndarray:
    """Returns one example of an input: any code, or floats in [-1, 1)."""
    shape = tuple(max(size, 1) for size in info.shape)
    if np.issubdtype(info.dtype, np.integer):
        limits = np.iinfo(info.dtype)
        return rng.integers(limits.min, limits.max, shape, info.dtype, endpoint=True)
    return rng.uniform(-1, 1, shape).astype(info.dtype)


def interleaved_ms(interpreters: Sequence[Interpreter], runs: int) -> np.ndarray:
    """Returns the time of each inference, shape (models, runs), in ms."""
    times = np.empty((len(interpreters), runs))
    for turn in range(runs):
        # Each model is first, and follows each other, equally often: caches favour none.
        for offset in range(len(interpreters)):
            position = (turn + offset) % len(interpreters)
            start = time.perf_counter_ns()
            interpreters[position].invoke()
            times[position, turn] = (time.perf_counter_ns() - start) / 1e6
    return times


def _memory_mib(
    content: bytes, *, num_threads: int, delegate: bool
) -> tuple[float, float] | tuple[None, None]:
    """Returns the private memory that a model takes in a process of its own, and the peak."""
    if not _SMAPS.exists():
        return None, None
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        ran = subprocess.run(
            [sys.executable, "-c", _PROBE, str(path), str(num_threads), str(int(delegate))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise DDQError(f"measuring the memory failed: {ran.stderr.strip()[-500:]}")
    private, peak = (int(number) / 2**20 for number in ran.stdout.split()[-2:])
    return private, peak


def _private_bytes() -> int:
    """Returns the memory that this process shares with nobody and has written to."""
    lines = _SMAPS.read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def _status_bytes(field: str) -> int:
    """Returns a number of /proc/self/status that is given in kB."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
