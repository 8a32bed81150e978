from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from ddq_tf.report import Agreement, Report, wording
from ddq_tf.report.text import render


class _AsciiFile(io.StringIO):
    encoding = "ascii"


def _printed(report: Report, file: io.StringIO | None = None) -> str:
    file = file or io.StringIO()
    render(report, Console(file=file, width=80))
    return file.getvalue()


@pytest.mark.parametrize("maker", ["resnet_layers", "mobilenet_layers"])
def test_fits_80_columns(synthetic, maker):
    report = synthetic.make_report(getattr(synthetic, maker)())
    text = _printed(report)
    assert max(map(len, text.splitlines())) <= 80
    assert all(layer.name in text for layer in report.layers)
    assert "\x1b" not in text


def test_long_names_and_markup_fit_too(synthetic):
    name = "[bold]outer/" + "x" * 90
    layer = synthetic.layer(name, "dense", (8, 8), 4, 0)
    text = _printed(synthetic.make_report((layer,)))
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]" in text
    assert text.count("x") >= 90


def test_ascii_output(synthetic):
    layers = (synthetic.layer("größe", "dense", (8, 8), 4, 0),)
    text = _printed(synthetic.make_report(layers, title="Größe"), _AsciiFile())
    assert text.isascii()
    assert "####...." in text


def test_least_report():
    assert _printed(Report(title="t", created="", model_name="m")).split() == ["t", "model", "m"]


def test_wording_of_the_outcome(synthetic):
    assert wording.headline(synthetic.make_report(synthetic.resnet_layers())) == (
        "The file takes 110.2 KiB, 4.0 times smaller than float and 1.4 times smaller than stock "
        "int8. It reaches 86.02 % accuracy, 0.30 points above float."
    )


def test_percent_never_claims_perfection():
    assert wording.percent(0.999999) == "99.99 %"
    assert wording.percent(1.0) == "100.00 %"
    assert wording.percent(math.nan) == wording.percent(None) == "-"


def test_agreement_names_what_is_wrong():
    agreement = Agreement(
        num_samples=10,
        top1_agreement=0.9,
        equal_codes_share=0.8,
        max_lsb=2,
        weight_codes_identical=False,
        delegated_ops=3,
        total_ops=4,
        partitions=2,
        undelegated=("MEAN",),
    )
    lines = wording.agreement_lines(agreement)
    assert not any(flawless for flawless, _ in lines)
    text = " ".join(sentence for _, sentence in lines)
    assert "9 of 10 samples (90.00 %)" in text
    assert "at most 2 steps" in text
    assert "3 of 4 operators, in 2 partitions. Built-in kernels run: MEAN." in text
