"""What the site has beside the pages in docs/: reference, notebook, files that pages link to.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml). The reference lists every name in the
`__all__` of the public modules, and the `ddq` commands as their parser has them.
"""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ddq_tf.command_line import Command, Flag
from ddq_tf.commands import COMMANDS

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
MODULES = {
    "ddq_tf": "quantize, reconstruct, configure",
    "ddq_tf.export": "write, verify, run and time files",
    "ddq_tf.training": "callbacks and optimizers for training",
    "ddq_tf.data": "data sets and pipelines",
    "ddq_tf.models": "float networks",
    "ddq_tf.report": "what was learned, as data",
    "ddq_tf.report.plots": "figures",
    "ddq_tf.report.html": "the report as a page",
    "ddq_tf.report.text": "the report in a terminal",
    "ddq_tf.callbacks": "TensorBoard",
    "ddq_tf.tfmot": "from TensorFlow Model Optimization",
    "ddq_tf.layers": "Keras layers of DDQ models",
    "ddq_tf.quantizers": "the mathematics",
    "ddq_tf.kinds": "what is known of each layer type",
}
NOTEBOOK = DOCS / "notebook" / "from_float_to_file.ipynb"
_LANGUAGES = {".py": "python", ".sh": "sh", ".kt": "kotlin", ".c": "c", ".json": "json"}
_HOME = "---\nhide: [navigation]\n---\n"
_REQUEST = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* href="https?:')
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_FENCE = re.compile(r"^(`{3,}).*?^\1 *$", re.DOTALL | re.MULTILINE)


def public_names(module: str) -> list[str]:
    """Returns the names that a module exports, read off its source.

    That is its `__all__`, or where it has none all classes and functions without an underscore.
    """
    tree = ast.parse(_source_of(module).read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    kinds = (ast.ClassDef, ast.FunctionDef)
    named = [node.name for node in tree.body if isinstance(node, kinds)]
    return [name for name in named if not name.startswith("_")]


def reference_pages() -> dict[str, str]:
    """Returns the reference in Markdown, by path within the site."""
    pages = {f"reference/{module}.md": _module_page(module) for module in MODULES}
    rows = [f"| [`{m}`]({m}.md) | {words} |" for m, words in MODULES.items()]
    commands = "| [`ddq`](commands.md) | the commands |"
    pages["reference/index.md"] = "\n".join(
        ["# Reference", "", "Made from the docstrings.", "", "| | |", "|---|---|", *rows, commands]
    )
    pages["reference/commands.md"] = _commands_page(COMMANDS)
    return pages


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the pages that are made, and those of files that other pages link to."""
    kinds: Any = importlib.import_module("mkdocs.structure.files")  # of the extra [docs]
    # README stands beside docs/: seen from there its links are those of a page.
    readme = _LINK.sub(_from_root, _text(ROOT / "README.md"))
    texts = {"index.md": readme, **{path: _text(DOCS / path) for path in _pages()}}
    made = {**reference_pages(), "index.md": _HOME + readme, "notebook.md": notebook_page(NOTEBOOK)}
    linked = {path for page, text in texts.items() for path in _outside(page, text)}
    pages = {**made, **{f"source/{path}.md": _source_page(path) for path in sorted(linked)}}
    for path, content in pages.items():
        level = "NOT_IN_NAV" if path.startswith("source/") else "INCLUDED"
        inclusion = kinds.InclusionLevel[level]
        files.append(kinds.File.generated(config, path, content=content, inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Leads links that leave docs/ to pages of the site, and public names to the reference."""
    path = page.file.src_uri
    if path.startswith(("reference/", "source/")):
        return markdown
    markdown = _without_fences(markdown, lambda text: _LINK.sub(_leads_to(path), text))
    return _without_fences(markdown, _Names().link)


def on_post_page(output: str, *, page: Any, config: Any) -> None:
    """Warns, which is an error in a strict build, of a page that would ask another server."""
    if found := _REQUEST.search(output):
        logging.getLogger("mkdocs").warning("%s asks: %s", page.file.src_uri, found[0])


def notebook_page(path: Path) -> str:
    """Returns a notebook as Markdown: its texts and its code."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    parts = [
        f"```python\n{''.join(cell['source'])}\n```"
        if cell["cell_type"] == "code"
        else "".join(cell["source"])
        for cell in cells
    ]
    title, *rest = parts
    note = f"Open it in Jupyter or Colab: [{path.name}](notebook/{path.name})."
    return "\n\n".join([title, note, *rest])


def _pages() -> list[str]:
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def _source_of(module: str) -> Path:
    stem = ROOT.joinpath(*module.split("."))
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")


def _module_page(module: str) -> str:
    head = f"# `{module}`\n\n::: {module}\n    options:\n      members: false\n"
    head += "      show_root_heading: false\n      show_root_toc_entry: false\n"
    # Functions, classes, constants.
    names = sorted(public_names(module), key=lambda name: (name[0].isupper(), name.isupper(), name))
    return "\n".join([head, *(f"::: {module}.{name}\n" for name in names)])


def _commands_page(commands: dict[str, Command]) -> str:
    head = (
        "# `ddq`, the commands\n\nIn the order in which they are used. Exit codes: 0 done, 1 a "
        "check failed, 2 bad usage or input, 130 interrupted.\n\n"
        "<style>.md-typeset td:first-child code { white-space: nowrap }</style>\n"
    )
    return "\n".join([head, *map(_command_section, commands.values())])


def _command_section(command: Command) -> str:
    usage = " ".join(["ddq", command.name, *command.files, "[flags]"])
    rows = [_flag_row(flag) for flag in sorted(command.flags, key=lambda flag: not flag.required)]
    parts = [
        f"## ddq {command.name}",
        command.summary,
        f"```text\n{usage}\n```",
        _escaped(command.notes),
        f"For example:\n\n```sh\n{command.example}\n```",
        "\n".join(["| flag | | default |", "|---|---|---|", *rows]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _flag_row(flag: Flag) -> str:
    """A flag in a row; the words that it takes, where they are given, stand behind its help."""
    words, default = _escaped(flag.help), "" if flag.default is None else f"`{flag.default}`"
    name = f"--{flag.name}={flag.shown}"
    if isinstance(flag.default, bool):
        name, default = f"--{flag.name}", "on" if flag.default else "off"
    elif "|" in flag.shown:
        name = f"--{flag.name}"
        words += ": " + ", ".join(f"`{choice}`" for choice in flag.shown.split("|"))
    return f"| `{name}` | {words} | {'**required**' if flag.required else default} |"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*").replace("|", r"\|")


def _resolved(page: str, link: str) -> tuple[str, str]:
    """The path that a link of a page leads to, from docs/, and its anchor."""
    target, _, anchor = link.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target)), anchor


def _outside(page: str, text: str) -> Iterator[str]:
    """The files and folders outside docs/ that a page links to, from the root."""
    for link in _LINK.findall(_FENCE.sub("", text)):
        target, _ = _resolved(page, link)
        if target.startswith("../") and target != "../README.md" and (DOCS / target).exists():
            yield target.removeprefix("../")


def _from_root(match: re.Match[str]) -> str:
    """A link of a file beside docs/ as a page in docs/ would have it."""
    if "://" in match[0]:
        return match[0]
    return match[0].removeprefix("docs/") if match[0].startswith("docs/") else f"../{match[0]}"


def _leads_to(page: str) -> Callable[[re.Match[str]], str]:
    def replaced(match: re.Match[str]) -> str:
        target, _ = _resolved(page, match[0])
        if not target.startswith("../"):
            return match[0]
        at = "index.md" if target == "../README.md" else f"source/{target.removeprefix('../')}.md"
        return posixpath.relpath(at, posixpath.dirname(page) or ".")

    return replaced


def _source_page(path: str) -> str:
    """A file outside docs/ as a page; of a folder its README and the names of its files."""
    file = ROOT / path
    if not file.is_dir():
        if file.suffix == ".md":
            return _LINK.sub(lambda m: m[0] if "://" in m[0] else "../index.md", _text(file))
        language = _LANGUAGES.get(file.suffix, "text")
        return f"# `{path}`\n\n`````{language}\n{_text(file)}\n`````\n"
    names = sorted(
        (Path(folder) / name).relative_to(file).as_posix()
        for folder, _, found in os.walk(file)
        for name in found
        if "__pycache__" not in folder
    )
    readme = file / "README.md"
    text = re.sub(r"\[([^\]]+)\]\((?!http)[^)]+\)", r"\1", _text(readme)) if readme.exists() else ""
    listed = "\n".join(f"- `{path}/{name}`" for name in names)
    return f"{text or f'# `{path}`'}\n\n## Files of `{path}`\n\n{listed}\n"


def _text(file: Path) -> str:
    return file.read_text("utf-8")


def _without_fences(markdown: str, change: Callable[[str], str]) -> str:
    """Applies a change to all that is no block of code."""
    parts, end = [], 0
    for match in _FENCE.finditer(markdown):
        parts += [change(markdown[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(markdown[end:])])


class _Names:
    """Links the first mention of each public name, as `ddq_tf.export.verify(...)`, `Rule(...)`."""

    _SHORT = ("ddq_tf", "ddq_tf.training", "ddq_tf.tfmot")
    _MENTION = re.compile(r"(?<![\[`])`([A-Za-z_][\w.]*)(\([^`]*\))?`(?![`\]])")

    def __init__(self) -> None:
        full = {f"{module}.{name}" for module in MODULES for name in public_names(module)}
        self._targets = {name: name for name in full}
        for module in self._SHORT:
            self._targets |= {name: f"{module}.{name}" for name in public_names(module)}
        self._seen: set[str] = set()

    def link(self, text: str) -> str:
        """Returns the text with the first mentions linked; headings stay as they are."""
        return "\n".join(map(self._in_line, text.split("\n")))

    def _in_line(self, line: str) -> str:
        return line if line.startswith("#") else self._MENTION.sub(self._linked, line)

    def _linked(self, match: re.Match[str]) -> str:
        target = self._targets.get(match[1])
        if target is None or target in self._seen:
            return match[0]
        self._seen.add(target)
        return f"[{match[0]}][{target}]"
