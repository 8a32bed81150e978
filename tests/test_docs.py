"""README and docs: code that runs, commands that parse, links that lead somewhere, whole reference.

Pages are programs: their Python blocks run one after the other in one namespace. HTML comments in a
page say what is not seen on it:

    <!-- continues: PAGE -->     starts with the names and files that PAGE left
    <!-- setup CODE -->          runs before the next block
    <!-- needs: PACKAGE, ... --> the page is skipped where an optional package is missing
    <!-- run -->                 the commands of the next block run too
    <!-- excerpt: FILE -->       what the next block holds also stands in FILE
    <!-- not run: REASON -->     the next block cannot run here
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import beyond_page
import pytest
import tfmot_page
from provenance import RESULTS
from readme_rows import README, with_rows

from ddq_tf import cli
from ddq_tf.commands import COMMANDS

ROOT = README.parent
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md"]
LANGUAGES = {"python", "sh", "kotlin", "text"}
# How many blocks of a page cannot run here; each has its reason beside it.
NOT_RUN = {"android.md": 3, "choosing.md": 1, "distributed.md": 1, "streaming.md": 1, "web.md": 1}
_PARTS = re.compile(r"<!--(.*?)-->|^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: after its fence.
        code: its text.
        line: where in the page it starts.
        notes: the HTML comments since the block before.
    """

    language: str
    code: str
    line: int
    notes: tuple[str, ...]

    def note(self, name: str) -> str | None:
        """What a note says, "" for nothing; None where it is not there."""
        found = [note for note in self.notes if re.match(rf"{name}\b", note)]
        return found[0].removeprefix(name).removeprefix(":").strip() if found else None

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command of a `sh` block."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    text, blocks, notes = page.read_text("utf-8"), [], []
    for match in _PARTS.finditer(text):
        comment, language, code = match.groups()
        if comment is not None:
            notes.append(comment.strip())
            continue
        line = text.count("\n", 0, match.start(3))
        blocks.append(Block(language, code, line, tuple(notes)))
        notes = []
    return blocks


def page_note(page: Path, name: str) -> str:
    """What the first block with such a note says there."""
    notes = (block.note(name) for block in blocks_of(page))
    return next((note for note in notes if note is not None), "")


CODE_PAGES = [page for page in PAGES if any(b.language == "python" for b in blocks_of(page))]
CODE_PAGES += [DOCS / "command_line.md"]  # runs commands only
CONTINUED = {page_note(page, "continues") for page in PAGES}


def run_page(page: Path, namespace: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Runs the code of a page in a folder and returns what it has defined."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        for block in blocks_of(page):
            if block.note("not run") is not None:
                continue
            exec(block.note("setup") or "", namespace)
            if block.language == "python":
                code = compile("\n" * block.line + block.code, str(page), "exec")
                exec(code, namespace)
            elif block.note("run") is not None:
                for command in block.commands:
                    assert cli.run(command[1:]) == 0, command
    finally:
        os.chdir(before)
    return namespace


class Shared:
    """What pages that others continue leave: names, and files in one folder. Each runs once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, dict[str, Any]] = {}

    def after(self, name: str) -> dict[str, Any]:
        """The names that a page leaves, itself after what it continues."""
        if name not in self._names:
            before = page_note(DOCS / name, "continues")
            start = self.after(before) if before else {"__name__": "docs"}
            self._names[name] = run_page(DOCS / name, dict(start), self.folder)
        return self._names[name]


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Shared:
    return Shared(tmp_path_factory.mktemp("docs"))


def test_readme_is_short_and_its_rows_are_those_of_the_results():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 90
    assert with_rows(text) == text, "run python benchmarks/readme_rows.py"


def test_the_values_compared_are_those_of_the_results():
    found = json.loads((RESULTS / "exactness.json").read_text())["results"]["summary"]
    page = (DOCS / "results.md").read_text("utf-8")
    assert f"agree on {found['elements']:,} values of {found['models']}" in page
    arm = [found[core]["different"] for core in ("cortex-a76", "cortex-a53")]
    assert [found["different_simulator_litert"], *arm] == [0, 0, 0]


def test_networks_beyond_cnns_are_those_of_the_results():
    text = beyond_page.PAGE.read_text("utf-8")
    assert beyond_page.with_table(text) == text, "run python benchmarks/beyond_page.py"
    found = json.loads((RESULTS / "exactness_beyond_cnn.json").read_text())["results"]["summary"]
    arm = [found[core]["different"] for core in ("cortex-a76", "cortex-a53")]
    assert [found["different_simulator_litert"], *arm] == [0, 0, 0]
    equal = found["models_with_all_keras_output_codes_equal"]
    assert found["models"] == equal == found["models_in_one_xnnpack_partition"]


def test_the_forms_compared_are_those_of_the_results():
    one = json.loads((RESULTS / "forward_forms.json").read_text())["results"]
    many = json.loads((RESULTS / "exactness_forms.json").read_text())["results"]["summary"]
    page = " ".join((DOCS / "distributed.md").read_text("utf-8").split())
    assert f"all {one['output_codes']:,} output codes of {one['images']:,} test images" in page
    assert f"and all {many['output_codes']:,} of {many['models']} networks" in page
    assert set(one["forms"]) == {"eager", "graph", "xla", "jax"}
    assert {row["different"] for row in one["forms"].values()} == {0}
    assert {"eager", "graph", "jax"} <= set(many["different_by_form"])
    assert set(many["different_by_form"].values()) == {0}


def test_the_page_of_the_bridge_says_what_the_results_say():
    text = tfmot_page.PAGE.read_text("utf-8")
    assert tfmot_page.with_section(text) == text, "run python benchmarks/tfmot_page.py"


@pytest.mark.filterwarnings("ignore")
def test_the_first_page_keeps_what_it_says(shared):
    names = shared.after("with_labels.md")
    budget, files = names["quantized"].weight_budget, {f.name for f in shared.folder.iterdir()}
    assert names["proof"].equal_codes_share == 1
    assert budget.used_bits <= budget.capacity_bits
    assert files >= {"float.keras", "ddq.keras", "digits.tflite"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", CODE_PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, shared, tmp_path, monkeypatch, capsys):
    for package in filter(None, page_note(page, "needs").split(", ")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setattr(os, "environ", os.environ.copy())  # TFMOT sets variables
    if page_note(page, "continues") or page.name in CONTINUED:
        shared.after(page.name)
    else:
        run_page(page, {"__name__": "docs"}, tmp_path)
    if page == README:
        accuracy = float(re.findall(r"'accuracy': ([0-9.]+)", capsys.readouterr().out)[0])
        assert accuracy > 0.9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_are_those_of_the_parser(page):
    blocks = blocks_of(page)
    assert {block.language for block in blocks} <= LANGUAGES
    not_run = [block.note("not run") for block in blocks if block.note("not run") is not None]
    assert all(not_run)
    assert len(not_run) == NOT_RUN.get(page.name, 0)
    assert all(b.note("not run") for b in blocks if b.language == "kotlin")
    for block in blocks:
        for words in block.commands if block.language == "sh" else ():
            check_command(words, is_run=block.note("not run") is None)
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^    ((?:bash|ddq|make|pip|python) .*)$", text, re.MULTILINE):
        check_command(shlex.split(line, comments=True), is_run=True)
    for name, rest in re.findall(r"`ddq\s+([a-z]+)([^`]*)`", text):
        flags = {flag.name for flag in COMMANDS[name].flags}
        assert set(re.findall(r"--(\w+)", rest)) <= flags | {"help"}, (name, rest)


def check_command(words: list[str], *, is_run: bool) -> None:
    """Asks the program of a command line whether it would take it."""
    program, *rest = words
    if program == "ddq":
        if not rest[0].startswith("--"):
            COMMANDS[rest[0]].parse(rest[1:])
    elif program == "pip":
        extras = re.findall(r'^([\w-]+) = \["', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        wanted = [name for word in rest for name in re.findall(r"[\w-]+", word.partition("[")[2])]
        assert set(wanted) <= set(extras), words
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif program in ("bash", "python"):
        files = [word for word in rest if "/" in word and not word.startswith("-")]
        assert files, words
        assert all((ROOT / file).exists() for file in files), words
    else:
        assert not is_run, f"{program} is not checked: say <!-- not run: REASON -->"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_excerpts_stand_in_their_files(page):
    for block in blocks_of(page):
        if (file := block.note("excerpt")) is not None:
            there = {
                ast.dump(node) for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
            }
            for part in ast.parse(block.code).body:
                quoted = part.value if isinstance(part, ast.Expr) else part
                assert ast.dump(quoted) in there, ast.unparse(quoted)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if target.startswith(("http:", "https:")):
            continue
        file = page if not target else page.parent / target
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def hook(name: str) -> Any:
    """A module that MkDocs loads."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "_hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name_and_each_explains_itself():
    site = hook("pages")
    pages = site.reference_pages()
    tree = ast.parse((ROOT / "ddq_tf" / "__init__.py").read_text("utf-8"))
    lazy = next(ast.literal_eval(n.value) for n in tree.body if "_LAZY_MODULES" in ast.unparse(n))
    assert {f"ddq_tf.{name}" for name in lazy} <= set(site.MODULES)
    silent = []
    for name in site.MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or site.public_names(name)
        page = pages[f"reference/{name}.md"]
        shown = [line[4:] for line in page.splitlines() if line.startswith("::: ")]
        assert sorted(shown) == sorted([name, *(f"{name}.{each}" for each in public)])
        if name == "ddq_tf.tfmot":  # its classes stand on an optional package
            continue
        found = {each: getattr(module, each) for each in public}
        silent += [f"{name}.{n}" for n, v in found.items() if callable(v) and not v.__doc__]
    assert silent == []


def test_the_reference_of_the_commands_has_every_flag():
    page = hook("pages").reference_pages()["reference/commands.md"]
    sections = dict(re.findall(r"^## ddq (\w+)$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    assert list(sections) == list(COMMANDS)
    for name, command in COMMANDS.items():
        shown = re.findall(r"^\| `--(\w+)", sections[name], re.MULTILINE)
        assert sorted(shown) == sorted(flag.name for flag in command.flags)


def test_formulas_of_docstrings_become_blocks_and_sections_stay():
    pytest.importorskip("griffe", reason='pip install ".[docs]"')
    given = "Rounds, with s:\n    q = x / s\nand\n\n    y = q * s\n\nArgs:\n    x: any.\n"
    wanted = "Rounds, with s:\n\n    q = x / s\n\nand\n\n    y = q * s\n\nArgs:\n    x: any.\n"
    assert hook("formulas").with_blocks(given) == wanted


NOTEBOOK = DOCS / "notebook" / "from_float_to_file.ipynb"


def test_the_notebook_runs_from_float_to_file(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason='pip install ".[docs]"')
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "commit no outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"})
    pictures = [o for c in cells for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 4
    assert (tmp_path / "digits.tflite").is_file()
