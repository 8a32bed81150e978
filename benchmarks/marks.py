"""Pages with a part that a command writes, between two marks.

<!-- rows: benchmarks/readme_rows.py -->
...
<!-- end -->
"""

from __future__ import annotations

from pathlib import Path

END = "\n<!-- end -->"


def begin(what: str) -> str:
    """Returns the mark above a part; `what` is in it, as in "rows: benchmarks/readme_rows.py"."""
    return f"<!-- {what} -->\n"


def replaced(text: str, what: str, part: str) -> str:
    """Returns a page with another part.

    Args:
        text: of the page.
        what: is in the mark above the part.
        part: that comes between the marks.

    Raises:
        ValueError: unless the mark is there once, with an end behind it.
    """
    before, rest = text.split(begin(what))
    _, after = rest.split(END, 1)
    return f"{before}{begin(what)}{part}{END}{after}"


def rewrite(page: Path, what: str, part: str) -> None:
    """Replaces a part of a page in its file."""
    page.write_text(replaced(page.read_text("utf-8"), what, part), encoding="utf-8")
