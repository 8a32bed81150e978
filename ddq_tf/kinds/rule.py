"""`LayerRule`: all that ddq_tf knows of a layer type, in one place.

Every room asks `rule_of`. A rule says how a layer is rewritten, checked, rebuilt with quantizers,
and written as integer operators; the rooms hold the walks through the graph, and the passes that
look at neighbours. A layer without a rule is an error at the first look, never a default.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatGraph, FlatNode

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer


class Output(enum.Enum):
    """How the integer graph sees what a layer writes."""

    OWN = "computes new values, on the grid of the quantizer behind it"
    KEEPS = "moves values or picks among them: they stay on the grid of its input"
    ROUNDS = "computes new values and rounds them to the grid of its input"
    FIXED = "computes new values on a grid that TFLite fixes"
    SHARED = "joins tensors that all lie on one grid"
    GRID = "is a quantizer: what it writes lies on its own grid"


Expand = Callable[["Canonicalizer", FlatNode], list[FlatNode]]
OnRow = Callable[[Any, str], Any]
Problem = Callable[[FlatGraph, FlatNode], str | None]
Twin = Callable[["DDQConfig", FlatNode, str], Any]
Lower = Callable[["Lowering", FlatNode], None]
Affine = Callable[[Any, int], tuple[np.ndarray, np.ndarray]]
Move = Callable[[Any, np.ndarray], np.ndarray]
Operation = Callable[[Any, Sequence[int | None]], keras.Operation]


def no_problem(graph: FlatGraph, node: FlatNode) -> str | None:
    """The check of layers that are fine wherever they stand."""


def config_of(node: FlatNode, name: str) -> dict[str, Any]:
    """Returns a layer's configuration for a copy in float32 under another name."""
    fields = dict(node.layer.get_config())
    fields.update(name=name, dtype="float32")
    fields.pop("batch_input_shape", None)
    return fields


def plain_copy(config: DDQConfig, node: FlatNode, name: str) -> Any:
    """The twin of layers that stay what they are."""
    return type(node.layer).from_config(config_of(node, name))


def on_any_rank(layer: Any, name: str) -> Any:
    """The twin on images of one row of layers that compute the same whatever the rank."""
    return layer


def no_lift(node: FlatNode) -> float:
    """The lift of layers whose halves round to even."""
    return 0.0


def no_factor(node: FlatNode) -> float | None:
    """The factor of layers that do not multiply by a number of their own."""


def mixes(node: FlatNode, axis: int) -> bool:
    """The answer of layers that look at several positions at once."""
    return False


def anywhere(node: FlatNode, axis: int) -> bool:
    """The answer of layers that look at each value alone."""
    return True


def but_the_last(node: FlatNode, axis: int) -> bool:
    """The answer of layers that look at the channels of each position alone."""
    return axis != len(node.shapes[0]) - 1


def no_powers(node: FlatNode) -> bool:
    """The answer of layers that round no powers."""
    return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A use of a layer that the contract test takes through the whole line.

    Attributes:
        build: from a symbolic tensor to a tensor.
        shape: of its input, without the batch.
    """

    build: Callable[[Any], Any]
    shape: tuple[int, ...] = (8, 8, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerRule:
    """What is known of layer types that are treated alike.

    Attributes:
        layers: the exact types: a user's subclass may compute something else.
        words: how the table of supported layers names them; "" for what users never write.
        expand: the layers that it is rewritten to before anything is checked; None where it stays.
        on_row: from a layer on sequences to its twin on images of one row; None if it has none.
        problem: what is wrong with it where it stands, in the canonical graph, or None.
        output: how the integer graph sees what it writes, by its node where that differs; None for
            what `expand` always rewrites.
        lift: with output ROUNDS, the share of a step that makes halves round up.
        twin: makes its copy in the DDQ model, under a name.
        lower: writes it as integer operators.
        operator: the one of TFLite that it needs and not every target has, or not for as many
            axes; "" for none, or where its function tells (`function_of`).
        in_floats: whether only float operators do what it does.
        move: of layers that only move the values of an example: the same of an array of one
            example's shape.
        operation: what does the same in keras.ops, whatever the size of the first axis, on an
            input of a shape; None where nothing does.
        factor: what it multiplies the product of its inputs with, where that is one number.
        affine: of layers that multiply and shift each channel: float64 (gain, shift), each
            (channels,), of a layer in inference: y = gain * x + shift.
        cuts: whether it cuts off what lies below 0.
        adds: whether it is a sum or a difference of its inputs.
        gives_probabilities: whether it is a quantized softmax.
        rounds_powers: whether it rounds e^(x - max x).
        each_alone: of layers in DDQ models, whether what it writes at a position along an axis of
            its inputs, counted with the batch, comes of what it reads at that position alone, and
            in the same way at all of them.
        is_homogeneous: whether f(k x) = k f(x) for k > 0, channel by channel, whatever its
            arguments.
        has_two_modes: whether it computes something else in training.
        examples: what the contract test runs.
    """

    layers: tuple[type, ...]
    words: str = ""
    expand: Expand | None = None
    on_row: OnRow | None = None
    problem: Problem = no_problem
    output: Output | Callable[[FlatNode], Output] | None = None
    lift: Callable[[FlatNode], float] = no_lift
    twin: Twin = plain_copy
    lower: Lower | None = None
    operator: str = ""
    in_floats: bool = False
    move: Move | None = None
    operation: Operation | None = None
    factor: Callable[[FlatNode], float | None] = no_factor
    affine: Affine | None = None
    cuts: bool = False
    adds: bool = False
    gives_probabilities: bool = False
    rounds_powers: Callable[[FlatNode], bool] = no_powers
    each_alone: Callable[[FlatNode, int], bool] = mixes
    is_homogeneous: bool = False
    has_two_modes: bool = False
    examples: tuple[Example, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Rules of one kind of layers, in one file.

    Attributes:
        title: its row in the table of supported layers; "" for layers that users never write.
        rules: in the order of that row.
    """

    title: str
    rules: tuple[LayerRule, ...]


class Registry:
    """The rules of all layer types."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.families = families
        self._rules: dict[type, LayerRule] = {}
        for family in families:
            for rule in family.rules:
                for layer in rule.layers:
                    if layer in self._rules:
                        raise ValueError(f"{layer.__name__} has two rules")
                    self._rules[layer] = rule

    def find(self, layer: Any) -> LayerRule | None:
        """Returns the rule of a layer's exact type, or None."""
        return self._rules.get(type(layer))

    def of(self, layer: Any) -> LayerRule:
        """Returns the rule of a layer's exact type.

        Raises:
            DDQError: if there is none.
        """
        rule = self.find(layer)
        if rule is None:
            name = getattr(layer, "name", "?")
            raise DDQError(f"layer {name!r} ({type(layer).__name__}): has no rule in ddq_tf.kinds")
        return rule

    def output_of(self, node: FlatNode) -> Output:
        """Returns how the integer graph sees what a node writes.

        Raises:
            DDQError: if its layer has no rule, or one that always expands.
        """
        output = self.of(node.layer).output
        if callable(output) and not isinstance(output, Output):
            output = output(node)
        if output is None:
            name = type(node.layer).__name__
            raise DDQError(f"layer {node.name!r} ({name}): is rewritten before it has a grid")
        return output

    @property
    def rules(self) -> tuple[LayerRule, ...]:
        """All of them, each once."""
        return tuple(rule for family in self.families for rule in family.rules)
