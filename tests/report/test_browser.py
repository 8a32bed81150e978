"""The page of a report as Chromium shows it: quiet, without requests, no wider than a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, find_chromium, open_page

from ddq_tf.report import html

PHONE = {"width": 390, "height": 844}
# What lies beyond the screen and cannot be scrolled to in a box of its own.
TOO_WIDE = """[...document.querySelectorAll("body *")]
  .filter((node) => !node.parentElement.closest(".scroll") && !node.closest("svg *"))
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 0.5)
  .map((node) => node.outerHTML.slice(0, 80))"""
# Sizes in pixels of the screen at which pictures show their text.
TEXT_SIZES = """[...document.querySelectorAll("svg text")].map((text) =>
  parseFloat(getComputedStyle(text).fontSize)
    * Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    with open_page() as page:
        yield page


@pytest.fixture(scope="module", params=["resnet_layers", "mobilenet_layers"])
def address(request, synthetic, tmp_path_factory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    html.save(synthetic.make_report(getattr(synthetic, request.param)()), path)
    return path.as_uri()


def test_a_phone_shows_all_of_it(browser, address):
    browser.screenshot(**PHONE)
    browser.complaints.clear()
    browser.requests.clear()
    browser.visit(address)
    browser.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    browser.screenshot(**PHONE)
    assert browser.complaints == []
    assert browser.requests == [address]
    assert browser.evaluate("innerWidth") == PHONE["width"]
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert browser.evaluate(TOO_WIDE) == []
    sizes = browser.evaluate(TEXT_SIZES)
    assert len(sizes) > 50
    assert min(sizes) >= 10


def test_dark_mode_changes_page_and_pictures(browser, address):
    browser.visit(address)
    light = browser.screenshot(width=1200, height=900)
    colour = "getComputedStyle(document.querySelector('svg text')).fill"
    light_ink = browser.evaluate(colour)
    assert browser.screenshot(width=1200, height=900, scheme="dark") != light
    assert browser.evaluate(colour) != light_ink


def test_text_of_pictures_has_the_font_of_the_page(browser, address):
    browser.visit(address)
    nodes = "[...document.querySelectorAll('svg text, body')]"
    families = f"{nodes}.map((node) => getComputedStyle(node).fontFamily)"
    assert len(set(browser.evaluate(families))) == 1
