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


def check_fields(config: object, interval: str, *names: str) -> None:
    """Refuses fields of a configuration that lie outside an interval.

    Args:
        config: what has them.
        interval: as in "[0, 1)" or "(0, inf)".
        names: of the fields; numbers.

    Raises:
        DDQError: naming the first field that does not fit, and what it must be.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        above = value >= low if interval[0] == "[" else value > low
        if not (above and (value <= high if interval[-1] == "]" else value < high)):
            raise DDQError(f"{name} must lie in {interval}. Received: {name}={value!r}")


def raise_all(headline: str, problems: Iterable[str]) -> None:
    """Raises one DDQError that lists every problem; returns if there is none."""
    listed = list(problems)
    if listed:
        raise DDQError("\n".join([headline, *(f"  - {problem}" for problem in listed)]))
