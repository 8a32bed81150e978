"""README's table of supported layers is what the rules say."""

from __future__ import annotations

from supported_page import README, with_table


def test_readme_shows_the_rules():
    text = README.read_text("utf-8")
    assert with_table(text) == text, "run python benchmarks/supported_page.py"
