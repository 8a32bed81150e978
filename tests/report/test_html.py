from __future__ import annotations

import html.parser
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from ddq_tf.report import ActivationReport, Agreement, ModelVariant, Report, charts, svg
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
        assert not re.search(r"\b(nan|inf)\b", re.sub(r">[^<]*<", "><", picture))
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
    assert HOSTILE.replace("\x00", "\ufffd") in checker.text


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


def test_labels_of_close_points_do_not_overlap():
    variants = [
        ModelVariant(label=f"variant {i}", size_bytes=100_000 + 9000 * i, accuracy=0.8 + i / 1000)
        for i in range(4)
    ]
    root = ElementTree.fromstring(charts.accuracy_over_bytes(variants))
    boxes = []
    for text in root.iter("text"):
        if text.get("class") == "name":
            half = svg.text_width(text.text or "", 12) / 2
            x, y = float(text.get("x", 0)), float(text.get("y", 0))
            boxes.append((x - half, y - 11, x + half, y))
    assert len(boxes) == 4
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_ticks():
    assert svg.nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert svg.nice_ticks(3, 3)[0] <= 3 <= svg.nice_ticks(3, 3)[-1]
    assert svg.log_ticks(90, 450) == [50, 100, 200, 500]
    assert svg.epoch_ticks(1) == [1]
    assert svg.epoch_ticks(24) == [1, 5, 10, 15, 20]
    assert svg.tick_text(0.25, [0, 0.25]) == "0.25"
    assert svg.tick_text(2e-5, [0, 2e-5]) == "2e-05"
    assert svg.tick_text(1e12, [0, 1e12]) == "1e+12"
