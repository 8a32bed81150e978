"""The sub-commands of `ddq` that run a file: on this host, on a phone, in a browser."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ddq_tf import command_line as line
from ddq_tf.command_flags import data_flags
from ddq_tf.command_line import COMMON, Call, Command, Outcome, picture_words, range_words

_SLOWEST = 12  # operators that a profile shows; JSON has all
_THREADS = line.integer("num_threads", "N", "threads of each operator", 1)


def _benchmark(call: Call) -> Outcome:
    from ddq_tf.export import benchmark

    flags = call.flags
    rows = benchmark(
        {path: path for path in call.files},
        runs=flags["runs"],
        num_threads=flags["num_threads"],
        delegate=flags["delegate"],
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("bytes", "median ms", "p10", "p90", "ratio", "MiB", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        times = (f"{value:.3f}" for value in (row.median_ms, row.p10_ms, row.p90_ms))
        memory = (
            "-" if mib is None else f"{mib:.1f}" for mib in (row.memory_mib, row.peak_memory_mib)
        )
        table.add_row(row.name, f"{row.size_bytes:,}", *times, f"{row.ratio:.3f}", *memory)
    call.console.print(table)
    call.screen.say(
        "Times are of one inference of one example on this host; ratios are to the first file, "
        "round by round. They say nothing about a phone: see `ddq deploy`."
    )
    results: dict[str, Any] = {"rows": [dataclasses.asdict(row) for row in rows]}
    if flags["profile"]:
        results["profile"] = {path: _profile(call, path) for path in call.files}
    return Outcome(results=results)


def _profile(call: Call, path: str) -> list[dict[str, Any]]:
    """Times each operator of a file and prints the slowest."""
    from ddq_tf.export import profile

    flags = call.flags
    times = profile(path, num_threads=flags["num_threads"], delegate=flags["delegate"])
    table = Table(title=Text(path), title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name in ("operator", "kind", "output"):
        table.add_column(name, overflow="fold")
    for name in ("ms", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for time in sorted(times, key=lambda time: -time.median_ms)[:_SLOWEST]:
        kind = f"{time.kind} {time.weights}"
        shape = " ".join(map(str, time.output_shape))
        table.add_row(f"{time.index}", kind, shape, f"{time.median_ms:.3f}", f"{time.share:.1%}")
    call.console.print(table)
    return [dataclasses.asdict(time) for time in times]


def _deploy(call: Call) -> Outcome:
    from ddq_tf.export import deploy

    flags = call.flags
    result = deploy(
        call.files[0],
        tool=flags["tool"],
        serial=flags["serial"],
        num_threads=flags["num_threads"],
        cpu_mask=flags["cpu_mask"],
        num_runs=flags["num_runs"],
        warmup_runs=flags["warmup_runs"],
        use_xnnpack=flags["use_xnnpack"],
        timeout_s=flags["timeout"],
    )
    spread = f"{result.min_ms:.3f} to {result.max_ms:.3f}, std {result.std_ms:.3f}"
    rows = [
        ("device", f"{result.device} ({result.serial}, {result.abi})"),
        ("inference", f"{result.avg_ms:.3f} ms ({spread}; {result.runs} runs)"),
    ]
    if result.init_ms is not None:
        rows.append(("loading", f"{result.init_ms:.1f} ms"))
    if result.memory_overall_mib is not None:
        rows.append(("memory", f"{result.memory_overall_mib:.1f} MiB"))
    call.screen.table(rows)
    if result.is_delegated is False:
        call.screen.say("note: XNNPACK did not take the whole model; some operators run built in")
    if result.leftover:
        call.screen.say(f"note: the folder {result.leftover} could not be removed from the device")
    values = dataclasses.asdict(result)
    values.pop("log")
    return Outcome(results=values)


def _web(call: Call) -> Outcome:
    from ddq_tf import jobs

    flags = call.flags
    page = jobs.make_web_page(
        call.files[0],
        flags["out"],
        jobs.DataOptions(spec="", **{name: flags[name] for name in _PIXELS}),
        labels=flags["labels"],
        runtime=flags["runtime"],
    )
    image, labels = page.told["input"], len(page.told["labels"])
    call.screen.table(
        [
            ("saved", f"{page.folder}, {page.size_bytes:,} bytes"),
            (
                "pictures",
                picture_words(image["crop"], image["resize"], image["channels"], page.sources),
            ),
            ("input range", f"{range_words(page.input_range)}, {page.sources['input_range']}"),
            ("labels", f"{labels}" if labels else "none: classes are shown by number"),
        ],
    )
    call.screen.say(
        f"Any web server serves it; here: python3 -m http.server --directory {page.folder}, then "
        "open http://localhost:8000"
    )
    return Outcome(results=page.results)


_PIXELS = ("input_range", "mean", "std", "channels", "crop", "resize")
_PIXEL_FLAGS = tuple(
    flag
    for flag in data_flags(
        batch_size=1, range_by="what the file's metadata say, or its input shows"
    )
    if flag.name in _PIXELS
)
RUNTIME_COMMANDS = (
    Command(
        name="benchmark",
        summary="Time .tflite files on this host, in turns.",
        files=("FILE.tflite", "MORE.tflite..."),
        notes="The first file is the yardstick: give the stock int8 file first.",
        flags=(
            line.integer("runs", "N", "timed inferences of each file", 200),
            _THREADS,
            line.switch("delegate", "XNNPACK, as in every app; off, built-in kernels run", True),
            line.switch("profile", "also time each operator by itself, and show the slowest"),
            *COMMON,
        ),
        example="ddq benchmark stock_int8.tflite ddq.tflite",
        run=_benchmark,
    ),
    Command(
        name="deploy",
        summary="Run a .tflite file on an Android phone and time it there.",
        files=("FILE.tflite",),
        notes=(
            "Needs adb, a phone with USB debugging, and benchmark_model built for Android; what "
            "is missing is said, with where to get it. The phone is left as it was."
        ),
        flags=(
            line.text(
                "tool", "FILE", "benchmark_model for Android; by default $DDQ_BENCHMARK_MODEL"
            ),
            line.text(
                "serial", "ID", "as `adb devices` lists it; by default the only one that is ready"
            ),
            _THREADS,
            line.text(
                "cpu_mask", "HEX", "cores to run on, as in f0 for cores 4 to 7; by default all"
            ),
            line.integer(
                "num_runs", "N", "timed inferences, at least (and at least one second)", 50
            ),
            line.integer(
                "warmup_runs", "N", "inferences before (and at least half a second)", 1, low=0
            ),
            line.switch("use_xnnpack", "as in every app; off, built-in kernels run", True),
            line.number("timeout", "SECONDS", "for the run on the device", 300.0),
            *COMMON,
        ),
        example="ddq deploy ddq.tflite --tool=android_aarch64_benchmark_model --cpu_mask=f0",
        run=_deploy,
    ),
    Command(
        name="web",
        summary="Make a folder with a page that runs a .tflite file in the browser.",
        files=("FILE.tflite",),
        notes=(
            "Downloads LiteRT.js (12 MB) from the npm registry, unless --runtime is given, and "
            "checks it. The folder then needs no network: any web server serves it. Pictures are "
            "cut, resized and normalized as in training, which the file's metadata tell where no "
            "flag does, and stay in the browser."
        ),
        flags=(
            line.text("out", "FOLDER", "to make, or an earlier one to replace", required=True),
            line.text("labels", "FILE", "the classes, one a line; by default those in the file"),
            line.text(
                "runtime",
                "FOLDER",
                "with LiteRT.js: npm's .tgz, a node_modules, or an earlier FOLDER of this command",
            ),
            *_PIXEL_FLAGS,
            *COMMON,
        ),
        example="ddq web ddq.tflite --out=site",
        run=_web,
    ),
)
