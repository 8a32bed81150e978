"""What fields of configurations must be."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from ddq_tf.errors import DDQError, check_fields


@pytest.mark.parametrize(
    ("interval", "fits", "fails"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1)),
        ("[0, 1)", (0, 0.9), (1, -1)),
        ("(0, 1]", (0.1, 1), (0, 2)),
        ("(0, inf)", (1e-9, 1e9), (0, -1, float("inf"))),
        ("[1, inf)", (1, 7), (0, float("nan"))),
    ],
)
def test_intervals(interval, fits, fails):
    for value in fits:
        check_fields(SimpleNamespace(share=value), interval, "share")
    for value in fails:
        words = re.escape(f"share must lie in {interval}. Received: share={value!r}")
        with pytest.raises(DDQError, match=words):
            check_fields(SimpleNamespace(other=1, share=value), interval, "share")
