"""The one error type that the package raises for bad input."""

from __future__ import annotations

from collections.abc import Iterable


class DDQError(ValueError):
    """Input that ddq_tf cannot work with; the message says what, why and what to do."""


def raise_all(headline: str, problems: Iterable[str]) -> None:
    """Raises one DDQError that lists every problem; returns if there is none."""
    listed = list(problems)
    if listed:
        raise DDQError("\n".join([headline, *(f"  - {problem}" for problem in listed)]))
