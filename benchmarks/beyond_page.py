"""Writes the table of networks beyond CNNs in docs/results.md from benchmarks/results.

python benchmarks/beyond_page.py
"""

from __future__ import annotations

import json
from typing import Any

from marks import replaced, rewrite
from provenance import RESULTS

PAGE = RESULTS.parents[1] / "docs" / "results.md"
_WHAT = "beyond CNNs: benchmarks/beyond_page.py"
_HEAD = (
    "| network | DDQ: bytes, partitions | stock int8: bytes, partitions | latency "
    "| values compared |\n"
    "|---|---|---|---|---|"
)
_WORDS = {
    "unet": "U-Net, a mask",
    "unet_residual": "U-Net of separable convolutions, 3 classes",
    "ssd": "SSDLite on a pyramid",
    "multi_task": "a class, a number and a mask",
    "segformer": "SegFormer, 4 classes",
    "vit": "ViT",
    "swin": "Swin",
    "mobilevit": "MobileViT",
    "convnext": "ConvNeXt",
    "lstm": "keywords by an LSTM, 25 steps",
    "gru": "keywords by GRUs both ways, 17 steps",
}


def _results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def _file(found: dict[str, Any]) -> str:
    return f"{found['size_bytes']:,}, {found['partitions']}"


def _row(name: str, measured: dict[str, Any], compared: dict[str, Any]) -> str:
    files = measured["files"]
    stock, ratio = f"refuses it: {_refused(measured['stock_failure'])}", ""
    if "stock_int8" in files:
        stock, ratio = _file(files["stock_int8"]), f"{files['ddq']['latency_ratio']:.2f}"
    values = f"{compared['elements']:,}"
    return f"| {_WORDS[name]} | {_file(files['ddq'])} | {stock} | {ratio} | {values} |"


def _refused(words: str) -> str:
    """The operations that a converter's words name."""
    return ", ".join(dict.fromkeys(f"`{word}`" for word in words.split("'")[1::2]))


def table() -> str:
    """Returns the rows as Markdown."""
    compared = _results("exactness_beyond_cnn")["models"]
    rows = _results("beyond_cnn")["networks"]
    return "\n".join([_HEAD, *(_row(name, rows[name], compared[name]) for name in _WORDS)])


def with_table(text: str) -> str:
    """Returns a page's text with the rows as the results have them."""
    return replaced(text, _WHAT, table())


def main() -> None:
    """Rewrites the page."""
    rewrite(PAGE, _WHAT, table())


if __name__ == "__main__":
    main()
