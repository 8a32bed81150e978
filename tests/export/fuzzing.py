"""Damaged .tflite files, by the thousand, for the reader."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.sizes import itemize

Mutation = Callable[[bytearray, np.random.Generator], bytearray]
# Where flatbuffers fail first: offsets to nowhere, back, to themselves, and counts without end.
_HOSTILE = (0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC, 0x00FFFFFF)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of damaged files: `read` all the same, or `refused` with a DDQError."""

    read: int
    refused: int
    slowest_s: float


def fuzz(data: bytes, kind: str, *, mutations: int, seed: int) -> Outcome:
    """Reads damaged copies of a file; any other error than DDQError goes through.

    Args:
        data: a whole .tflite file.
        kind: a name of MUTATIONS.
        mutations: how many copies.
        seed: of the damage.
    """
    rng = np.random.default_rng(seed)
    refused, slowest = 0, 0.0
    for _ in range(mutations):
        damaged = bytes(MUTATIONS[kind](bytearray(data), rng))
        start = time.perf_counter()
        try:
            tflite.read(damaged)
            itemize(damaged)
        except DDQError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    return Outcome(read=mutations - refused, refused=refused, slowest_s=slowest)


def _truncated(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(0, len(data))]


def _bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    for position in rng.integers(8, len(data), rng.integers(1, 20)):
        data[position] = rng.integers(0, 256)
    return data


def _bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for position in rng.integers(0, len(data), 8):
        data[position] ^= 1 << int(rng.integers(0, 8))
    return data


def _words(data: bytearray, rng: np.random.Generator) -> bytearray:
    for position in rng.integers(0, len(data) // 4, 4):
        word = _HOSTILE[rng.integers(0, len(_HOSTILE))]
        data[4 * position : 4 * position + 4] = word.to_bytes(4, "little")
    return data


def _removed(data: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(8, len(data)))
    del data[start : start + int(rng.integers(1, 64))]
    return data


def _moved(data: bytearray, rng: np.random.Generator) -> bytearray:
    start, target = rng.integers(8, len(data) - 64, 2)
    size = rng.integers(4, 64)
    data[target : target + size] = data[start : start + size]
    return data


def _noise(data: bytearray, rng: np.random.Generator) -> bytearray:
    data[8:] = rng.bytes(int(rng.integers(0, len(data))))
    return data


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncated,
    "bytes": _bytes,
    "bits": _bits,
    "words": _words,
    "removed": _removed,
    "moved": _moved,
    "noise": _noise,
}
