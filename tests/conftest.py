"""Settings and fixtures of the whole test suite."""

from __future__ import annotations

import os

# Before TensorFlow is first imported: quiet, and on the CPU so that results are reproducible.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads would fight for them
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --slow"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The data and models beside the checkout, which no release contains."""
    if not _SHARED.is_dir():
        pytest.skip(f"{_SHARED} is absent")
    return _SHARED
