"""docs/ablations.md and its figure, from benchmarks/results/ablation_*.json.

python benchmarks/ablations_page.py --write
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from provenance import read_results

from ddq_tf.report.plots import error_figure, save_png

PAGE = Path(__file__).parent.parent / "docs" / "ablations.md"
FIGURE = PAGE.with_name("ablations_error.png")
NETWORKS = ("resnet8", "mobilenet_v2")
# Of ResNet-8, with and without gradient correction.
CURVES = ("4 bits, free levels", "4 bits, free levels, no gradient correction")
_HEAD = """# Ablations

CIFAR-10-JPEG, accuracy in LiteRT on the 10,000 test images; written by
`python benchmarks/ablations_page.py --write` from benchmarks/results. Weight bytes count code
bits; the error is the sum of (w - x_q)^2 over that of w^2 after the last epoch, where it was
recorded. One standard error of an accuracy is about 0.37 points: rows closer to each other do not
differ. A mixed row spends half of its epochs on the search, unless its title says otherwise. Float
files go by the beginning of their SHA-256."""
_CURVES = f"""
## Gradient correction

Quantization error of ResNet-8's weights over the epochs, free levels:

![Quantization error with and without correction]({FIGURE.name})"""


def records() -> list[dict[str, Any]]:
    """Returns the results of all rows, as the page has them, one for each file."""
    return sorted(read_results("ablation"), key=_order)


def _order(record: dict[str, Any]) -> tuple[Any, ...]:
    """By network, float file, epochs; many bits first."""
    network = NETWORKS.index(record["network"])
    bits = -round(record["average_bits"], 1)
    last = (record["epochs"], bits, record["title"], record["seed"])
    return (network, record["float_sha256"], *last)


def page(found: Iterable[dict[str, Any]]) -> str:
    """Returns docs/ablations.md."""
    lines = [_HEAD]
    for start, group in itertools.groupby(
        found, lambda record: (record["network"], record["float_sha256"][:8])
    ):
        lines += ["", f"## {start[0]}, float file {start[1]}", ""]
        lines += ["| | bits | weight bytes | epochs | seed | error | val % | LiteRT test % |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += map(row, group)
    return "\n".join([*lines, _CURVES]) + "\n"


def row(record: dict[str, Any]) -> str:
    """Returns a row of a table."""
    errors = record["history"].get("quantization_error")
    cells = (
        record["title"],
        f"{record['average_bits']:.2f}",
        f"{record['weights_size_bytes']:,}",
        f"{record['epochs']}",
        f"{record['seed']}",
        f"{errors[-1]:.4f}" if errors else "",
        f"{100 * record['keras_accuracy']['val']:.2f}",
        f"{100 * record['litert_accuracy']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def curves(found: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns the quantization errors over the epochs with and without gradient correction."""
    of_title = {
        record["title"]: record["history"]["quantization_error"]
        for record in found
        if record["network"] == "resnet8" and record["title"] in CURVES
    }
    return {title: of_title[title] for title in CURVES}


def main() -> None:
    """Writes the page and its figure, or prints the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/ablations.md")
    found = records()
    if parser.parse_args().write:
        PAGE.write_text(page(found))
        save_png(error_figure(curves(found)), FIGURE)
    else:
        print(page(found))


if __name__ == "__main__":
    main()
