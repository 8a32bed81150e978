"""Formulas in docstrings, which stand indented below their sentence, as blocks of code."""

from __future__ import annotations

import importlib
import re
from typing import Any

griffe: Any = importlib.import_module("griffe")  # of the extra [docs]
_SECTION = re.compile(r"^(Args|Attributes|Examples?|Raises|Returns|Yields):$", re.MULTILINE)


def with_blocks(text: str) -> str:
    """Returns a docstring with a blank line before and behind each indented block of its text.

    Markdown takes indented lines for code only behind a blank line. Sections, as "Args:", stay.
    """
    found = _SECTION.search(text)
    end = found.start() if found else len(text)
    lines: list[str] = []
    for line in text[:end].split("\n"):
        before = lines[-1] if lines else ""
        if line.strip() and before.strip() and _is_code(line) != _is_code(before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + text[end:]


def _is_code(line: str) -> bool:
    return line.startswith("    ")


class Formulas(griffe.Extension):
    """Changes every docstring before it is read."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """See `with_blocks`."""
        if obj.docstring is not None:
            obj.docstring.value = with_blocks(obj.docstring.value)
