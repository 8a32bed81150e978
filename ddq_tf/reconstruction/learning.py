"""What may learn for a while, and what may not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def trainable(parts: Iterable[Any], value: bool) -> Iterator[None]:
    """Lets layers or variables learn, or keeps them from it; afterwards they are as before.

    Args:
        parts: with an attribute `trainable`.
        value: of that attribute meanwhile.
    """
    changed = [part for part in parts if part.trainable != value]
    for part in changed:
        part.trainable = value
    try:
        yield
    finally:
        for part in changed:
            part.trainable = not value
