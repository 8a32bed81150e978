"""What all sub-commands share: flags (absl underneath), help, and errors a newcomer understands."""

from __future__ import annotations

import dataclasses
import difflib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console

from ddq_tf.errors import DDQError

if TYPE_CHECKING:
    from ddq_tf.jobs.screen import Screen

_WIDTH = 80
_INDENT = 26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a sub-command.

    Attributes:
        name: without dashes.
        shown: what stands for its value in the help; "" for on-off flags.
        help: one or two sentences.
        default: None for none.
        define: registers it, given (name, default, help, flag_values).
        required: whether it must be given.
    """

    name: str
    shown: str
    help: str
    default: Any = None
    define: Callable[[str, Any, str, flags.FlagValues], Any]
    required: bool = False


def text(name: str, shown: str, help: str, default: str | None = None, **more: Any) -> Flag:
    """Returns a flag that takes any text."""
    return Flag(
        name=name,
        shown=shown,
        help=help,
        default=default,
        define=_define(flags.DEFINE_string),
        **more,
    )


def switch(name: str, help: str, default: bool = False) -> Flag:
    """Returns an on-off flag."""
    return Flag(
        name=name, shown="", help=help, default=default, define=_define(flags.DEFINE_boolean)
    )


_MOST = 2**31 - 1


def integer(
    name: str, shown: str, help: str, default: int | None = None, *, low: int | None = 1
) -> Flag:
    """Returns a flag for whole numbers from `low`."""
    define = _define(flags.DEFINE_integer, lower_bound=low, upper_bound=_MOST)
    return Flag(name=name, shown=shown, help=help, default=default, define=define)


def number(
    name: str,
    shown: str,
    help: str,
    default: float | None = None,
    *,
    low: float | None = 0.0,
    high: float | None = None,
) -> Flag:
    """Returns a flag for real numbers within [low, high]."""
    define = _define(flags.DEFINE_float, lower_bound=low, upper_bound=high)
    return Flag(name=name, shown=shown, help=help, default=default, define=define)


def choice(name: str, help: str, choices: Sequence[str], default: str | None = None) -> Flag:
    """Returns a flag that takes one of several words."""

    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        flags.DEFINE_enum(name, default, list(choices), help, flag_values=values)

    return Flag(name=name, shown="|".join(choices), help=help, default=default, define=define)


def pair(name: str, help: str) -> Flag:
    """Returns a flag for two real numbers, as in -1,1."""
    return _parsed(name, "LOW,HIGH", help, _pair_of)


def numbers(name: str, shown: str, help: str) -> Flag:
    """Returns a flag for real numbers with commas between."""
    return _parsed(name, shown, help, _numbers_of)


def whole_numbers(name: str, shown: str, help: str) -> Flag:
    """Returns a flag for whole numbers with commas between."""
    return _parsed(name, shown, help, _whole_numbers_of)


def _define(function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        function(name, default, help, flag_values=values, **more)

    return define


def _parsed(name: str, shown: str, help: str, parse: Callable[[str], Any]) -> Flag:
    """Returns a flag whose text goes through `parse`, which raises ValueError."""

    class _Parser(flags.ArgumentParser):
        def parse(self, argument: Any) -> Any:
            return parse(argument) if isinstance(argument, str) else argument

    def define(name: str, default: Any, help: str, values: flags.FlagValues) -> None:
        flags.DEFINE(_Parser(), name, default, help, flag_values=values)

    return Flag(name=name, shown=shown, help=help, define=define)


def _pair_of(words: str) -> tuple[float, float]:
    parts = words.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError("give two numbers, as in -1,1") from None
    return low, high


def _numbers_of(words: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in words.split(","))
    except ValueError:
        raise ValueError("give numbers, as in 123.7,116.3,103.5") from None


def _whole_numbers_of(words: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in words.split(","))
    except ValueError:
        raise ValueError("give whole numbers, as in 4,8") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A command as typed.

    Attributes:
        flags: value by name.
        files: positional arguments.
        command: the whole line.
        console: where results go.
    """

    flags: Mapping[str, Any]
    files: Sequence[str]
    command: str
    console: Console

    @property
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
class Command:
    """A sub-command.

    Attributes:
        name: as typed.
        summary: one line.
        files: the names of its positional arguments; a last one that ends in "..." stands for any
            number.
        flags: in the order of the help.
        example: a line that works.
        run: does the work, given what was typed.
        notes: a paragraph for the help.
    """

    name: str
    summary: str
    files: tuple[str, ...] = ()
    flags: tuple[Flag, ...]
    example: str
    run: Callable[[Call], Outcome]
    notes: str = ""

    def parse(self, arguments: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
        """Returns the value of every flag by name, and the positional arguments.

        Raises:
            DDQError: if they do not fit; it says which and what would.
        """
        values = flags.FlagValues()
        values.set_gnu_getopt(True)
        for flag in self.flags:
            flag.define(flag.name, flag.default, flag.help, values)
        try:
            files = list(values([self.name, *arguments]))[1:]
        except flags.UnrecognizedFlagError as error:
            known = [f"--{flag.name}" for flag in self.flags]
            hint = suggestion(f"--{error.flagname}", known)
            raise DDQError(f"unknown flag --{error.flagname}.{hint} {self._more()}") from error
        except flags.Error as error:
            raise DDQError(f"{_plain(str(error))}. {self._more()}") from error
        chosen = {flag.name: values[flag.name].value for flag in self.flags}
        missing = [f.name for f in self.flags if f.required and not chosen[f.name]]
        if missing:
            wanted = " and ".join(f"--{name}" for name in missing)
            raise DDQError(f"{wanted} must be given. {self._more()}")
        self._check_files(files)
        return chosen, files

    def help(self) -> str:
        """Returns the help of this command."""
        usage = " ".join(["ddq", self.name, *self.files, "[flags]"])
        parts = [_wrapped(self.summary), f"Usage: {usage}", f"Example:\n  {self.example}"]
        if self.notes:
            parts.append(_wrapped(self.notes))
        required = [_flag_help(flag) for flag in self.flags if flag.required]
        other = [_flag_help(flag) for flag in self.flags if not flag.required]
        if required:
            parts.append("\n".join(["Required flags:", *required]))
        parts.append("\n".join(["Flags:", *other]))
        return "\n\n".join(parts)

    def _check_files(self, files: Sequence[str]) -> None:
        open_ended = bool(self.files) and self.files[-1].endswith("...")
        if len(files) == len(self.files) or (open_ended and len(files) >= len(self.files) - 1):
            return
        wanted = " ".join(self.files) or "no file"
        received = " ".join(files) or "none"
        raise DDQError(
            f"give {wanted} after `ddq {self.name}`. Received: {received}. {self._more()}"
        )

    def _more(self) -> str:
        return f"`ddq {self.name} --help` explains all flags"


COMMON = (
    text("json", "FILE", "also write the results as JSON, with versions, machine and commit"),
    choice("verbosity", "what to log to stderr", ("error", "warning", "info", "debug"), "warning"),
)


def range_words(values: tuple[Any, Any]) -> str:
    """Returns an input range in words, of a number or one for each channel."""
    low, high = (end if isinstance(end, list | tuple) else (end,) for end in values)
    return f"{', '.join(f'{v:.4g}' for v in low)} to {', '.join(f'{v:.4g}' for v in high)}"


def picture_words(crop: float, resize: str, channels: str, sources: Mapping[str, str]) -> str:
    """Returns in words how pictures are fitted, and who says so where that is known."""
    parts = {"crop": f"{crop:g} of the centre", "resize": resize, "channels": channels}
    return ", ".join(
        f"{words} ({sources[name]})" if name in sources else words for name, words in parts.items()
    )


def suggestion(word: str, known: Sequence[str]) -> str:
    """Returns " Did you mean ...?" if something known resembles a word, else ""."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def _plain(message: str) -> str:
    """Returns a message of absl without Python's words for it."""
    message = re.sub(r"invalid literal for int\(\) .*", "give a whole number", message)
    return re.sub(r"could not convert string to float.*", "give a number", message)


def _flag_help(flag: Flag) -> str:
    words = flag.help
    if isinstance(flag.default, bool):
        name = f"--[no]{flag.name}" if flag.default else f"--{flag.name}"
        words += " (default: on)" if flag.default else ""
    else:
        name = f"--{flag.name}={flag.shown}"
        words += "" if flag.default is None else f" (default: {flag.default})"
    lines = textwrap.wrap(words, _WIDTH - _INDENT, break_on_hyphens=False)
    if len(name) + 4 <= _INDENT:
        first = f"  {name}".ljust(_INDENT) + lines[0]
        lines = lines[1:]
    else:
        first = f"  {name}"
    return "\n".join([first, *(" " * _INDENT + line for line in lines)])


def _wrapped(words: str) -> str:
    return textwrap.fill(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
