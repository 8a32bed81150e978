"""The one error type that the package raises for bad input."""

from __future__ import annotations

from collections.abc import Iterable


class DDQError(ValueError):
    """Input that ddq_tf cannot work with; the message says what, why and what to do."""


def missing_package(need: str, package: str, extra: str, note: str = "") -> DDQError:
    """Returns the error for an optional package that is not installed.

    Args:
        need: who needs it, with the verb, as in "figures need".
        package: its name.
        extra: of ddq_tf, which installs it.
        note: more on the cure, put behind it.
    """
    return DDQError(
        f"{need} the package {package}, which is not installed. "
        f'Install it: pip install "ddq_tf[{extra}]"{note}'
    )


def raise_all(headline: str, problems: Iterable[object]) -> None:
    """Raises one DDQError that lists every problem; returns if there is none."""
    listed = list(problems)
    if listed:
        raise DDQError("\n".join([headline, *(f"  - {problem}" for problem in listed)]))
