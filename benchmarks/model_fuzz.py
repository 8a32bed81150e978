"""Random models through the whole line: how many, and what became of them.

    python benchmarks/model_fuzz.py [--cases=1000] [--seed=0] [--seconds=T] [--limit=60]
                                   [--shrink]

The case of each seed from `--seed` on is quantized, in a quarter of the cases trained, saved,
loaded, exported and run in LiteRT; every output code is compared with Keras (random_models/).
Cases run in a process of their own, which is started anew when it dies or hangs; what takes longer
than `--limit` seconds is tried again, for 5 times as long, before it counts as a hang. With
--shrink the first case of each fault is shrunk to the smallest model that has it. Ends after
`--cases` or `--seconds`, or when it is stopped; started again with the same --out and at the same
commit, it goes on where it ended. Writes benchmarks/results/model_fuzz.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provenance import RESULTS, write_result
from random_models.code import keras_code
from random_models.generate import generate, is_extreme
from random_models.run import GOOD, HANG_S, Outcome
from random_models.shrink import shrink
from random_models.spec import Case, to_json
from random_models.worker import Worker

from ddq_tf.jobs.record import git_commit

_SEEDS_KEPT = 8
_WRITE_EVERY = 25
_SHRINK_LIMIT_S = 15
_PATIENCE = 5


class Tally:
    """Counts outcomes.

    Attributes:
        results: what is written.
    """

    def __init__(self, results: dict[str, Any] | None = None) -> None:
        self.results: dict[str, Any] = results or {
            "cases": 0,
            "extreme_cases": 0,
            "trained_cases": 0,
            "calls": 0,
            "seconds": 0.0,
            "outcomes": {},
            "outcomes_by_target": {},
            "layers": {},
            "slowest": {"seconds": 0.0},
            "faults": {},
            "accepted": {},
        }

    def add(self, seed: int, case: Case, outcome: Outcome) -> bool:
        """Counts an outcome; returns whether it is a fault that was not seen before."""
        results = self.results
        results["cases"] += 1
        results["extreme_cases"] += is_extreme(case)
        results["trained_cases"] += case.epochs > 0
        results["calls"] += len(case.spec.calls)
        results["seconds"] = round(results["seconds"] + outcome.seconds, 3)
        for kind, count in collections.Counter(c.kind for c in case.spec.calls).items():
            results["layers"][kind] = results["layers"].get(kind, 0) + count
        by_target = results["outcomes_by_target"].setdefault(case.config["target"], {})
        for counts in (results["outcomes"], by_target):
            counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
        if outcome.seconds > results["slowest"]["seconds"]:
            times = {"seconds": outcome.seconds, "seconds_of": outcome.seconds_of}
            results["slowest"] = {"seed": seed, "outcome": outcome.fault, **times}
        if outcome.kind == "equal":
            return False
        found = results["accepted" if outcome.kind in GOOD else "faults"]
        is_new = outcome.fault not in found
        row = found.setdefault(
            outcome.fault, {"count": 0, "seeds": [], "detail": outcome.detail, "code": None}
        )
        row["count"] += 1
        row["seeds"] = [*row["seeds"], seed][:_SEEDS_KEPT]
        return is_new and outcome.kind not in GOOD


def shrunk(worker: Worker, case: Case, outcome: Outcome) -> Case:
    """Returns the smallest case with an outcome's fault."""

    def fails(smaller: Case) -> bool:
        return worker.run(smaller, limit_s=_SHRINK_LIMIT_S).fault == outcome.fault

    return shrink(case, fails)


def earlier(path: Path, first: int) -> dict[str, Any] | None:
    """Returns the results to go on from; None where there are none.

    Raises:
        SystemExit: if they were made by other code or from another seed.
    """
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    if (content["git_commit"], content["seed"]) != (git_commit(), first):
        raise SystemExit(f"{path.name} is of another commit or seed; delete it first")
    return content["results"]


def main() -> None:
    """Runs cases and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=RESULTS / "model_fuzz.json")
    parser.add_argument("--limit", type=float, default=HANG_S, help="seconds that are a hang")
    parser.add_argument("--shrink", action="store_true")
    options = parser.parse_args()
    tally = Tally(earlier(options.out, options.seed))
    worker = Worker()

    def write() -> None:
        write_result("model_fuzz", tally.results, seed=options.seed, path=options.out)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("stopped"))
    try:
        _run(options, tally, worker, write)
    finally:  # also what a signal ends
        worker.stop()
        write()
    print(json.dumps({k: v for k, v in tally.results.items() if k != "faults"}, indent=1))
    for fault, row in tally.results["faults"].items():
        print(f"{row['count']} x {fault}  (seeds {row['seeds']})")


def _run(
    options: argparse.Namespace, tally: Tally, worker: Worker, write: Callable[[], None]
) -> None:
    """Runs cases until there are enough, or time is up."""
    start, before = time.monotonic(), tally.results["cases"]
    while tally.results["cases"] < options.cases:
        spent, done = time.monotonic() - start, tally.results["cases"] - before
        if spent > options.seconds:
            break
        if done and done % _WRITE_EVERY == 0:
            write()
            left = (options.cases - before - done) * spent / done
            left = min(left, options.seconds - spent)
            print(f"{done} cases, {tally.results['outcomes']}, {left:.0f} s left", flush=True)
        seed = options.seed + tally.results["cases"]
        case = generate(seed)
        outcome = worker.run(case, limit_s=options.limit)
        if outcome.kind == "hang":  # or other work has taken the processor: once more, with time
            outcome = worker.run(case, limit_s=_PATIENCE * options.limit)
        if not tally.add(seed, case, outcome):
            continue
        print(f"seed {seed}: {outcome.fault}\n  {outcome.detail}", flush=True)
        if options.shrink:
            small = shrunk(worker, case, outcome)
            row = tally.results["faults"][outcome.fault]
            row.update(code=keras_code(small), case=to_json(small))
            print(keras_code(small), flush=True)


if __name__ == "__main__":
    main()
