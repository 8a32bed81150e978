"""Settings and fixtures of the whole test suite."""

from __future__ import annotations

import os

# Before TensorFlow is first imported: quiet, and on the CPU so that results are reproducible.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: threads would fight for them
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")

import gc
import sys
from collections.abc import Iterator
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


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _released() -> Iterator[None]:
    """Lets go of what Keras and TensorFlow keep of a module's models; what is left then stays."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.freeze()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The data and models beside the checkout, which no release contains."""
    if not _SHARED.is_dir():
        pytest.skip(f"{_SHARED} is absent")
    return _SHARED
