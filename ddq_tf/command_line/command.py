"""A command: what it takes, its help, and errors that a newcomer understands."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags as absl_flags
from rich.console import Console

from ddq_tf.command_line.flags import Flag
from ddq_tf.command_line.settings import Settings
from ddq_tf.errors import DDQError

if TYPE_CHECKING:
    from ddq_tf.jobs.screen import Screen

_WIDTH = 80
_SettingsT = TypeVar("_SettingsT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A command as typed.

    Attributes:
        flags: value by name.
        files: positional arguments.
        command: the whole line.
        console: where results go.
        made: the settings that the flags make, by dataclass.
    """

    flags: Mapping[str, Any]
    files: Sequence[str]
    command: str
    console: Console
    made: Mapping[type, Any]

    def settings(self, kind: type[_SettingsT]) -> _SettingsT:
        """Returns the settings of a dataclass."""
        return self.made[kind]

    @functools.cached_property
    def screen(self) -> Screen:
        """Where jobs tell what they do."""
        from ddq_tf.jobs.screen import Screen

        return Screen(self.console)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command came to.

    Attributes:
        results: for JSON.
        is_ok: whether every check passed.
    """

    results: Mapping[str, Any]
    is_ok: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Flags that stand together in the help.

    Attributes:
        title: above them.
        of: flags and settings; a name that is there already counts once.
    """

    title: str
    of: Sequence[Flag | Settings]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command.

    Attributes:
        name: as typed.
        summary: one line.
        files: the names of its positional arguments; a last one that ends in "..." stands for any
            number.
        groups: its flags, in the order of the help.
        example: a line that works.
        job: the function that `run` calls, by its name; flags named like its arguments have its
            defaults.
        run: does the work, given what was typed.
        notes: a paragraph for the help.
    """

    name: str
    summary: str
    files: tuple[str, ...] = ()
    groups: tuple[Group, ...]
    example: str
    job: str
    run: Callable[[Call], Outcome]
    notes: str = ""

    @property
    def flags(self) -> tuple[Flag, ...]:
        """All flags."""
        return tuple(flag for _, found in self._by_title for flag in found)

    @property
    def settings(self) -> tuple[Settings, ...]:
        """All dataclasses whose fields are flags."""
        parts = (part for group in self.groups for part in group.of)
        return tuple(part for part in parts if isinstance(part, Settings))

    def parse(self, arguments: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
        """Returns the value of every flag by name, and the positional arguments.

        Raises:
            DDQError: if they do not fit; it says which and what would.
        """
        values = absl_flags.FlagValues()
        values.set_gnu_getopt(True)
        for flag in self.flags:
            flag.define(flag.name, flag.default, flag.help, values)
        try:
            files = list(values([self.name, *arguments]))[1:]
        except absl_flags.UnrecognizedFlagError as error:
            known = [f"--{flag.name}" for flag in self.flags]
            hint = suggestion(f"--{error.flagname}", known)
            raise DDQError(f"unknown flag --{error.flagname}.{hint} {self._more}") from error
        except absl_flags.Error as error:
            raise DDQError(f"{_plain(str(error))}. {self._more}") from error
        chosen = {flag.name: values[flag.name].value for flag in self.flags}
        missing = [f.name for f in self.flags if f.required and not chosen[f.name]]
        if missing:
            wanted = " and ".join(f"--{name}" for name in missing)
            raise DDQError(f"{wanted} must be given. {self._more}")
        self._check_files(files)
        return chosen, files

    def made(self, values: Mapping[str, Any]) -> dict[type, Any]:
        """Returns the settings that flags make, by dataclass.

        Args:
            values: of all flags, by name, as `parse` returns them.

        Raises:
            DDQError: naming all that do not fit.
        """
        problems = [words for settings in self.settings for words in settings.problems(values)]
        if problems:
            raise DDQError(f"{'; '.join(dict.fromkeys(problems))}. {self._more}")
        return {settings.kind: settings.made(values) for settings in self.settings}

    def help(self) -> str:
        """Returns the help of this command."""
        usage = " ".join(["ddq", self.name, *self.files, "[flags]"])
        parts = [_wrapped(self.summary), f"Usage: {usage}", f"Example:\n  {self.example}"]
        if self.notes:
            parts.append(_wrapped(self.notes))
        required = [flag for flag in self.flags if flag.required]
        for title, found in (("Required flags", required), *self._by_title):
            shown = [flag.lines for flag in found if flag.required == (found is required)]
            if shown:
                parts.append("\n".join([f"{title}:", *shown]))
        return "\n\n".join(parts)

    @property
    def _by_title(self) -> Iterator[tuple[str, list[Flag]]]:
        """The flags of each group, without those of a name that was there before."""
        seen: set[str] = set()
        for group in self.groups:
            parts = (part.flags if isinstance(part, Settings) else (part,) for part in group.of)
            found = [flag for flags in parts for flag in flags if flag.name not in seen]
            seen |= {flag.name for flag in found}
            yield group.title, found

    def _check_files(self, files: Sequence[str]) -> None:
        open_ended = bool(self.files) and self.files[-1].endswith("...")
        if len(files) == len(self.files) or (open_ended and len(files) >= len(self.files) - 1):
            return
        wanted = " ".join(self.files) or "no file"
        received = " ".join(files) or "none"
        raise DDQError(f"give {wanted} after `ddq {self.name}`. Received: {received}. {self._more}")

    @property
    def _more(self) -> str:
        return f"`ddq {self.name} --help` explains all flags"


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns " Did you mean ...?" if something known resembles a word, else ""."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def _plain(message: str) -> str:
    """Returns a message of absl without Python's words for it."""
    message = re.sub(r"invalid literal for int\(\) .*", "give a whole number", message)
    return re.sub(r"could not convert string to float.*", "give a number", message)


def _wrapped(words: str) -> str:
    return textwrap.fill(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
