"""What a user chooses, as frozen, validated dataclasses (stdlib only)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ddq_tf.arguments import check_types, same_as, setting
from ddq_tf.errors import DDQError
from ddq_tf.latency import MAKE, LatencyBudget, LatencyTable
from ddq_tf.rules import Rule
from ddq_tf.scheme import (
    MAX_BITS,
    WeightScheme,
    as_precisions,
    check_precisions,
)
from ddq_tf.targets import TARGETS, OpKind, Target, get_target

AUTO = "auto"  # a budget that every model can meet
AUTO_FRACTION = 0.6
CALIBRATIONS = ("mse", "percentile")
_BUDGET_TEXT = re.compile(r"^\s*([0-9.]+)\s*(bits|bytes|b|kib|kb|mib|mb|%)?\s*$", re.IGNORECASE)
_BYTES_PER_UNIT = {
    "bytes": 1,
    "b": 1,
    "kb": 1000,
    "kib": 1024,
    "mb": 1000**2,
    "mib": 1024**2,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How large the weights may be in the file; exactly one attribute is set.

    Attributes:
        fraction: of the weight bytes at 8 bits, in (0, 1].
        size_bytes: bytes of all quantized weights together, without biases and scales.
        average_bits: mean bits per weight, in (0, 8].
    """

    fraction: float | None = None
    size_bytes: int | None = None
    average_bits: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        given = [v for v in (self.fraction, self.size_bytes, self.average_bits) if v is not None]
        if len(given) != 1:
            raise DDQError(
                "Budget needs exactly one of fraction, size_bytes, average_bits. "
                f"Received: fraction={self.fraction!r}, size_bytes={self.size_bytes!r}, "
                f"average_bits={self.average_bits!r}"
            )
        top = {"fraction": 1.0, "size_bytes": float("inf"), "average_bits": float(MAX_BITS)}
        for name, limit in top.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= limit:
                raise DDQError(f"Budget needs 0 < {name} <= {limit:g}. Received: {name}={value!r}")

    @classmethod
    def parse(cls, value: Budget | float | str) -> Budget:
        """Reads a budget as users write it.

        Args:
            value: a Budget; a number up to 1 (fraction of the int8 bytes) or an integer above
                (bytes); or text such as "0.6", "60%", "4.3bits", "48000bytes", "48KiB".

        Raises:
            DDQError: if it is none of these.
        """
        if isinstance(value, Budget):
            return value
        if isinstance(value, str):
            return cls._parse_text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DDQError(f"budget must be a number, text or Budget. Received: budget={value!r}")
        if value <= 1:
            return cls(fraction=float(value))
        if float(value).is_integer():
            return cls(size_bytes=int(value))
        raise DDQError(
            "budget as a bare number is a fraction up to 1 or whole bytes; for average bits write "
            f"Budget(average_bits={value}) or '{value}bits'. Received: budget={value!r}"
        )

    @classmethod
    def _parse_text(cls, text: str) -> Budget:
        match = _BUDGET_TEXT.match(text)
        try:
            number = float(match.group(1)) if match else float("nan")
        except ValueError:
            number = float("nan")
        if match is None or number != number:
            raise DDQError(
                "budget must read like '0.6', '60%', '4.3bits', '48000bytes', '48KiB' or 'auto'. "
                f"Received: budget={text!r}"
            )
        unit = (match.group(2) or "").lower()
        if unit == "bits":
            return cls(average_bits=number)
        if unit == "%":
            return cls(fraction=number / 100)
        if unit:
            return cls(size_bytes=int(number * _BYTES_PER_UNIT[unit]))
        return cls.parse(int(number) if number > 1 and number.is_integer() else number)

    def bits_of(self, num_weights: int) -> float:
        """Returns the budget in bits for a model of `num_weights` weights."""
        if self.fraction is not None:
            return self.fraction * num_weights * MAX_BITS
        if self.size_bytes is not None:
            return self.size_bytes * 8.0
        return float(self.average_bits or 0) * num_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDQConfig:
    """Everything that `quantize_model` may be told.

    Attributes:
        target: where the file will run; see `ddq_tf.targets.TARGETS`.
        budget: for the weights: 0.6 or "60%" (of their int8 bytes), "4.3bits" (per weight),
            "48KiB", "48000bytes", None for no pressure on the precision, or "auto": 60 %, or the
            least that the target needs where that is more; see `Budget.parse`.
        precisions: weight precisions to learn over, as in 4,8; by default those that the target
            stores, of litert 4 and 8: an operator whose storage holds only 8 bits then stays at 8.
            2,4,8 adds INT2, which needs LiteRT 2.1.2.
        code_bits: limit for the mean bits of the weights' codes, beside the budget; by default
            none. For targets that store codes of fewer bits in wider tensors: what compresses a
            file later profits from it.
        latency_budget: time that all layers with weights may take together for one example, beside
            the budget: 0.95, "0.95x" or "95%" (of their time with INT8 weights), "850us" or
            "1.2ms"; by default none. It needs `latency_table`.
        latency_table: times of operators, measured where the file will run, or the JSON file of
            them, as `ddq benchmark --table` and `ddq deploy --table` make it.
        per_channel: whether each output channel has a weight range of its own; otherwise one per
            tensor.
        channel_precision: whether each output channel has a weight precision of its own; otherwise
            one per layer. Reconstruction learns them, `fit` does not. Uniform levels only.
        narrow_range: whether uniform weight codes leave out the lowest of two's complement, as -8
            of 4 bits; otherwise there are 16 levels of 4 bits, not 15.
        levels: of the weights: "uniform" ones, or "free", learned ones, for targets whose files
            hold arbitrary codes.
        level_init: where free levels start.
        correction: coefficient of the gradient correction of free levels.
        keep_zeros: whether weights that are exactly 0 stay so through training, as those of a
            pruned network; uniform levels only. Reconstruction then leaves out the closed form.
        activation_bits: precision of activations, or several to learn over, as in 4,6,8. Inputs,
            outputs and what sigmoid, tanh, hard-sigmoid and softmax write stay at 8 bits.
        activation_budget: mean bits of the activations that learn their precision; by default no
            pressure.
        activation_calibration: of the initial ranges: least squared error, or the 99.99th
            percentile.
        search_fraction: share of the training after which the precisions are final.
        calibration_images: how many inputs of the calibration data are used at most.
        freeze_quantizers_of_frozen: whether layers that are not trainable keep their calibrated
            weight ranges and highest precision too; otherwise their quantizers learn.
        rules: for some layers, what holds there instead; see `ddq_tf.Rule`.
        seed: of everything random, such as gate exploration and calibration sampling.
    """

    target: str = setting("litert", choices={t.name: t.description for t in TARGETS.values()})
    budget: Budget | float | str | None = setting(AUTO, shown="SIZE")
    precisions: tuple[int, ...] | None = setting(None, shown="4,8")
    code_bits: float | None = setting(None, within="(0, 8]", shown="BITS")
    latency_budget: LatencyBudget | float | str | None = setting(None, shown="TIME")
    latency_table: LatencyTable | str | Path | None = setting(None, shown="TABLE.json")
    per_channel: bool = same_as(WeightScheme, "per_channel")
    channel_precision: bool = same_as(WeightScheme, "channel_precision")
    narrow_range: bool = same_as(WeightScheme, "narrow_range")
    levels: str = same_as(WeightScheme, "levels")
    level_init: str = same_as(WeightScheme, "level_init")
    correction: float = same_as(WeightScheme, "correction")
    keep_zeros: bool = same_as(WeightScheme, "keep_zeros")
    activation_bits: int | tuple[int, ...] = setting(MAX_BITS, shown="4|4,6,8")
    activation_budget: float | None = setting(None, shown="BITS")
    activation_calibration: str = setting("mse", choices=CALIBRATIONS)
    search_fraction: float = setting(0.5, within="(0, 1)", shown="SHARE")
    calibration_images: int = setting(512, within="[1, inf)")
    freeze_quantizers_of_frozen: bool = False
    rules: tuple[Rule, ...] = ()
    seed: int = setting(0, within="[0, inf)")

    def __post_init__(self) -> None:
        check_types(self)
        if self.budget not in (None, AUTO):
            object.__setattr__(self, "budget", Budget.parse(self.budget))
        self._read_latency()
        precisions = (MAX_BITS,) if self.precisions is None else self.precisions
        self._check_target(self._scheme(precisions, None), "")
        for rule in self.rules:
            self._check_target(self._scheme(precisions, rule), f"{rule.words}: ")
            if rule.activation_precisions:
                check_precisions(f"{rule.words}: activation_bits", rule.activation_precisions)
        self._check_activations()

    def _check_target(self, scheme: WeightScheme, where: str) -> None:
        if scheme.levels == "free" and self.resolved_target.code_bits is None:
            raise DDQError(
                f"{where}target {self.target!r} stores uniform codes: free levels would take 8 "
                "bits each there. Choose target 'litert-int8' or 'tflm', or levels='uniform'. "
                "Received: levels='free'"
            )

    def _read_latency(self) -> None:
        if self.latency_budget is not None:
            parsed = LatencyBudget.parse(self.latency_budget)
            object.__setattr__(self, "latency_budget", parsed)
            if self.latency_table is None:
                raise DDQError(
                    "latency_budget needs latency_table, the times of operators where the file "
                    f"will run. Make one: {MAKE}. Received: latency_table=None"
                )
            if self.code_bits is not None:
                raise DDQError(
                    "latency_budget and code_bits exclude each other: code_bits is for targets "
                    "that store all codes in one width, whose time no choice changes. Received: "
                    f"code_bits={self.code_bits!r}"
                )
        if self.latency_table is not None and self.resolved_target.runtime != "LiteRT":
            raise DDQError(
                "latency_table holds times of LiteRT's operators, which target "
                f"{self.target!r} does not run. Choose another target, or leave the table out"
            )
        if isinstance(self.latency_table, str | Path):
            object.__setattr__(self, "latency_table", LatencyTable.load(self.latency_table))

    def _check_activations(self) -> None:
        check_precisions("activation_bits", self.activation_precisions)
        least = self.activation_precisions[0]
        budget = self.activation_budget
        if budget is not None and not least <= budget <= MAX_BITS:
            raise DDQError(
                f"activation_budget must lie between the lowest of activation_bits, {least}, and "
                f"{MAX_BITS}. Received: activation_budget={budget!r}"
            )

    @property
    def activation_precisions(self) -> tuple[int, ...]:
        """The precisions that activations learn over."""
        return as_precisions(self.activation_bits)

    @property
    def resolved_target(self) -> Target:
        """The target as a value object."""
        return get_target(self.target)

    def precisions_for(self, kind: OpKind, in_channels: int) -> tuple[int, ...]:
        """Returns the precisions that a weight of this kind learns over.

        Unless told, that is what the target rewards, except for those whose rows XNNPACK would not
        take in FULLY_CONNECTED.

        Args:
            kind: of the operator.
            in_channels: that it reads.
        """
        if self.precisions is not None:
            return self.precisions
        target = self.resolved_target
        if target.code_bits is not None:
            return target.code_bits
        learned = target.learned_bits(kind)
        return tuple(bits for bits in learned if target.stores(kind, bits, in_channels))

    def scheme_for(self, kind: OpKind, in_channels: int, layer: str = "") -> WeightScheme:
        """Returns how a weight of this kind is quantized; see `precisions_for`.

        Args:
            kind: of the operator.
            in_channels: that it reads.
            layer: its name, for rules that took it.
        """
        return self._scheme(self.precisions_for(kind, in_channels), self.rule_of(layer))

    def rule_of(self, layer: str) -> Rule | None:
        """Returns the rule that took a layer's kernel, or None."""
        return next((rule for rule in self.rules if layer in rule.layers), None)

    def leaves_in_float(self, layer: str) -> bool:
        """Returns whether a layer with a kernel stays in float."""
        rule = self.rule_of(layer)
        return rule is not None and rule.in_float

    def activation_precisions_of(self, layers: Collection[str]) -> tuple[int, ...]:
        """Returns the precisions of an activation.

        Args:
            layers: the names of all that write it; several where it lies on a grid with others.
        """
        for rule in self.rules:
            if not set(layers).isdisjoint(rule.activations):
                return rule.activation_precisions
        return self.activation_precisions

    def _scheme(self, precisions: tuple[int, ...], rule: Rule | None) -> WeightScheme:
        options = {name: getattr(self, name) for name in WeightScheme.names()}
        said = {} if rule is None else rule.options
        return WeightScheme(**{**options, "precisions": precisions, **said})

    def to_dict(self) -> dict[str, object]:
        """Returns plain values from which `from_dict` restores the configuration."""
        bare = dataclasses.replace(self, rules=(), latency_budget=None, latency_table=None)
        table, limit = self.latency_table, self.latency_budget
        return {
            **dataclasses.asdict(bare),
            "rules": [rule.to_dict() for rule in self.rules],
            "latency_budget": dataclasses.asdict(limit)
            if isinstance(limit, LatencyBudget)
            else None,
            "latency_table": table.to_dict() if isinstance(table, LatencyTable) else None,
        }

    def fingerprint(self) -> dict[str, object]:
        """Returns plain values that tell configurations apart, of a table few letters."""
        table = self.latency_table
        known = {"latency_table": table.digest} if isinstance(table, LatencyTable) else {}
        return {**self.to_dict(), **known}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> DDQConfig:
        """Restores a configuration, for example from a saved model."""
        fields = dict(values)
        budget = fields.get("budget")
        if isinstance(budget, dict):
            fields["budget"] = Budget(**budget)
        limit, table = fields.get("latency_budget"), fields.get("latency_table")
        if isinstance(limit, Mapping):
            fields["latency_budget"] = LatencyBudget(**limit)
        if isinstance(table, Mapping):
            fields["latency_table"] = LatencyTable.from_dict(table)
        rules: Any = fields.get("rules", ())
        fields["rules"] = tuple(Rule.from_dict(rule) for rule in rules)
        return cls(**fields)  # type: ignore[arg-type]
