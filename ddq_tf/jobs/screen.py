"""Where a job tells what it is doing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.control import Control
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

_ItemT = TypeVar("_ItemT")


def _columns() -> tuple[ProgressColumn, ...]:
    """What a bar shows; columns belong to one bar."""
    return (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )


class Screen:
    """A console, or silence.

    Args:
        console: where to; None says nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    @property
    def fit_verbose(self) -> int:
        """What `keras.Model.fit` takes as `verbose`: a moving bar, a line per epoch, or nothing."""
        if self.console is None:
            return 0
        return 1 if self.console.is_terminal else 2

    def heading(self, text: str) -> None:
        """Announces a stage."""
        if self.console is not None:
            self.console.print(f"\n[bold]{escape(text)}[/bold]", highlight=False)

    def say(self, text: str) -> None:
        """Prints a line."""
        if self.console is not None:
            self.console.print(escape(text), highlight=False)

    def aside(self, text: str) -> None:
        """Prints a line while a bar of Keras may be on the present one, which it then leaves."""
        if self.console is None:
            return
        if self.console.is_terminal:
            self.console.control(
                Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2))
            )
        self.say(text)

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Prints names and values in two columns."""
        if self.console is None:
            return
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, Text(value))
        self.console.print(table)

    @contextlib.contextmanager
    def bar(self) -> Iterator[Callable[[str, float, float], None]]:
        """Shows a bar that vanishes at the end, on terminals only.

        Yields:
            What tells it the words for the present stage, the steps taken, and those in all.
        """
        if self.console is None or not self.console.is_terminal:
            yield lambda words, done, total: None
            return
        with Progress(*_columns(), console=self.console, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield lambda words, done, total: progress.update(
                task, description=escape(words), completed=done, total=total
            )

    def track(
        self, items: Iterable[_ItemT], words: str, *, count: int, per_item: int = 1
    ) -> Iterator[_ItemT]:
        """Passes items on, under a bar that vanishes at the end; on terminals only.

        Args:
            items: what is worked through.
            words: what the work is.
            count: how many things there are in all.
            per_item: how many things an item holds.
        """
        with self.bar() as show:
            for done, item in enumerate(items):
                show(words, done, math.ceil(count / per_item))
                yield item
