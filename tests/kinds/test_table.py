"""The table of supported layers in docs/supported.md is what the rules say."""

from __future__ import annotations

from supported_page import PAGE, with_table


def test_the_page_shows_the_rules():
    text = PAGE.read_text("utf-8")
    assert with_table(text) == text, "run python benchmarks/supported_page.py"
