"""The bridge needs packages that ddq_tf itself does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_NEEDED = ("tensorflow_model_optimization", "tf_keras")


class _Skipped(pytest.Module):
    """A file whose imports fail, so that it is not read."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("extra [tfmot] is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    if all(importlib.util.find_spec(name) for name in _NEEDED):
        return None
    return _Skipped.from_parent(parent, path=module_path)
