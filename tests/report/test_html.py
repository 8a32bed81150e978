from __future__ import annotations

import html.parser
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from ddq_tf.report import ActivationReport, Agreement, ModelVariant, Report, plots
from ddq_tf.report import html as report_html

VOID = {"meta", "br", "img", "link", "wbr"}
HOSTILE = "<script>alert('\"&\x00')</script>"


class _Checker(html.parser.HTMLParser):
    """Fails on elements that are not closed in order; gathers tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def _check(page: str) -> _Checker:
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(picture)
        assert root.get("aria-hidden") or root.findtext("title")
        assert root.get("aria-hidden") or root.get("role") == "img"
        markup = re.sub(r">[^<]*<", "><", picture)
        assert not re.search(r"\b(nan|inf)\b", markup)
        assert not re.search(r"#|rgb", markup)  # all colours are the page's
        assert " id=" not in markup  # which several pictures would share
    return checker


@pytest.mark.parametrize("maker", ["resnet_layers", "mobilenet_layers"])
def test_whole_page(synthetic, maker):
    report = synthetic.make_report(getattr(synthetic, maker)())
    page = report_html.render(report)
    checker = _check(page)
    assert all(layer.name in checker.text for layer in report.layers)
    shown = "".join(checker.text).partition("Weights and levels")[2]
    assert all(layer.name in shown.partition("Activations")[0] for layer in report.layers)
    assert len(page.encode()) < 1_000_000
    assert "script" not in checker.tags
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert page == report_html.render(report)


def test_each_bar_and_point_has_a_tooltip(synthetic):
    report = synthetic.make_report(synthetic.resnet_layers())
    page = report_html.render(report)
    tips = [title for title in _titles(page) if title.startswith("conv2d_1: 4 bits, stored in 4")]
    assert len(tips) == 2  # bits and bytes
    assert any(title.startswith("conv2d_1, epochs 2 to 24: 4 bits") for title in _titles(page))
    assert any(title.startswith("stock int8: 85.31 %, ") for title in _titles(page))


def _titles(page: str) -> list[str]:
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return [
        found.text or "" for svg in pictures for found in ElementTree.fromstring(svg).iter("title")
    ]


def test_the_users_style_does_not_matter(synthetic):
    import matplotlib

    report = synthetic.make_report(synthetic.resnet_layers())
    page = report_html.render(report)
    odd = {"text.usetex": True, "axes.facecolor": "k", "lines.linewidth": 9, "font.size": 30}
    with matplotlib.rc_context({**odd, "text.color": "r", "axes.grid": True}):
        assert report_html.render(report) == page


@pytest.mark.parametrize(
    "name", ["量化模型/层", "a\tb\nc", "\x1b[1m", "", "_hidden", r"$\frac$", "\ud800", "😀"]
)
def test_names_may_hold_any_characters(synthetic, name):
    report = synthetic.make_report(
        (synthetic.layer(name, name, (8, 8), 4, 0),),
        variants=(ModelVariant(label=name, size_bytes=5, accuracy=0.5),),
        history={f"{name} loss": (1.0, 2.0)},
        bits_history={name: (8.0, 4.0)},
    )
    _check(report_html.render(report))
    for figure in plots.figures(report).values():
        plots.png_bytes(figure)


def test_nothing_is_imported_for_drawing_before_something_is_drawn():
    code = "import sys, ddq_tf, ddq_tf.report.html; print('matplotlib' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.strip() == "False"


def test_hostile_names_are_escaped(synthetic):
    report = synthetic.make_report(
        (synthetic.layer(HOSTILE, HOSTILE, (8, 8), 4, 0),),
        **dict.fromkeys(("title", "model_name", "dataset", "target", "budget"), HOSTILE),
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
        variants=(ModelVariant(label=HOSTILE, size_bytes=5, accuracy=0.5),),
        activations=(
            ActivationReport(
                name=HOSTILE,
                kind=HOSTILE,
                num_bits=8,
                scale=1.0,
                zero_point=0,
                range_min=0.0,
                range_max=1.0,
            ),
        ),
        history={f"loss {HOSTILE}": (1.0, 2.0)},
        bits_history={HOSTILE: (8.0, 4.0)},
        agreement=Agreement(
            num_samples=1,
            top1_agreement=1.0,
            equal_codes_share=1.0,
            max_lsb=0,
            weight_codes_identical=True,
            delegated_ops=0,
            total_ops=1,
            undelegated=(HOSTILE,),
        ),
    )
    page = report_html.render(report)
    checker = _check(page)
    assert "<script" not in page
    assert "script" not in checker.tags
    shown = HOSTILE.replace("\x00", "\ufffd")
    assert shown in checker.text
    assert any(title.startswith(f"{shown}, epochs 1 to 1: 8 bits") for title in _titles(page))
    assert f"Weights and levels of {shown}" in _titles(page)


def test_least_report():
    page = report_html.render(Report(title="t", created="", model_name="m"))
    assert _check(page).tags.count("section") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"agreement": None},
        {"history": {}, "bits_history": {}},
        {"history": {"loss": (math.nan, 1.0, math.inf), "accuracy": (math.nan,), "bits": ()}},
        {"history": {"loss": (1e12,), "price": (0.0, 0.0)}, "budget_average_bits": math.nan},
        {"bits_history": {"a": (), "b": (math.nan, 8.0)}},
        {"history": {"loss": ()}, "error_history": {"conv2d": ()}},
        {"variants": (), "activations": ()},
        {"variants": (ModelVariant(label="DDQ (Keras)"),)},
        {"variants": (ModelVariant(label="float", size_bytes=0, accuracy=math.nan),)},
    ],
)
def test_parts_may_be_missing(synthetic, changes):
    layers = synthetic.resnet_layers()
    _check(report_html.render(synthetic.make_report(layers, **changes)))


def test_save(synthetic, tmp_path):
    report = synthetic.make_report(())
    report_html.save(report, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report_html.render(report)
