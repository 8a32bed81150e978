"""What time operators take where a file will run, and how much of it is allowed (stdlib only)."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddq_tf.arguments import check_types
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.scheme import MAX_BITS

FORMAT = "ddq_tf latency table"
VERSION = 1
MAKE = "`ddq benchmark MODEL --table=FILE` here, `ddq deploy MODEL --table=FILE` on a phone"
OPERATORS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
_WIDTHS = (2, 4, MAX_BITS)
_MOST_TIMES = 10.0  # of the INT8 time: a greater number without a unit is meant as something else
_TEXT = re.compile(r"^\s*([0-9.]+)\s*(x|%|us|µs|ms|s)?\s*$", re.IGNORECASE)
_US_PER_UNIT = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyBudget:
    """How long all operators with weights may take together; exactly one attribute is set.

    Attributes:
        ratio: of the time that they take with INT8 weights, in (0, 10].
        microseconds: of one inference of one example.
    """

    ratio: float | None = None
    microseconds: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if (self.ratio is None) == (self.microseconds is None):
            raise DDQError(
                "LatencyBudget needs exactly one of ratio, microseconds. Received: "
                f"ratio={self.ratio!r}, microseconds={self.microseconds!r}"
            )
        for name, most in (("ratio", _MOST_TIMES), ("microseconds", math.inf)):
            value = getattr(self, name)
            if value is not None and not (0 < value <= most and math.isfinite(value)):
                raise DDQError(
                    f"LatencyBudget needs 0 < {name} <= {most:g}. Received: {name}={value!r}"
                )

    @classmethod
    def parse(cls, value: LatencyBudget | float | str) -> LatencyBudget:
        """Reads a budget of time as users write it.

        Args:
            value: a LatencyBudget; a number up to 10 (times the INT8 time); or text such as
                "0.95x", "95%", "850us", "1.2ms".

        Raises:
            DDQError: if it is none of these.

        Example:
            >>> LatencyBudget.parse("1.2ms")
            LatencyBudget(ratio=None, microseconds=1200.0)
        """
        if isinstance(value, LatencyBudget):
            return value
        match = _TEXT.match(f"{value}") if isinstance(value, str | float | int) else None
        try:
            number = float(match[1]) if match else math.nan
        except ValueError:
            number = math.nan
        unit = (match[2] or "x").lower() if match else ""
        if isinstance(value, bool) or math.isnan(number) or (unit == "x" and number > _MOST_TIMES):
            raise DDQError(
                "latency_budget must be up to 10 times the INT8 time, as 0.95, '0.95x' or '95%', "
                f"or a time, as '850us' or '1.2ms'. Received: latency_budget={value!r}"
            )
        if unit in _US_PER_UNIT:
            return cls(microseconds=number * _US_PER_UNIT[unit])
        return cls(ratio=number / 100 if unit == "%" else number)

    def us_of(self, int8_us: float) -> float:
        """Returns the limit in microseconds.

        Args:
            int8_us: what the operators take with INT8 weights.
        """
        return float(self.microseconds or 0) if self.ratio is None else self.ratio * int8_us

    def __str__(self) -> str:
        return f"{self.microseconds:g} us" if self.ratio is None else f"{self.ratio:g} x of INT8"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorShape:
    """What makes one operator with weights cost more than another, beside its weights' width.

    Attributes:
        operator: of TFLite, as in "FULLY_CONNECTED".
        positions: rows of one example that FULLY_CONNECTED computes, (rows,); height and width of
            what a convolution writes, (height, width).
        weights: shape of the weights in the file: (O, I), (O, h, w, I / groups), or of
            DEPTHWISE_CONV_2D (1, h, w, O).
        strides: down and to the right.
        dilations: likewise.
        groups: of CONV_2D; of DEPTHWISE_CONV_2D, the channels that it reads.
    """

    operator: str
    positions: tuple[int, ...]
    weights: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        in_rows = self.operator == "FULLY_CONNECTED"
        lengths = (1, 2) if in_rows else (2, 4)
        sizes = (
            *self.positions,
            *self.weights,
            *self.strides,
            *self.dilations,
            self.groups,
        )
        if (
            self.operator not in OPERATORS
            or (len(self.positions), len(self.weights)) != lengths
            or min(sizes) < 1
        ):
            raise DDQError(
                f"a shape must be of one of {', '.join(OPERATORS)}, FULLY_CONNECTED with 1 and 2 "
                f"sizes of positions and weights, others with 2 and 4, all at least 1. "
                f"Received: {dataclasses.asdict(self)}"
            )

    @property
    def row(self) -> int:
        """Weights along the last axis: the inputs of FULLY_CONNECTED."""
        return self.weights[-1]

    def __str__(self) -> str:
        places = "x".join(map(str, self.positions))
        if self.operator == "FULLY_CONNECTED":
            outputs, inputs = self.weights
            return f"{self.operator} {places} x {inputs} to {outputs}"
        window = "x".join(map(str, self.weights))
        more = "" if self.strides == (1, 1) else f" stride {self.strides[0]}x{self.strides[1]}"
        if self.dilations != (1, 1):
            more += f" dilation {self.dilations[0]}x{self.dilations[1]}"
        if self.groups > 1 and self.operator == "CONV_2D":
            more += f" groups {self.groups}"
        return f"{self.operator} {places}, weights {window}{more}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """What one operator takes.

    Attributes:
        shape: of the operator.
        bits: of its weights as they are stored: 2, 4 or 8.
        median_us: of one run, without what entering and leaving the runtime takes.
        low_us: a tenth of the runs was faster; of a phone, the fastest.
        high_us: a tenth was slower; of a phone, the slowest.
    """

    shape: OperatorShape
    bits: int
    median_us: float
    low_us: float
    high_us: float

    def __post_init__(self) -> None:
        check_types(self)
        times = (self.median_us, self.low_us, self.high_us)
        if self.bits not in _WIDTHS or not all(math.isfinite(us) and us >= 0 for us in times):
            raise DDQError(
                f"a row needs bits of {', '.join(map(str, _WIDTHS))} and times of 0 us or more. "
                f"Received: {self.shape}, bits={self.bits}, times {times}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Measured times of operators, of one machine.

    Attributes:
        machine: where they were measured.
        runtime: that ran them, with its release.
        num_threads: of each operator.
        created: when, in ISO 8601.
        overhead_us: what entering and leaving the runtime took, which no row has in it.
        rows: each shape and width once.
    """

    machine: str
    runtime: str
    num_threads: int
    created: str
    overhead_us: float
    rows: tuple[LatencyRow, ...] = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        counts = collections.Counter((row.shape, row.bits) for row in self.rows)
        twice = [key for key, count in counts.items() if count > 1]
        raise_all(
            "a latency table has one row for each shape and width. Received several for:",
            (f"{shape}, {bits} bits" for shape, bits in twice),
        )

    @functools.cached_property
    def _medians(self) -> Mapping[tuple[OperatorShape, int], float]:
        return {(row.shape, row.bits): row.median_us for row in self.rows}

    def us(self, shape: OperatorShape, bits: int) -> float | None:
        """Returns the microseconds of an operator; None where no row tells.

        Args:
            shape: of it.
            bits: of its weights as they are stored.
        """
        return self._medians.get((shape, bits))

    @property
    def spread(self) -> float:
        """How far apart a row's low and high times are, over its median: the median of rows."""
        spreads = [(r.high_us - r.low_us) / r.median_us for r in self.rows if r.median_us]
        return statistics.median(spreads) if spreads else 0.0

    @property
    def origin(self) -> str:
        """Where and when the times were measured, in words."""
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        return f"{self.machine}, {self.runtime}, {threads}, {self.created}"

    @property
    def digest(self) -> str:
        """Tells tables apart, in few letters."""
        return hashlib.sha256(self.dumps()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values from which `from_dict` restores the table."""
        fields = {**vars(self), "rows": [_row_to_dict(row) for row in self.rows]}
        fields.pop("_medians", None)
        return {"format": FORMAT, "version": VERSION, **fields}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """Restores a table.

        Raises:
            DDQError: if the values are no table, or of another version.
        """
        fields = dict(values)
        kind = fields.pop("format", None), fields.pop("version", None)
        if kind != (FORMAT, VERSION):
            raise DDQError(
                f"a latency table says format {FORMAT!r}, version {VERSION}. Received: {kind}. "
                f"Make one anew: {MAKE}"
            )
        try:
            rows = tuple(_row_from_dict(row) for row in fields.pop("rows"))
            return cls(**fields, rows=rows)
        except (KeyError, TypeError, AttributeError) as error:
            raise DDQError(
                f"a latency table lacks a field, or has one too many: {error}"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Reads the file of a table.

        Raises:
            DDQError: if it cannot be read or holds no table.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DDQError(
                f"cannot read the latency table {str(path)!r}: {error}. Make one: {MAKE}"
            ) from error
        if not isinstance(values, dict):
            raise DDQError(f"the latency table {str(path)!r} must hold a JSON object")
        try:
            return cls.from_dict(values)
        except DDQError as error:
            raise DDQError(f"the latency table {str(path)!r}: {error}") from error

    def dumps(self) -> bytes:
        """Returns the content of a table's file, a row a line."""
        fields = self.to_dict()
        rows = ",\n  ".join(json.dumps(row) for row in fields.pop("rows"))
        head = json.dumps(fields, indent=1, ensure_ascii=False).removesuffix("\n}")
        return f'{head},\n "rows": [\n  {rows}\n ]\n}}\n'.encode()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyPrediction:
    """What the operators with weights of a file take, by a table.

    Attributes:
        us: as their weights are stored, in microseconds, for one example.
        int8_us: with the same weights in INT8.
        table: the table.
    """

    us: float
    int8_us: float
    table: LatencyTable = dataclasses.field(repr=False)


def _row_to_dict(row: LatencyRow) -> dict[str, Any]:
    fields = dataclasses.asdict(row)
    return {**fields.pop("shape"), **fields}


def _row_from_dict(values: Mapping[str, Any]) -> LatencyRow:
    names = [field.name for field in dataclasses.fields(OperatorShape)]
    shape = OperatorShape(**{name: values[name] for name in names})
    return LatencyRow(shape=shape, **{n: v for n, v in values.items() if n not in names})
