"""Writes docs/supported.md's table of supported layers from the rules of `ddq_tf.kinds`.

python benchmarks/supported_page.py
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

from ddq_tf.kinds.table import supported_table

PAGE = Path(__file__).parents[1] / "docs" / "supported.md"
BEGIN, END = "<!-- supported layers: benchmarks/supported_page.py -->\n", "\n<!-- end -->"


def with_table(text: str) -> str:
    """Returns the text of docs/supported.md with the table as the rules have it now."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}{supported_table()}{END}{after}"


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
