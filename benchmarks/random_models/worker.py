"""Runs cases in a process of their own, which may hang or die.

The process reads a case as JSON from each line and answers with lines: "phase NAME", then
"outcome JSON".
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .spec import Case, from_json, to_json

_START_S = 120  # to import TensorFlow on a busy machine
_GRACE_S = 10
_MOST_CASES = 300
_SINGLE = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_MOST_KIB = 3 << 20


class Worker:
    """A process that runs cases, started anew when it has died, hung or grown."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._cases = 0
        self.restarts = 0

    def run(self, case: Case, *, limit_s: float) -> Any:
        """Runs a case; returns its Outcome."""
        from .run import Outcome

        process = self._started()
        start = time.monotonic()
        line = json.dumps({"case": to_json(case), "limit_s": limit_s})
        phase, answer = "start", None
        try:
            assert process.stdin is not None
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            while answer is None:
                word, _, rest = self._line(start + limit_s + _GRACE_S).partition(" ")
                if word == "phase":
                    phase = rest
                elif word == "outcome":
                    answer = Outcome(**json.loads(rest))
        except TimeoutError:
            self.stop()
            answer = Outcome(kind="hang", key="in native code", detail=phase)
        except (BrokenPipeError, EOFError):
            code = process.wait()
            self.stop()
            answer = Outcome(kind="abort", key=f"signal {-code} in {phase}", detail=phase)
        self._cases += 1
        if self._cases >= _MOST_CASES or answer.kib > _MOST_KIB:
            self.stop()
        return dataclasses.replace(
            answer, seconds=answer.seconds or round(time.monotonic() - start, 3)
        )

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.restarts += 1

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            folder = Path(__file__).parents[1]
            paths = [str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "random_models.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={
                    **os.environ,
                    **dict.fromkeys(_SINGLE, "1"),
                    "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                },
            )
            self._buffer, self._cases = b"", 0
            if self._line(time.monotonic() + _START_S) != "ready":
                raise RuntimeError("the worker did not start")
        return self._process

    def _line(self, until: float) -> str:
        """The next line that the process writes; TimeoutError, EOFError."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            ready, _, _ = select.select([process.stdout], [], [], max(left, 0))
            if not ready:
                raise TimeoutError
            read = os.read(process.stdout.fileno(), 1 << 16)
            if not read:
                raise EOFError
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()


def _serve() -> None:
    """Runs the cases that standard input names."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else writes to standard output
    from .run import run

    def tell(phase: str) -> None:
        answers.write(f"phase {phase}\n")

    answers.write("ready\n")
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            asked = json.loads(line)
            outcome = run(
                from_json(asked["case"]),
                Path(folder),
                limit_s=asked["limit_s"],
                tell=tell,
            )
            kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answered = {**dataclasses.asdict(outcome), "kib": kib}
            answers.write(f"outcome {json.dumps(answered)}\n")


if __name__ == "__main__":
    _serve()
