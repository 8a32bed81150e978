"""Writes the results of benchmarks/tfmot_bridge.py into docs/tfmot.md.

python benchmarks/tfmot_page.py
"""

from __future__ import annotations

import json
from pathlib import Path

from marks import replaced, rewrite
from provenance import RESULTS

PAGE = Path(__file__).parents[1] / "docs" / "tfmot.md"
WHAT = "rows: benchmarks/tfmot_page.py"


def section() -> str:
    """Returns the section as Markdown."""
    found = json.loads((RESULTS / "tfmot_bridge.json").read_text())["results"]
    steps, pruned = found["step_ms"], found["pruned"]
    lines = [
        "MobileNetV2 0.35 of tf_keras on CIFAR-10-JPEG, accuracy in LiteRT on all 10,000 images of "
        "the test set (`benchmarks/tfmot_bridge.py`). The float network, trained for "
        f"{found['float_epochs']} epochs only, has {found['float_accuracy']:.2%}; both schemes "
        f"trained it for {found['tune_epochs']} more.",
        "",
        "| file | bytes | accuracy | answers equal to TFMOT's file |",
        "|---|---|---|---|",
    ]
    for name, row in found["files"].items():
        equal = row.get("answers_equal_to_tfmots_file")
        share = "" if equal is None else f"{equal:.2%}"
        lines.append(f"| {name} | {row['size_bytes']:,} | {row['accuracy']:.2%} | {share} |")
    default = steps["TFMOT's default"]
    lines += [
        "",
        f"A training step in tf_keras: float {steps['float']:.0f} ms, TFMOT's default "
        f"{default:.0f} ms, `DDQQuantizeScheme` {steps['DDQQuantizeScheme']:.0f} ms "
        f"({steps['DDQQuantizeScheme'] / default:.2f} times TFMOT's). A copy pruned to "
        f"{pruned['float_zeros']:.1%} zeros has {pruned['zeros']:.1%} zeros after `fit` with "
        f"`keep_zeros`, {pruned['zeros_without_keep_zeros']:.1%} without.",
    ]
    return "\n".join(lines)


def with_section(text: str) -> str:
    """Returns the page's text with what the results say."""
    return replaced(text, WHAT, section())


def main() -> None:
    """Rewrites the page."""
    rewrite(PAGE, WHAT, section())


if __name__ == "__main__":
    main()
