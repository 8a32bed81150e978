"""A case through the whole line: quantize, train, save, load, export, run, compare."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np

import ddq_tf
from ddq_tf.errors import DDQError
from ddq_tf.export import Runner, export_tflite, tflite, verify_tflm
from ddq_tf.export.exporter import target_of
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.graph import flatten
from ddq_tf.layers import DDQFixedGrid, DDQSoftmax, elu
from ddq_tf.transform.calibrate import float_network
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.quantize import rebuilt

from .build import EXAMPLES, config_of, data_of, model_of
from .differences import codes_of, first_difference, is_documented
from .spec import Case

GOOD = ("equal", "documented", "refused")
HANG_S = 60
_FLOAT_TOLERANCE = 1e-3
_NOISE = 300
_BATCHES = (1, 8)
_SLOPES = (0.01, 0.1, 0.2, 0.3, 1.0)  # of leaky ReLUs here; theirs move to the next odd 256th


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: "equal", "documented", "refused", "late_refusal", "foreign", "differs",
            "float_differs", "hang", "abort", "refused_by_litert", "lost_output", or "invalid" for a
            spec that is no Keras model.
        key: what tells faults of one kind apart.
        detail: for people.
        seconds: that it took.
        seconds_of: by phase.
        kib: the most memory that its process has used, where it has one.
    """

    kind: str
    key: str = ""
    detail: str = ""
    seconds: float = 0.0
    seconds_of: dict[str, float] = dataclasses.field(default_factory=dict)
    kib: int = 0

    @property
    def fault(self) -> str:
        """The same for all cases of one fault."""
        return f"{self.kind}: {self.key}" if self.key else self.kind


class _Found(Exception):  # noqa: N818
    """Ends a case."""

    def __init__(self, kind: str, key: str = "", detail: str = "") -> None:
        super().__init__(kind)
        self.outcome = Outcome(kind=kind, key=key, detail=detail)


class _Hang(BaseException):
    """Time is up. No Exception, so that nothing on its way catches it."""


class _Clock:
    """Which phase a case is in, and how long each took."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self.phase = ""
        self._tell = tell
        self._since = time.perf_counter()

    def enter(self, phase: str) -> None:
        """The next phase."""
        now = time.perf_counter()
        if self.phase:
            self.seconds[self.phase] = round(now - self._since, 3)
        self.phase, self._since = phase, now
        self._tell(phase)


def run(
    case: Case,
    folder: Path,
    *,
    limit_s: float = HANG_S,
    tell: Callable[[str], None] = lambda phase: None,
) -> Outcome:
    """Runs a case; what LiteRT's own code does to the process is not caught.

    Args:
        case: to run.
        folder: for its files.
        limit_s: seconds after which it counts as hanging.
        tell: hears the name of each phase when it begins.
    """
    clock, start = _Clock(tell), time.perf_counter()
    keras.backend.clear_session()
    try:
        with _time_limit(limit_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(case, folder, clock)
        outcome = Outcome(kind="equal")
    except _Found as found:
        outcome = found.outcome
    except _Hang as error:
        outcome = Outcome(kind="hang", key=_frame(error), detail=clock.phase)
    except DDQError as error:
        early = clock.phase == "quantize"
        kind = "refused" if early else "late_refusal"
        if "LiteRT runtime" in str(error):
            kind = "refused_by_litert"
        outcome = Outcome(kind=kind, key=_plain(str(error)), detail=str(error)[:600])
    except Exception as error:
        kind = "invalid" if clock.phase == "build" else "foreign"
        key = f"{type(error).__name__} at {_frame(error)}"
        outcome = Outcome(kind=kind, key=key, detail=f"{clock.phase}: {error}"[:600])
    clock.enter("end")
    seconds = round(time.perf_counter() - start, 3)
    return dataclasses.replace(outcome, seconds=seconds, seconds_of=clock.seconds)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _frame(error: BaseException) -> str:
    """The last frame within ddq_tf, else the very last: file and function."""
    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(ddq_tf.__file__).parents[1].resolve())
    paths = [(str(Path(f.filename).resolve()), f) for f in frames]
    ours = [
        (path, f)
        for path, f in paths
        if path.startswith(root) and f"{root}/benchmarks" not in path and "/tests/" not in path
    ]
    path, frame = (ours or paths)[-1]
    shown = path.removeprefix(root).lstrip("/") if ours else Path(path).name
    return f"{shown}:{frame.name}"


def _plain(message: str) -> str:
    """A message without names and numbers."""
    line = " ".join(message.split("\n")[:2])
    line = re.sub(r"'[^']*'", "'...'", line)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "N", line)[:160]


def _run(case: Case, folder: Path, clock: _Clock) -> None:
    clock.enter("build")
    keras.utils.set_random_seed(case.seed)
    model = model_of(case.spec)
    calibration, data = data_of(case)
    _outputs(model, [values[:1] for values in data])  # or Keras itself cannot run it
    clock.enter("quantize")
    several = len(case.spec.inputs) > 1
    given = [calibration] if several else calibration[0]
    q = ddq_tf.quantize_model(model, config_of(case), calibration=given)
    clock.enter("float")
    _compare_floats(model, q, data)
    clock.enter("fit")
    if case.epochs and len({id(t) for t in model.outputs}) == len(model.outputs):
        _fit(q, case, data)
    clock.enter("save")
    q.save(folder / "model.keras")
    clock.enter("load")
    loaded: Any = keras.models.load_model(folder / "model.keras")
    expected = _outputs(loaded, data)
    if not all(np.array_equal(a, b) for a, b in zip(expected, _outputs(q, data), strict=True)):
        raise _Found("differs", "loaded model")
    clock.enter("export")
    content = _exported(loaded, folder / "model.tflite")
    clock.enter("litert")
    runner = Runner(content)
    names = [each.name for each in case.spec.inputs]
    _check_interface(model, names, runner)
    values = dict(zip(names, data, strict=True))
    codes = {name: info.quantize(values[name]) for name, info in runner.inputs.items()}
    received = runner.run(codes)
    clock.enter("compare")
    _compare_batches(loaded, data, expected, runner)
    _compare_codes(case, loaded, data, expected, runner, received)
    if case.config["target"] == "tflm" and importlib.util.find_spec("tflite_micro"):
        _check_micro(case, loaded, folder / "model.tflite", data)


def _outputs(model: Any, data: list[np.ndarray]) -> list[np.ndarray]:
    values = model(data[0] if len(data) == 1 else data, training=False)
    return [np.asarray(each) for each in keras.tree.flatten(values)]


def _compare_floats(model: Any, q: Any, data: list[np.ndarray]) -> None:
    """The DDQ model with all quantizers off, before alignment, against the float model."""
    wanted = _outputs(model, data)
    twin = rebuilt(canonical(flatten(model)), q.ddq_config, model).model
    for layer in twin.layers:
        if isinstance(layer, DDQFixedGrid):
            layer.call = lambda inputs, lift=0.0: inputs
        elif isinstance(layer, keras.layers.LeakyReLU):
            slope = layer.negative_slope
            layer.negative_slope = min(_SLOPES, key=lambda other: abs(other - slope))
        elif isinstance(layer, DDQSoftmax):
            layer.call = lambda inputs, training=None: keras.ops.softmax(inputs)
        elif getattr(layer, "activation", None) is elu:
            layer.activation = keras.activations.elu  # whose e^x - 1 has steps of 6e-8
    with float_network(twin):
        received = _outputs(twin, data)
    if len(wanted) != len(received):
        raise _Found("lost_output", f"quantize_model: {len(received)} of {len(wanted)}")
    for number, (a, b) in enumerate(zip(wanted, received, strict=True)):
        if a.shape != b.shape:
            raise _Found("float_differs", "shape", f"{a.shape} became {b.shape}")
        largest = float(np.max(np.abs(a), initial=1e-30))
        error = float(np.max(np.abs(a - b), initial=0.0)) / largest
        if np.isfinite(a).all() and not error <= _FLOAT_TOLERANCE + _noise(model, data, number):
            detail = f"output {number}: {error:.2e} of the largest value, {largest:.3g}"
            raise _Found("float_differs", "values", detail)


def _noise(model: Any, data: list[np.ndarray], number: int) -> float:
    """What changes in the last bits of all inputs may change an output by, in its largest value.

    It is large where what is left of an output is what cancels: the mean of what has the mean 0.
    """
    rng = np.random.default_rng(0)
    near = [np.float32(v * (1 + 1e-6 * rng.uniform(-1, 1, v.shape))) for v in data]
    one, other = _outputs(model, data)[number], _outputs(model, near)[number]
    change = np.max(np.abs(one - other), initial=0.0)
    return float(_NOISE * change / np.max(np.abs(one), initial=1e-30))


def _fit(q: Any, case: Case, data: list[np.ndarray]) -> None:
    outputs = [np.zeros(values.shape, np.float32) for values in _outputs(q, data)]
    optimizer = keras.optimizers.SGD(0.01, clipnorm=1.0)
    q.compile(optimizer, ["mse"] * len(outputs), run_eagerly=case.eager, jit_compile=False)
    q.fit(
        data[0] if len(data) == 1 else data,
        outputs[0] if len(outputs) == 1 else outputs,
        batch_size=EXAMPLES,
        epochs=case.epochs,
        verbose=0,
    )


def _exported(model: Any, path: Path) -> bytes:
    """The file's content; for target tflm, before compression."""
    target = target_of(model)
    if not target.lookup_tables:
        return export_tflite(model, path).path.read_bytes()
    if importlib.util.find_spec("tflite_micro"):
        export_tflite(model, path)
    graph = run_passes(lower(model), target)
    names = getattr(model, "float_outputs", ())
    if len(set(names)) == len(graph.outputs):
        outputs = dict(zip(names, graph.outputs.values(), strict=True))
        graph = dataclasses.replace(graph, outputs=outputs)
    return tflite.write(graph)


def _check_interface(model: Any, input_names: list[str], runner: Runner) -> None:
    """Whether the file has the float model's outputs and inputs, by name and in order."""
    names, received = list(model.output_names), list(runner.outputs)
    if len(received) != len(names):
        raise _Found("lost_output", "number", f"{names} became {received}")
    if len(set(names)) == len(names) and received != names:
        raise _Found("lost_output", "names", f"{names} became {received}")
    inputs = list(runner.inputs)
    if inputs != [name for name in input_names if name in inputs]:
        raise _Found("lost_output", "inputs", f"{input_names} became {inputs}")


def _compare_codes(
    case: Case,
    model: Any,
    data: list[np.ndarray],
    expected: list[np.ndarray],
    runner: Runner,
    received: dict[str, np.ndarray],
) -> None:
    count = total = largest = 0
    for wanted, (name, codes) in zip(expected, received.items(), strict=True):
        info = runner.outputs[name]
        if wanted.shape != codes.shape:
            raise _Found("differs", "shape", f"{name}: {wanted.shape} became {codes.shape}")
        distance = np.abs(codes_of(wanted, info.scale, info.zero_point) - codes.astype(np.int64))
        count += int(np.sum(distance > 0))
        total += distance.size
        largest = max(largest, int(distance.max()))
    if not count:
        return
    first = first_difference(model, data)
    amount = f"{count} of {total} codes, by up to {largest}"
    if first is None:
        raise _Found("differs", "no operator", amount)
    detail = f"{amount}; first {first.party} at {first.kind} of {first.layer}: {first.amount}"
    if is_documented(first, case.config["target"]):
        raise _Found("documented", f"{first.kind} of {first.layer}, {first.weights}", detail)
    raise _Found("differs", f"{first.party} at {first.kind} of {first.layer}", detail)


def _compare_batches(
    model: Any, data: list[np.ndarray], expected: list[np.ndarray], runner: Runner
) -> None:
    """Whether a batch of another size, which an axis may have too, gives the same codes."""
    for count in _BATCHES:
        received = _outputs(model, [values[:count] for values in data])
        for wanted, values, info in zip(expected, received, runner.outputs.values(), strict=True):
            codes = [codes_of(v, info.scale, info.zero_point) for v in (wanted[:count], values)]
            if not np.array_equal(*codes):
                detail = f"{np.sum(codes[0] != codes[1])} of {codes[0].size} codes"
                raise _Found("differs", f"a batch of {count} examples", detail)


def _check_micro(case: Case, model: Any, path: Path, data: list[np.ndarray]) -> None:
    """TFLite Micro rounds twice; it must give what its own plain file gives."""
    if len(data) > 1 or len(case.spec.outputs) > 1:
        return
    found = verify_tflm(model, path, data)
    if not found.equals_plain:
        raise _Found("differs", "TFLite Micro and its plain file", str(found))
