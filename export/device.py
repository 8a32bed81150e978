"""Runs a .tflite file on a phone: adb, TensorFlow's or LiteRT's benchmark_model, and its numbers.

Needs the standard library and `adb`. Everything lives in a folder of its own on the device, which
goes away at the end, whatever the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddq_tf.errors import DDQError

TOOL_VARIABLE = "DDQ_BENCHMARK_MODEL"
TOOL_ADVICE = (
    "benchmark_model for phones is android_aarch64_benchmark_model on "
    "https://ai.google.dev/edge/litert/models/measurement, or the android_arm64 build on "
    "https://ai.google.dev/edge/litert/next/benchmark. Download it and give its path as --tool or "
    f"in the environment variable {TOOL_VARIABLE}"
)

_REMOTE = "/data/local/tmp"
_SHORT_S = 30.0
_PUSH_S = 300.0
_TAIL_LINES = 12
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}

_STATES = {
    "unauthorized": "unlock it and allow USB debugging for this computer; without a dialog there, "
    "unplug it and call `adb kill-server`",
    "authorizing": "unlock it and allow USB debugging for this computer",
    "offline": "unplug it and plug it in again, then `adb reconnect offline`; restart it if that "
    "does not help",
    "no permissions": "this computer's user may not open it: install the package "
    "android-sdk-platform-tools-common (udev rules), plug it in again, or be in group plugdev",
}

# What adb and the tool say, and what to do about it; the first that matches counts.
_CURES = (
    (r"no space left on device", "free space in /data on the device, then try again"),
    (r"read-only file system", "/data/local/tmp of this device cannot be written"),
    (r"device unauthorized|unauthorized", _STATES["unauthorized"]),
    (r"device offline", _STATES["offline"]),
    (
        r"device '.*' not found|no devices/emulators found|error: closed|device .*disconnected",
        "the device went away: check the cable, and that it is not set to charging only",
    ),
    (r"more than one device", "name one as serial (--serial)"),
    (
        r"find op for builtin opcode|Op builtin_code out of range|Unsupported data type",
        "the tool is older than the file needs: download a newer one, or export with "
        "--target=litert-int8",
    ),
    (r"taskset", "--cpu_mask must name cores that the device has, as in f0 for cores 4 to 7"),
    (
        r"cannot link executable",
        "this build wants libraries beside it; android_aarch64_benchmark_model of TensorFlow's "
        "nightly builds wants none",
    ),
    (
        r"benchmark_model.*(not found|no such file|not executable|exec format)",
        f"the tool must be the build for Android and this device's processor: {TOOL_ADVICE}",
    ),
    (r"permission denied", "the device forbids running programs from /data/local/tmp"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployResult:
    """What a run on a device measured; times in milliseconds, memory in MiB.

    Attributes:
        serial: of the device, as adb knows it.
        device: its model name.
        abi: its processor's, for example "arm64-v8a".
        command: the line that ran there.
        runs: how many inferences were timed.
        avg_ms: their mean.
        min_ms: the fastest.
        max_ms: the slowest.
        std_ms: their standard deviation.
        median_ms: None from tools that do not tell.
        init_ms: loading the model and preparing the delegate; None from tools that do not tell.
        first_ms: the first inference, a warm-up; likewise.
        memory_init_mib: growth of the process until it was ready; likewise.
        memory_overall_mib: until the end; likewise.
        partitions: how many parts XNNPACK took over, 1 with `is_delegated`; likewise.
        is_delegated: whether XNNPACK ran the whole model; likewise.
        leftover: the folder on the device if it could not be removed, else "".
        log: what the tool wrote.
    """

    serial: str
    device: str
    abi: str
    command: str
    runs: int
    avg_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    median_ms: float | None
    init_ms: float | None
    first_ms: float | None
    memory_init_mib: float | None
    memory_overall_mib: float | None
    partitions: int | None
    is_delegated: bool | None
    leftover: str
    log: str = dataclasses.field(repr=False)


def deploy(
    model: str | os.PathLike[str],
    *,
    tool: str | os.PathLike[str] | None = None,
    serial: str | None = None,
    num_threads: int = 1,
    cpu_mask: str | None = None,
    num_runs: int = 50,
    warmup_runs: int = 1,
    use_xnnpack: bool = True,
    timeout_s: float = 300.0,
) -> DeployResult:
    """Copies a model to a phone, runs it there and returns what benchmark_model measured.

    Args:
        model: path of a .tflite file.
        tool: path of benchmark_model, built for Android; None for $DDQ_BENCHMARK_MODEL.
        serial: of the device; None for $ANDROID_SERIAL, or the only one that is ready.
        num_threads: used by each op.
        cpu_mask: the cores to run on, in hexadecimal, as in "f0" for cores 4 to 7; None for all.
            Big cores differ in number and place: see /sys/devices/system/cpu on the device.
        num_runs: how many inferences to time at least; the tool also times at least one second.
        warmup_runs: how many to run before, at least half a second.
        use_xnnpack: False for the built-in kernels, which round differently and are slower.
        timeout_s: for the run itself.

    Raises:
        DDQError: if adb, a ready device or the tool is missing, or something fails on the way; it
            says what to do.
    """
    return deploy_several(
        [model],
        tool=tool,
        serial=serial,
        num_threads=num_threads,
        cpu_mask=cpu_mask,
        num_runs=num_runs,
        warmup_runs=warmup_runs,
        use_xnnpack=use_xnnpack,
        timeout_s=timeout_s,
    )[0]


def deploy_several(
    models: Sequence[str | os.PathLike[str]],
    *,
    tool: str | os.PathLike[str] | None = None,
    serial: str | None = None,
    num_threads: int = 1,
    cpu_mask: str | None = None,
    num_runs: int = 50,
    warmup_runs: int = 1,
    use_xnnpack: bool = True,
    timeout_s: float = 300.0,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[DeployResult]:
    """Runs several models on a phone, one after the other; the tool is copied once.

    Args:
        models: paths of .tflite files.
        tool: as for `deploy`, like all others that are not named here.
        serial: likewise.
        num_threads: likewise.
        cpu_mask: likewise.
        num_runs: likewise.
        warmup_runs: likewise.
        use_xnnpack: likewise.
        timeout_s: for each run.
        on_done: called after each model with how many are done, of all.

    Returns:
        A result for each model, in their order.

    Raises:
        DDQError: as `deploy`.
    """
    contents = [_checked_model(Path(model)) for model in models]
    flags = _flags(num_threads, cpu_mask, num_runs, warmup_runs, use_xnnpack)
    tool_path, tool_abi = _checked_tool(tool)
    adb = _Adb.connect(serial)
    abi, name = adb.describe()
    if abi != tool_abi:
        raise DDQError(
            f"{tool_path} is built for {tool_abi}; the device {adb.serial} is {abi or 'unknown'}. "
            "Download the build for the device (android_aarch64: arm64-v8a, android_arm: "
            "armeabi-v7a)"
        )
    leftovers: list[str] = []
    logs = []
    with _remote_folder(adb, leftovers) as folder:
        adb.push(tool_path, f"{folder}/benchmark_model")
        command = _command(folder, flags, cpu_mask)
        # The shell's number becomes the tool's; the clean-up ends it by that.
        start = f"chmod 755 {folder}/benchmark_model && echo $$ >{folder}/pid && exec {command}"
        for done, content in enumerate(contents, 1):
            adb.push(content, f"{folder}/model.tflite")
            logs.append(adb.shell(start, timeout_s))
            on_done(done, len(contents))
        measured = [_parse(log) for log in logs]
    return [
        DeployResult(
            serial=adb.serial,
            device=name,
            abi=abi,
            command=command,
            leftover="".join(leftovers),
            log=log,
            **numbers,
        )
        for log, numbers in zip(logs, measured, strict=True)
    ]


def _checked_model(path: Path) -> Path:
    """Returns the absolute path of a .tflite file."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DDQError(f"cannot read the model {str(path)!r}: {error.strerror}") from error
    if head[4:8] != b"TFL3":
        raise DDQError(f"a .tflite file has b'TFL3' at byte 4. Received: {str(path)!r}")
    return path.absolute()


def _flags(
    num_threads: int, cpu_mask: str | None, num_runs: int, warmup_runs: int, use_xnnpack: bool
) -> list[str]:
    """Returns the tool's flags but for the model."""
    if min(num_threads, num_runs) < 1 or warmup_runs < 0:
        raise DDQError(
            "num_threads and num_runs must be at least 1, warmup_runs at least 0. Received: "
            f"num_threads={num_threads}, num_runs={num_runs}, warmup_runs={warmup_runs}"
        )
    if cpu_mask is not None and not re.fullmatch("[0-9a-fA-F]*[1-9a-fA-F][0-9a-fA-F]*", cpu_mask):
        raise DDQError(
            "cpu_mask must be hexadecimal digits without 0x, as in f0 for cores 4 to 7. "
            f"Received: {cpu_mask!r}"
        )
    return [
        f"--num_threads={num_threads}",
        f"--num_runs={num_runs}",
        f"--warmup_runs={warmup_runs}",
        f"--use_xnnpack={'true' if use_xnnpack else 'false'}",
    ]


def _checked_tool(tool: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """Returns the absolute path of benchmark_model and the ABI it is built for."""
    chosen = tool or os.environ.get(TOOL_VARIABLE)
    if not chosen:
        raise DDQError(f"the tool that runs models is missing. {TOOL_ADVICE}")
    path = Path(chosen)
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError as error:
        raise DDQError(
            f"cannot read the tool {str(path)!r}: {error.strerror}. {TOOL_ADVICE}"
        ) from error
    abi = _ABIS.get(int.from_bytes(head[18:20], "little"))
    if head[:4] != b"\x7fELF" or abi is None:
        raise DDQError(f"{str(path)!r} is no program for Android. {TOOL_ADVICE}")
    return path.absolute(), abi


def _command(folder: str, flags: list[str], cpu_mask: str | None) -> str:
    """Returns the line to run on the device."""
    words = [f"{folder}/benchmark_model", f"--graph={folder}/model.tflite", *flags]
    return shlex.join(["taskset", cpu_mask, *words] if cpu_mask else words)


@contextlib.contextmanager
def _remote_folder(adb: _Adb, leftovers: list[str]) -> Iterator[str]:
    """Yields a new folder on the device, and removes it; adds it to `leftovers` if it cannot.

    After a timeout or an interrupt the tool may still run there: it is ended first.
    """
    folder = f"{_REMOTE}/ddq-{secrets.token_hex(4)}"
    try:
        adb.shell(f"mkdir {folder}")
        yield folder
    except BaseException as error:
        kill = f"kill -9 $(cat {folder}/pid) 2>/dev/null; rm -rf {folder}"
        if not adb.tries(kill) and isinstance(error, DDQError):
            raise DDQError(
                f"{error}\n{folder} may still be on the device; once it answers again: "
                f"adb -s {shlex.quote(adb.serial)} shell rm -rf {folder}"
            ) from error
        raise
    if not adb.tries(f"rm -rf {folder}"):
        leftovers.append(folder)


@dataclasses.dataclass(frozen=True)
class _Adb:
    """The adb program, talking to one device."""

    program: str
    serial: str

    @classmethod
    def connect(cls, serial: str | None) -> _Adb:
        """Returns adb with the device chosen."""
        program = shutil.which("adb")
        if program is None:
            raise DDQError(
                "adb is missing. Install it (Debian, Ubuntu: apt-get install adb; else "
                "https://developer.android.com/tools/releases/platform-tools) and put it on PATH"
            )
        listed = _run([program, "devices", "-l"], _SHORT_S)
        chosen = serial or os.environ.get("ANDROID_SERIAL")
        return cls(program, _choose(_devices(listed), chosen))

    def describe(self) -> tuple[str, str]:
        """Returns the device's ABI and model name."""
        lines = self.shell("getprop ro.product.cpu.abi; getprop ro.product.model").splitlines()
        return lines[0].strip() if lines else "", lines[1].strip() if len(lines) > 1 else ""

    def shell(self, line: str, timeout_s: float = _SHORT_S) -> str:
        """Returns what a line of the device's shell prints."""
        return _run([self.program, "-s", self.serial, "shell", line], timeout_s)

    def push(self, path: Path, target: str) -> None:
        """Copies a file to the device."""
        _run([self.program, "-s", self.serial, "push", str(path), target], _PUSH_S)

    def tries(self, line: str) -> bool:
        """Whether a line of the device's shell ran without an error."""
        try:
            self.shell(line)
        except DDQError:
            return False
        return True


def _run(command: list[str], timeout_s: float) -> str:
    """Returns what a command prints, errors too: the tool logs to either.

    Raises:
        DDQError: if it fails; it says what to do where that is known.
    """
    words = command[3:] if command[1] == "-s" else command[1:]
    label = f"`adb {' '.join(words)}`"
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DDQError(
            f"{label} did not end within {timeout_s:g} s. Keep the device awake and cool, or give "
            "it longer (--timeout) or fewer runs (--num_runs)"
        ) from error
    except OSError as error:
        raise DDQError(f"cannot run {command[0]}: {error.strerror}") from error
    output = ran.stdout.decode(errors="replace").replace("\r\n", "\n")
    if ran.returncode:
        raise DDQError(_failure(label, ran.returncode, output))
    return output


def _failure(label: str, code: int, output: str) -> str:
    """Returns a message about a command that failed."""
    cure = next((cure for words, cure in _CURES if re.search(words, output, re.IGNORECASE)), "")
    if not cure and code > 128:
        cure = "it crashed: try another build of the tool, and the file on this computer"
    tail = [line for line in output.splitlines() if line.strip()][-_TAIL_LINES:]
    cure = f"What to do: {cure}" if cure else ""
    return "\n".join(filter(None, [f"{label} failed with exit code {code}:", *tail, cure]))


def _devices(listed: str) -> dict[str, tuple[str, str]]:
    """Returns state and model name by serial, from what `adb devices -l` prints."""
    found = {}
    # Before the headline, adb may tell of starting its server.
    for line in listed.partition("List of devices attached")[2].splitlines():
        match = re.match(r"(\S+)\s+(no permissions|[a-z]+)\b(.*)", line)
        if match:
            name = re.search(r"model:(\S+)", match[3])
            found[match[1]] = (match[2], name[1] if name else "")
    return found


def _choose(devices: Mapping[str, tuple[str, str]], serial: str | None) -> str:
    """Returns the serial of the device to use."""
    if serial is not None and serial not in devices:
        raise DDQError(
            f"there is no device {serial!r}. Connected: {', '.join(devices) or 'none'}. "
            "`adb devices -l` lists them"
        )
    if not devices:
        raise DDQError(
            "no device is connected. Plug in a phone, turn on USB debugging in its developer "
            "options and allow this computer; `adb devices` then lists it"
        )
    if serial is None:
        ready = [name for name, (state, _) in devices.items() if state == "device"]
        if len(ready) > 1:
            listed = ", ".join(f"{name} ({devices[name][1]})" for name in ready)
            raise DDQError(
                f"several devices are connected; name one as serial (--serial): {listed}"
            )
        serial = ready[0] if ready else None
    if serial is None or devices[serial][0] != "device":
        wanted = devices if serial is None else [serial]
        problems = [
            f"{name} is {devices[name][0]}: "
            + _STATES.get(devices[name][0], "start it normally, then try again")
            for name in wanted
        ]
        raise DDQError("no device is ready.\n" + "\n".join(problems))
    return serial


def _parse(log: str) -> dict[str, Any]:
    """Returns the measurements in the tool's log; see `DeployResult`.

    TensorFlow's tool and that of LiteRT 2 share the line of statistics and differ in the rest.
    """
    ignored = re.search(r"Unconsumed cmdline flags: (.*)", log)
    if ignored and ignored[1].split() != ["--use_xnnpack=true"]:
        raise DDQError(
            f"this build of benchmark_model does not know {ignored[1].strip()}, so it measured "
            "something else than was asked for. LiteRT 2's always runs XNNPACK on the CPU"
        )
    # One for the warm-up, one for the runs, in this order.
    statistics = re.findall(r"count=(\d+) (.*curr=.*)", log)
    if not statistics:
        tail = "\n".join(log.splitlines()[-_TAIL_LINES:])
        raise DDQError(f"benchmark_model printed no timings. `adb logcat` may tell more:\n{tail}")
    count, words = statistics[-1]
    us = {key: float(value) for key, value in re.findall(r"(\w+)=([\d.e+-]+)", words)}
    only = us["curr"]
    median = us.get("median")
    init_us = _number(r"Inference timings in us: Init: ([\d.e+]+)", log)
    first_us = _number(r"First inference: ([\d.e+]+)", log)
    return {
        "runs": int(count),
        "avg_ms": us.get("avg", only) / 1e3,
        "min_ms": us.get("min", only) / 1e3,
        "max_ms": us.get("max", only) / 1e3,
        "std_ms": us.get("std", 0.0) / 1e3,
        "median_ms": None if median is None else median / 1e3,
        "init_ms": _number(r"Model initialization: +([\d.e+]+) ms", log)
        if init_us is None
        else init_us / 1e3,
        "first_ms": _number(r"Warmup \(first\): +([\d.e+]+) ms", log)
        if first_us is None
        else first_us / 1e3,
        "memory_init_mib": _number(r"(?:\(MB\): init=|Init footprint: +)([\d.e+]+)", log),
        "memory_overall_mib": _number(r"(?: overall=|Overall footprint: +)([\d.e+]+)", log),
        **_delegation(log),
    }


def _number(pattern: str, log: str) -> float | None:
    """Returns the number that a pattern finds, or None."""
    match = re.search(pattern, log)
    return float(match[1]) if match else None


def _delegation(log: str) -> dict[str, int | bool | None]:
    """Returns what the tool tells of XNNPACK."""
    if "XNNPACK delegate, and the model graph will be completely executed" in log:
        return {"partitions": 1, "is_delegated": True}
    parts = _number(r"XNNPACK delegate, and the model graph will be partially .*w/ (\d+)", log)
    if parts is not None:
        return {"partitions": int(parts), "is_delegated": False}
    if "XNNPACK delegate is explicitly applied, the model graph will not be" in log:
        return {"partitions": 0, "is_delegated": False}
    return {"partitions": None, "is_delegated": None}
