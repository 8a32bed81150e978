"""The table of supported layers, as docs/supported.md shows it, written from the rules."""

from __future__ import annotations

from ddq_tf.kinds import RULES


def supported_table() -> str:
    """Returns a Markdown table: a row for each family, its layers in words."""
    rows = ["| | |", "|---|---|"]
    for family in RULES.families:
        if family.title:
            words = [rule.words for rule in family.rules if rule.words]
            rows.append(f"| {family.title} | {', '.join(words)} |")
    rows.append("| on sequences | the 1-D twins of these, of a fixed length; Conv1D also causal |")
    return "\n".join(rows)
