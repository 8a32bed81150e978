"""The `ddq` command: from a data set to a verified integer-only .tflite file.

Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 70 a bug in ddq, 130 interrupted.
TensorFlow is imported only once a command has work for it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Sequence

from absl import logging
from rich.console import Console

import ddq_tf
from ddq_tf.command_line import Call, Command, Outcome, suggestion
from ddq_tf.commands import COMMANDS
from ddq_tf.errors import DDQError
from ddq_tf.files import check_writable
from ddq_tf.quiet import silenced

_DONE, _FAILED, _BAD_INPUT, _BUG, _INTERRUPTED = 0, 1, 2, 70, 130


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
        argv: what follows `ddq`; None for that of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        done = _dispatch(arguments)
        sys.stdout.flush()
        return done
    except BrokenPipeError:  # as of `ddq --help | head`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except (DDQError, OSError) as error:
        name = f" {arguments[0]}" if arguments and arguments[0] in COMMANDS else ""
        print(f"ddq{name}: {error}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print("ddq: interrupted; no half-written file is left", file=sys.stderr)
        return _INTERRUPTED
    except Exception:
        traceback.print_exc()
        print("ddq: this is a bug in ddq; please report the lines above", file=sys.stderr)
        return _BUG


def _dispatch(arguments: list[str]) -> int:
    """Finds the command and runs it, or helps."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        named = [word for word in arguments[1:2] if word in COMMANDS]
        print(COMMANDS[named[0]].help() if named else _overview())
        return _DONE if arguments else _BAD_INPUT
    if arguments[0] == "--version":
        print(f"ddq {ddq_tf.__version__}")
        return _DONE
    name, *rest = arguments
    if name not in COMMANDS:
        hint = suggestion(name, list(COMMANDS))
        raise DDQError(f"there is no command {name!r}.{hint} `ddq --help` lists all commands")
    command = COMMANDS[name]
    if any(word in ("-h", "-help", "--help") for word in rest):
        print(command.help())
        return _DONE
    flags, files = command.parse(rest)
    call = Call(
        flags=flags,
        files=files,
        command=shlex.join(["ddq", *arguments]),
        console=Console(),
        made=command.made(flags),
    )
    return _execute(command, call)


def _execute(command: Command, call: Call) -> int:
    """Runs a command and writes what it came to."""
    flags = call.flags
    if flags["json"]:
        check_writable(flags["json"], "--json")
    start = time.monotonic()
    logging.use_absl_handler()
    logging.set_verbosity(flags["verbosity"])
    with warnings.catch_warnings():
        if flags["verbosity"] not in ("info", "debug"):
            warnings.simplefilter("ignore")
        _import_quietly()
        if flags["code"]:
            from ddq_tf.jobs import load_code

            load_code(flags["code"])
        outcome: Outcome = command.run(call)
    if flags["json"]:
        from ddq_tf.jobs.record import write_run

        write_run(
            flags["json"],
            command=shlex.split(call.command),
            seed=flags.get("seed"),
            wall_s=time.monotonic() - start,
            results=outcome.results,
        )
    return _DONE if outcome.is_ok else _FAILED


def _import_quietly() -> None:
    """Imports TensorFlow without its greetings, which it writes past Python to descriptor 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        import ddq_tf.jobs  # noqa: F401


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(
        [
            "ddq: learned mixed-precision quantization (DDQ) for Keras, exported to TFLite.",
            "",
            "Usage: ddq COMMAND [files] [flags]",
            "",
            "Commands, in the order in which they are used:",
            *(f"  {name.ljust(width)}{c.summary}" for name, c in COMMANDS.items()),
            "",
            "Start with `ddq demo`. `ddq COMMAND --help` explains a command, with an example.",
            "Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted.",
        ]
    )
