"""Which room may know which: the arrows of docs/architecture.md, read off the import statements."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddq_tf"
BASE = {
    "arguments",
    "config",
    "errors",
    "latency",
    "pictures",
    "recipes",
    "registration",
    "rules",
    "scheme",
    "targets",
    "files",
    "op_kind",
    "xnnpack",
}
BASE_MODULES = {f"ddq_tf.{name}" for name in BASE}

# What each room may import of ddq_tf beside itself and the base.
ROOMS = {
    "answers": set(),
    "backend": set(),
    "quantizers": set(),
    "layers": {"quantizers"},
    "graph": {"layers"},
    "kinds": {"graph", "layers", "quantizers"},
    "grids": {"kinds", "graph", "layers", "quantizers"},
    "search": {"backend", "grids", "graph", "layers", "quantizers"},
    "transform": {"backend", "search", "grids", "kinds", "graph", "layers", "quantizers"},
    "data": {"backend"},
    "report": set(),
    "models": set(),
    "web": {"export"},
    "training": {
        "answers",
        "backend",
        "search",
        "kinds",
        "graph",
        "layers",
        "quantizers",
        "data",
    },
    "reconstruction": {
        "backend",
        "training",
        "transform",
        "search",
        "grids",
        "kinds",
        "graph",
        "layers",
        "quantizers",
    },
    "tfmot": {"transform", "graph", "quantizers"},
    "callbacks": {"training", "jobs", "report"},
    "export": {"answers", "backend", "grids", "kinds", "graph", "layers", "quantizers"},
    "command_line": {"jobs", "report"},
    "commands": {"command_line", "jobs", "report", "export", "training", "reconstruction"},
}
PURE_EXPORT = (
    "ir",
    "packing",
    "operators",
    "simulation",
    "runtime_check",
    "passes",
    "tflite",
    "metadata_schema",
    "metadata_reader",
    "model_metadata",
    "sizes",
    "interpreter",
    "tflm",
    "vela",
)
KERAS_EXPORT = {
    "lower",
    "lowering",
    "one_step",
    "measurement",
    "verification",
    "tflm_verification",
    "exporter",
    "stock",
}


def files_of(room: str) -> list[Path]:
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports at run time, whether at its top or inside a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            # `from ddq_tf import x` names the module ddq_tf.x; deeper names may be attributes.
            deeper = node.module in ("ddq_tf", "ddq_tf.export")
            yield from (
                f"{node.module}.{a.name}" if deeper else str(node.module) for a in node.names
            )


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def rooms_used(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("ddq_tf.")}


def all_files() -> list[Path]:
    return sorted(path for room in (*BASE, *ROOMS) for path in files_of(room))


@pytest.mark.parametrize("name", sorted(BASE))
def test_the_base_needs_the_standard_library_only(name):
    (path,) = files_of(name)
    assert roots(path) - set(sys.stdlib_module_names) <= {"ddq_tf"}
    assert set(imports(path)) & {m for m in imports(path) if m.startswith("ddq_tf")} <= BASE_MODULES


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_knows_only_those_below_it(room):
    for path in files_of(room):
        above = rooms_used(path) - ROOMS[room] - BASE - {room}
        assert not above, f"{path.relative_to(ROOT)} imports {sorted(above)}"


@pytest.mark.parametrize("room", ["quantizers", "layers"])
def test_quantizers_and_layers_run_on_every_backend(room):
    for path in files_of(room):
        if path.name != "native.py":  # the one place of a room for a backend's own kernels
            assert roots(path) & {"tensorflow", "jax", "torch"} == set(), path


@pytest.mark.parametrize("room", ["quantizers", "layers"])
def test_the_native_kernels_are_imported_where_they_are_used(room):
    tree = ast.parse((PACKAGE / room / "native.py").read_text(encoding="utf-8"))
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "tensorflow" not in top


@pytest.mark.parametrize("module", PURE_EXPORT)
def test_the_writer_and_the_runner_know_neither_tensorflow_nor_layers(module):
    for path in files_of(f"export/{module}"):
        assert roots(path) & {"tensorflow", "keras"} == set(), path
        assert rooms_used(path) <= {"export"} | BASE, path
        reached = {n.split(".")[2] for n in imports(path) if n.count(".") >= 2}
        assert reached & KERAS_EXPORT == set(), path


def test_only_the_named_exporters_know_keras():
    knowing = {
        path.relative_to(PACKAGE / "export").with_suffix("").parts[0]
        for path in files_of("export")
        if roots(path) & {"keras", "tensorflow"}
        or rooms_used(path) & {"layers", "graph", "grids", "kinds", "transform"}
    }
    assert knowing <= KERAS_EXPORT


def test_float_models_stand_alone():
    for path in files_of("models"):
        assert roots(path) - set(sys.stdlib_module_names) <= {"keras", "ddq_tf"}, path
        assert rooms_used(path) <= {"models", "errors"}, path


def test_only_the_graph_room_reads_keras_private_graph():
    users = {
        p.relative_to(PACKAGE) for p in all_files() if "_nodes_by_depth" in p.read_text("utf-8")
    }
    # That of Keras 2 is another, which the bridge from TFMOT reads.
    assert users == {
        Path("graph/flatten.py"),
        Path("graph/functional.py"),
        Path("graph/tracing.py"),
        Path("tfmot/convert.py"),
    }


def test_nothing_imports_the_command_line():
    above = {"cli", "commands", "command_line"}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in (*above, "__main__"):
            assert not above & rooms_used(path), path


def test_commands_import_jobs_where_they_run():
    for path in (*files_of("command_line"), *files_of("commands")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {n.module for n in tree.body if isinstance(n, ast.ImportFrom) and n.module}
        rooms = {name.split(".")[1] for name in top if name.startswith("ddq_tf.")}
        assert rooms <= {"command_line", "commands"} | BASE, path


def test_no_room_is_forgotten():
    known = {
        *BASE,
        *ROOMS,
        "cli",
        "quiet",
        "jobs",
        "__init__",
        "__main__",
    }
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found <= known
