import json
import signal
import sys
from pathlib import Path

import pytest

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.device import TOOL_VARIABLE, deploy
from ddq_tf.jobs.latency import device_table
from ddq_tf.latency import LatencyTable
from tests.export.graphs import small_network

PIXEL = "3A141FDJH000AB        device usb:1-2 product:husky model:Pixel_8_Pro device:husky "
PIXEL += "transport_id:1\n"
EMULATOR = "emulator-5554          device product:sdk model:sdk_gphone64_arm64 transport_id:2\n"
HEAD = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [1]
INFO: Graph: [/data/local/tmp/ddq/model.tflite]
INFO: Use xnnpack: [1]
INFO: Loaded model /data/local/tmp/ddq/model.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
"""
RUNS = """\
INFO: The input model file size (MB): 2.04437
INFO: Initialized session in 5ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if \
exceeding 150 seconds.
INFO: count=41 first=12345 curr=12010 min=11800 max=12345 avg=12000 std=90

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if \
exceeding 150 seconds.
INFO: count=91 first=11111 curr=11000 min=10500 max=1.3e+04 avg=11000.5 std=250 p5=10600 \
median=10990 p95=12000

"""
DELEGATED = "INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely "
DELEGATED += "executed by the delegate.\n"
PARTLY = "INFO: Explicitly applied XNNPACK delegate, and the model graph will be partially "
PARTLY += "executed by the delegate w/ 3 delegate kernels.\n"
TIMINGS = """\
INFO: Inference timings in us: Init: 5000, First inference: 12345, Warmup (avg): 12000, \
Inference (avg): 11000.5
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only \
APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your \
discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=3.5 overall=8.2
"""
LOG = HEAD + DELEGATED + RUNS + TIMINGS
LITERT2_LOG = (
    "WARN: Unconsumed cmdline flags: --use_xnnpack=true\n"
    + RUNS
    + """\
INFO: [benchmark_litert_model.h:94]
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:95] Model initialization: 3.65 ms
INFO: [benchmark_litert_model.h:96] Warmup (first):       12.35 ms
INFO: [benchmark_litert_model.h:98] Warmup (avg):         12.00 ms (41 runs)
INFO: [benchmark_litert_model.h:100] Inference (avg):      11.00 ms (91 runs)
Memory Usage:
INFO: [benchmark_litert_model.h:124] Init footprint:       4.50 MB
INFO: [benchmark_litert_model.h:126] Overall footprint:    9.25 MB
"""
)


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.to_bytes(2, "little")


class Phone:
    """A fake adb on PATH, a model and a tool."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = {"devices": PIXEL, "log": LOG}
        source = (Path(__file__).parent / "fake_adb.py").read_text()
        program = folder / "adb"
        program.write_text(f"#!{sys.executable} -IS\n{source}")
        program.chmod(0o755)
        self.model = folder / "my model;rm.tflite"
        self.model.write_bytes(tflite.write(small_network()))
        self.tool = folder / "benchmark_model"
        self.tool.write_bytes(elf(183))

    def deploy(self, **options):
        (self.folder / "state.json").write_text(json.dumps(self.state))
        return deploy(self.model, **{"tool": self.tool, **options})

    @property
    def calls(self) -> list[list[str]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def folders(self) -> tuple[set[str], set[str]]:
        """The folders that were made on the device, and those that were removed."""
        shells = [" ".join(call[3:]) for call in self.calls if "shell" in call]
        made = {line.split()[-1] for line in shells if line.startswith("mkdir ")}
        removed = {line.split()[-1] for line in shells if "rm -rf " in line}
        return made, removed


@pytest.fixture
def phone(tmp_path, monkeypatch) -> Phone:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.delenv(TOOL_VARIABLE, raising=False)
    return Phone(tmp_path)


def test_measurements(phone):
    result = phone.deploy()
    assert (result.serial, result.device, result.abi) == (
        "3A141FDJH000AB",
        "Pixel 8 Pro",
        "arm64-v8a",
    )
    assert result.runs == 91
    assert (result.avg_ms, result.min_ms, result.max_ms, result.std_ms) == (11.0005, 10.5, 13, 0.25)
    assert (result.median_ms, result.init_ms, result.first_ms) == (10.99, 5.0, 12.345)
    assert (result.memory_init_mib, result.memory_overall_mib) == (3.5, 8.2)
    assert (result.partitions, result.is_delegated) == (1, True)
    assert result.leftover == ""
    assert "completely executed" in result.log


def test_what_runs_on_the_device(phone, monkeypatch):
    monkeypatch.setenv(TOOL_VARIABLE, str(phone.tool))
    result = phone.deploy(
        tool=None, num_threads=2, cpu_mask="f0", num_runs=7, warmup_runs=3, use_xnnpack=False
    )
    folder = result.command.split()[2].rpartition("/")[0]
    assert folder.startswith("/data/local/tmp/ddq-")
    assert result.command == (
        f"taskset f0 {folder}/benchmark_model --graph={folder}/model.tflite "
        "--num_threads=2 --num_runs=7 --warmup_runs=3 --use_xnnpack=false"
    )
    start = ["-s", "3A141FDJH000AB"]
    assert phone.calls[2:] == [
        [*start, "shell", f"mkdir {folder}"],
        [*start, "push", str(phone.tool), f"{folder}/benchmark_model"],
        [*start, "push", str(phone.model), f"{folder}/model.tflite"],
        [
            *start,
            "shell",
            f"chmod 755 {folder}/benchmark_model && echo $$ >{folder}/pid && exec {result.command}",
        ],
        [*start, "shell", f"rm -rf {folder}"],
    ]


def test_the_tool_of_litert_2(phone):
    phone.state["log"] = LITERT2_LOG
    result = phone.deploy()
    assert (result.avg_ms, result.init_ms, result.first_ms) == (11.0005, 3.65, 12.35)
    assert (result.memory_init_mib, result.memory_overall_mib) == (4.5, 9.25)
    assert (result.partitions, result.is_delegated) == (None, None)


@pytest.mark.parametrize(
    ("line", "partitions"),
    [
        (PARTLY, 3),
        (
            "INFO: Though XNNPACK delegate is explicitly applied, the model graph will not be "
            "executed by the delegate.\n",
            0,
        ),
    ],
)
def test_incomplete_delegation_is_told(phone, line, partitions):
    phone.state["log"] = HEAD + line + RUNS + TIMINGS
    result = phone.deploy()
    assert (result.partitions, result.is_delegated) == (partitions, False)


def test_a_single_run_has_no_spread(phone):
    phone.state["log"] = "count=1 curr=2732148\n"
    result = phone.deploy()
    assert (result.runs, result.avg_ms, result.min_ms, result.std_ms) == (1, 2732.148, 2732.148, 0)
    assert (result.init_ms, result.memory_overall_mib, result.median_ms) == (None, None, None)


def test_a_flag_that_the_tool_ignores_is_an_error(phone):
    phone.state["log"] = LITERT2_LOG.replace("xnnpack=true", "xnnpack=false")
    with pytest.raises(DDQError, match="does not know --use_xnnpack=false"):
        phone.deploy(use_xnnpack=False)


def test_a_table_of_times_runs_every_operator_on_the_device(phone, tmp_path):
    (phone.folder / "state.json").write_text(json.dumps(phone.state))
    out = tmp_path / "table.json"
    made = device_table([phone.model], out, tool=phone.tool, cpu_mask="f0")
    assert LatencyTable.load(out) == made
    assert (made.machine, made.runtime) == ("Pixel 8 Pro (arm64-v8a)", "benchmark_model")
    # The fake phone takes 10,990 us for every file, the smallest included, which is taken off.
    assert made.overhead_us == 10990
    assert {(row.median_us, row.low_us, row.high_us) for row in made.rows} == {(0, 0, 2010)}
    (convolution, *_, dense) = dict.fromkeys(row.shape for row in made.rows)
    assert [row.bits for row in made.rows if row.shape == convolution] == [8]
    assert [row.bits for row in made.rows if row.shape == dense] == [2, 4, 8]
    pushed = [call[3] for call in phone.calls if call[2:3] == ["push"]]
    ran = [call[3] for call in phone.calls if "exec taskset f0" in " ".join(call)]
    assert pushed[0] == str(phone.tool)
    assert len(pushed) - 1 == len(set(pushed[1:])) == len(ran) == 1 + len(made.rows)
    made_folders, removed = phone.folders
    assert made_folders == removed


def test_no_adb(phone):
    (phone.folder / "adb").unlink()
    with pytest.raises(DDQError, match=r"adb is missing.*apt-get install adb"):
        phone.deploy()


WIRELESS = "adb-3A141-kxYz._adb-tls-connect._tcp device product:husky model:Pixel_8_Pro\n"
UDEV = "0123456789ABCDEF       no permissions (missing udev rules? user is in the plugdev group); "
UDEV += "see [http://developer.android.com/tools/device.html] usb:1-3 transport_id:2\n"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("", "no device is connected.*USB debugging"),
        ("R58M123ABC             unauthorized usb:1-1 transport_id:4\n", "allow USB debugging"),
        ("192.168.1.20:5555      offline transport_id:4\n", "offline: unplug it"),
        (UDEV, "no permissions: .*udev rules"),
        ("R58M123ABC             recovery usb:1-1\n", "is recovery: start it normally"),
        (PIXEL + EMULATOR, r"several .*3A141FDJH000AB \(Pixel_8_Pro\), emulator-5554"),
    ],
)
def test_no_device_to_use(phone, devices, message):
    phone.state["devices"] = devices
    with pytest.raises(DDQError, match=f"(?s){message}"):
        phone.deploy()
    assert phone.calls == [["devices", "-l"]]


def test_the_device_is_chosen(phone, monkeypatch):
    phone.state["devices"] = PIXEL + EMULATOR
    assert phone.deploy(serial="emulator-5554").serial == "emulator-5554"
    monkeypatch.setenv("ANDROID_SERIAL", "3A141FDJH000AB")
    assert phone.deploy().serial == "3A141FDJH000AB"
    with pytest.raises(DDQError, match=r"no device 'X'\. Connected: 3A141FDJH000AB, emulator-5554"):
        phone.deploy(serial="X")
    monkeypatch.delenv("ANDROID_SERIAL")
    phone.state["devices"] = WIRELESS + UDEV
    assert phone.deploy().serial == "adb-3A141-kxYz._adb-tls-connect._tcp"


def test_wrong_abi(phone):
    phone.state["abi"] = "armeabi-v7a"
    with pytest.raises(DDQError, match=r"built for arm64-v8a; the device .* is armeabi-v7a"):
        phone.deploy()
    phone.tool.write_bytes(elf(40))
    assert phone.deploy().abi == "armeabi-v7a"


def test_tool_and_model_are_checked_first(phone):
    with pytest.raises(DDQError, match=rf"tool .* is missing.*{TOOL_VARIABLE}"):
        phone.deploy(tool=None)
    with pytest.raises(DDQError, match="cannot read the tool"):
        phone.deploy(tool=phone.folder / "absent")
    with pytest.raises(DDQError, match="no program for Android"):
        phone.deploy(tool=phone.model)
    with pytest.raises(DDQError, match="hexadecimal"):
        phone.deploy(cpu_mask="f0; reboot")
    with pytest.raises(DDQError, match="num_threads=0"):
        phone.deploy(num_threads=0)
    phone.model.write_bytes(b"no model")
    with pytest.raises(DDQError, match="TFL3"):
        phone.deploy()
    assert not (phone.folder / "calls.jsonl").exists()


FULL = "adb: error: failed to copy 'm' to '/data/local/tmp/m': remote write failed: No space left "
FULL += "on device\n"
OLD = "ERROR: Didn't find op for builtin opcode 'FULLY_CONNECTED' version '10'.\n"
OLD += "ERROR: Failed to construct interpreter\nERROR: Benchmarking failed.\n"
LINUX = "/system/bin/sh: /data/local/tmp/ddq-1/benchmark_model: inaccessible or not found\n"


@pytest.mark.parametrize(
    ("word", "output", "code", "message"),
    [
        ("push", FULL, 1, "free space in /data"),
        ("mkdir", "mkdir: '/data/local/tmp/ddq-1': Permission denied\n", 1, "forbids"),
        ("push", "adb: error: failed to get feature set: device offline\n", 1, "plug it in"),
        ("getprop", "adb: device '3A141FDJH000AB' not found\n", 1, "check the cable"),
        ("exec", OLD, 1, "download a newer one"),
        ("exec", LINUX, 127, "build for Android"),
        ("exec", "Segmentation fault \n", 139, "exit code 139.*it crashed"),
        ("exec", "taskset: bad mask 'f0000'\n", 1, "cores that the device has"),
        ("exec", "ERROR: something new\n", 3, "exit code 3:\nERROR: something new"),
        ("exec", "INFO: STARTING!\n", 0, "no timings"),
    ],
)
def test_failures_name_a_cure_and_leave_nothing(phone, word, output, code, message):
    phone.state["fail"] = {word: [output, code]}
    with pytest.raises(DDQError, match=f"(?s){message}"):
        phone.deploy()
    made, removed = phone.folders
    assert made == removed
    assert len(made) == (word != "getprop")


def test_a_timeout_ends_the_tool_on_the_device(phone):
    phone.state["hang"] = True
    with pytest.raises(DDQError, match=r"did not end within 0\.5 s"):
        phone.deploy(timeout_s=0.5)
    made, removed = phone.folders
    assert made == removed
    assert phone.calls[-1][3].startswith("kill -9 $(cat /data/local/tmp/ddq-")


@pytest.fixture
def ctrl_c():
    """Python's own handler: shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# subprocess gives an interrupted child a quarter of a second, which a busy machine may not hold.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_ends_the_tool_on_the_device(phone, ctrl_c):
    phone.state["interrupt"] = True
    with pytest.raises(KeyboardInterrupt):
        phone.deploy()
    made, removed = phone.folders
    assert made == removed
    assert phone.calls[-1][3].startswith("kill -9 ")


def test_what_cannot_be_removed_is_named(phone):
    phone.state["fail"] = {"rm -rf": ["adb: device offline\n", 1]}
    assert phone.deploy().leftover.startswith("/data/local/tmp/ddq-")
    phone.state["fail"]["push"] = ["adb: device offline\n", 1]
    with pytest.raises(DDQError, match="adb -s 3A141FDJH000AB shell rm -rf /data/local/tmp/ddq-"):
        phone.deploy()
