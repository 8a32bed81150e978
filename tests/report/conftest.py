from __future__ import annotations

import importlib.util
import pathlib
import types

import pytest


@pytest.fixture(scope="session")
def synthetic() -> types.ModuleType:
    """The made-up reports; by path, as importlib mode has no package to import them from."""
    path = pathlib.Path(__file__).with_name("synthetic.py")
    spec = importlib.util.spec_from_file_location("ddq_report_synthetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
