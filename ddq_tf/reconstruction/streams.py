"""What many examples give at one tensor, read part by part: in memory, in a file, made anew.

All of it looks like a float32 array (examples, ...) that can be asked for its length, its shape and
some of its examples, by a slice or an array of numbers.
"""

from __future__ import annotations

import io
import itertools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ddq_tf.errors import DDQError

Examples = slice | np.ndarray


class Values(Protocol):
    """Values of many examples; arrays are such, too."""

    @property
    def shape(self) -> Sequence[int]:
        """With the number of examples first."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, part: Any, /) -> np.ndarray:
        """Some examples; float32."""
        ...


class Rows:
    """Several arrays of examples as one; none is copied.

    Args:
        parts: float32 arrays (examples, ...), at least one of them with examples.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.shape = (int(self._starts[-1]), *self._parts[0].shape[1:])

    def __len__(self) -> int:
        """How many examples."""
        return self.shape[0]

    def __getitem__(self, part: Examples, /) -> np.ndarray:
        """Copies of some examples."""
        numbers = np.arange(len(self))[part]
        found = np.empty((len(numbers), *self.shape[1:]), np.float32)
        places = np.searchsorted(self._starts, numbers, side="right") - 1
        for row, (number, place) in enumerate(zip(numbers, places, strict=True)):
            found[row] = self._parts[place][number - self._starts[place]]
        return found

    def every_second(self, first: int) -> Rows:
        """Returns the examples number first, first + 2 and so on."""
        starts = (self._starts[:-1] + first) % 2
        return Rows([part[start::2] for part, start in zip(self._parts, starts, strict=True)])


class Repeated:
    """The same examples several times, one pass after the other.

    Args:
        examples: to repeat.
        count: how often.
    """

    def __init__(self, examples: Values, count: int) -> None:
        self._examples = examples
        self.shape = (count * len(examples), *examples.shape[1:])

    def __len__(self) -> int:
        """How many examples, counting each time."""
        return self.shape[0]

    def __getitem__(self, part: Examples, /) -> np.ndarray:
        """Some of them."""
        return self._examples[np.arange(len(self))[part] % len(self._examples)]


class Joined:
    """The examples of one, then those of another.

    Args:
        first: of any number.
        second: likewise, of the same shape.
    """

    def __init__(self, first: Values, second: Values) -> None:
        self._first, self._second = first, second
        self.shape = (len(first) + len(second), *first.shape[1:])

    def __len__(self) -> int:
        """How many examples."""
        return self.shape[0]

    def __getitem__(self, part: Examples, /) -> np.ndarray:
        """Some of them."""
        numbers = np.arange(len(self))[part]
        is_first = numbers < len(self._first)
        if is_first.all():
            return np.asarray(self._first[numbers])
        if not is_first.any():
            return self._second[numbers - len(self._first)]
        found = np.empty((len(numbers), *self.shape[1:]), np.float32)
        found[is_first] = self._first[numbers[is_first]]
        found[~is_first] = self._second[numbers[~is_first] - len(self._first)]
        return found


class Whole:
    """Keeps float32 as it is."""

    dtype = np.dtype(np.float32)

    def packed(self, values: np.ndarray) -> np.ndarray:
        """Returns what is stored."""
        return np.asarray(values, np.float32)

    def unpacked(self, stored: np.ndarray) -> np.ndarray:
        """Returns the values."""
        return stored


class Halves:
    """Keeps 11 bits of each value, as float16 of whole powers of two.

    Args:
        largest: of the magnitudes that are usual. Up to 65,504 times as large ones are kept.
    """

    dtype = np.dtype(np.float16)

    def __init__(self, largest: float) -> None:
        self._unit = np.float32(np.exp2(np.ceil(np.log2(largest))))

    def packed(self, values: np.ndarray) -> np.ndarray:
        """Returns what is stored."""
        return (np.asarray(values, np.float32) / self._unit).astype(np.float16)

    def unpacked(self, stored: np.ndarray) -> np.ndarray:
        """Returns the values."""
        values = stored.astype(np.float32)
        return np.multiply(values, self._unit, out=values)


class Codes:
    """Keeps what a quantizer has rounded, as one byte for each value; nothing is lost.

    Args:
        scale: of the quantizer.
        qmin: its smallest code.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, scale: np.float32, qmin: int) -> None:
        self._scale, self._qmin = np.float32(scale), np.float32(qmin)

    def packed(self, values: np.ndarray) -> np.ndarray:
        """Returns what is stored."""
        codes = np.asarray(values, np.float32) / self._scale
        np.rint(codes, out=codes)
        return np.subtract(codes, self._qmin, out=codes).astype(np.uint8)

    def unpacked(self, stored: np.ndarray) -> np.ndarray:
        """Returns the values."""
        values = stored.astype(np.float32)
        np.add(values, self._qmin, out=values)
        return np.multiply(values, self._scale, out=values)


Packing = Whole | Halves | Codes


class Stored:
    """Values in a file of the folder for temporary files, without a name: it goes with its object.

    Args:
        shape: of one example.
        packing: how values are kept.
    """

    def __init__(self, shape: Sequence[int], packing: Packing) -> None:
        self._packing = packing
        self._file = tempfile.TemporaryFile(prefix="ddq_tf_")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._bytes = int(np.prod(shape)) * packing.dtype.itemsize
        self.shape = (0, *map(int, shape))

    def append(self, values: np.ndarray) -> None:
        """Adds examples at the end.

        Raises:
            DDQError: if there is no room for them.
        """
        stored: Any = np.ascontiguousarray(self._packing.packed(values))
        try:
            self._file.seek(0, io.SEEK_END)
            self._file.write(memoryview(stored).cast("B"))
            self._file.flush()
        except OSError as error:
            raise DDQError(
                f"cannot write to {tempfile.gettempdir()!r}: {error}. Set the environment variable "
                "TMPDIR to a folder with more room"
            ) from error
        self.shape = (self.shape[0] + len(values), *self.shape[1:])

    def __len__(self) -> int:
        """How many examples."""
        return self.shape[0]

    def __getitem__(self, part: Examples, /) -> np.ndarray:
        """Some examples."""
        numbers = np.arange(len(self))[part]
        stored: Any = np.empty((len(numbers), *self.shape[1:]), self._packing.dtype)
        starts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
        for start, end in itertools.pairwise(starts):  # each of examples that lie side by side
            if end > start:
                self._file.seek(int(numbers[start]) * self._bytes)
                self._file.readinto(memoryview(stored[start:end]).cast("B"))
        return self._packing.unpacked(stored)


def check_room(size_bytes: int) -> None:
    """Raises DDQError if the folder for temporary files has not that much room."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        raise DDQError(
            f"the folder for temporary files, {folder!r}, needs room for {size_bytes / 1e9:.1f} GB."
            f" Received: {free / 1e9:.1f} GB. Set the environment variable TMPDIR to another, or "
            "pass fewer inputs or views"
        )
