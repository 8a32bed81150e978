"""Writes docs/supported.md's table of supported layers from the rules of `ddq_tf.kinds`.

python benchmarks/supported_page.py
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

from marks import replaced, rewrite

from ddq_tf.kinds.table import supported_table

PAGE = Path(__file__).parents[1] / "docs" / "supported.md"
_WHAT = "supported layers: benchmarks/supported_page.py"


def with_table(text: str) -> str:
    """Returns the text of docs/supported.md with the table as the rules have it now."""
    return replaced(text, _WHAT, supported_table())


def main() -> None:
    """Rewrites the page."""
    rewrite(PAGE, _WHAT, supported_table())


if __name__ == "__main__":
    main()
