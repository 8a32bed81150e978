"""The browser, and LiteRT.js, which no release contains."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest
from chromium import Page, find_chromium, open_page

from ddq_tf.web import find_runtime


@pytest.fixture(scope="session")
def runtime() -> Mapping[str, bytes]:
    folder = os.environ.get("DDQ_LITERT_JS")
    if not folder:
        pytest.skip(
            "DDQ_LITERT_JS names no folder with LiteRT.js; tests/web/setup.sh DIR makes one"
        )
    return find_runtime(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    if find_chromium() is None:
        pytest.skip("Chromium is not installed")
    with open_page() as page:
        yield page
