"""Writes README's rows of results, of files in benchmarks/results.

python benchmarks/readme_rows.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marks import replaced, rewrite
from provenance import RESULTS

README = Path(__file__).parents[1] / "README.md"
_WHAT = "rows: benchmarks/readme_rows.py"
_HEAD = "| network | stock int8 | best peer | DDQ, target `litert` |\n|---|---|---|---|"
# Of each network: a word on it, its stock int8 file, the best peer, ours.
_ROWS: tuple[tuple[str, str | None, str | None, str], ...] = (
    (
        "MobileNetV2 0.5, CIFAR-10-JPEG; trained 6 epochs",
        "peer_mobilenet_v2_stock_int8_s0",
        "peer_mobilenet_v2_tfmot_qat_6e_s0",
        "ablation_mobilenet_v2_mixed3_distilled_6e_s0",
    ),
    (
        "MobileNetV2 1.0, dog breeds; 800 images, no labels",
        "peer_dog_breeds_stock_int8_s0",
        "peer_dog_breeds_litert_quantizer_w4a8_s0",
        "ours_dog_breeds_int4_int8_small_s0",
    ),
    (
        "EfficientNet-Lite0, ImageNet; 800 images, no labels",
        None,
        None,
        "ours_efficientnet_lite0_half_s0",
    ),
)


def _results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def _cell(name: str) -> str:
    """Bytes, accuracy or equal answers, and latency of a result."""
    found = _results(name)
    accuracy = found.get("packed_litert_accuracy") or found.get("litert_accuracy")
    score = f"{accuracy:.2%}" if accuracy else f"{found['top1_agreement']:.1%} equal answers"
    return f"{found['file_bytes']:,} B, {score}, {found['latency_ratio']:.2f} ×"


def _stock_of(found: dict[str, Any]) -> str:
    """What a result of ours tells of the stock int8 file."""
    equal = found["stock"]["top1_agreement"]
    return f"{found['stock_file_bytes']:,} B, {equal:.1%} equal answers"


def _row(words: str, stock: str | None, peer: str | None, ours: str) -> str:
    theirs = _stock_of(_results(ours)) if stock is None else _cell(stock)
    other = "not measured"
    if peer is not None:
        other = f"{_results(peer)['title'].split(',')[0]}: {_cell(peer)}"
    return f"| {words} | {theirs} | {other} | **{_cell(ours)}** |"


def table() -> str:
    """Returns the rows as Markdown."""
    return "\n".join([_HEAD, *(_row(*row) for row in _ROWS)])


def with_rows(text: str) -> str:
    """Returns README's text with the rows as the results have them."""
    return replaced(text, _WHAT, table())


def main() -> None:
    """Rewrites README."""
    rewrite(README, _WHAT, table())


if __name__ == "__main__":
    main()
