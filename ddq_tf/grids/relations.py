r"""What operators without weights ask of the scales around them, and who moves for it.

A weighted layer can have any multiplier: its kernel moves. The others' multipliers are made of
scales alone, so scales must move. Each operator gives one relation:

- **Sum**: each scale is a whole multiple of one unit, an odd one at outputs. All sums that share a
  tensor share the unit, which is a number to be moved like a scale.
- **Ratio**: c * (product of input scales) / output scale = p/q, q odd: products, means.
- **Table**: no value of a function of one code comes near the middle of two codes.

A relation that contains a scale which no other relation contains can always be met, by moving that
scale last. Taking such relations away one by one leaves nothing where all can be met together; met
in the reverse order, each moves a scale that nothing settled before depends on. What is left over
are circles: `conflicts` names operators to be given a grid of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.grids.fold import Grid, grid_of, quantizer_after, source_of
from ddq_tf.grids.fractions import LARGEST, odd_fraction
from ddq_tf.grids.tables import MARGIN, Rounded, RoundedPowers, best_factor
from ddq_tf.kinds import Function, Output, function_of, is_activation, output_of, rule_of
from ddq_tf.kinds.functions import Values
from ddq_tf.layers import rounds_activations
from ddq_tf.layers.formulas import POWER_STEP
from ddq_tf.quantizers import ActivationQuantizer

# No odd fraction nearest to this multiple of a value lies below the value.
_ABOVE = 1 + 1.4e-3
_SAME = 2e-6
GREATEST = 255.0  # XNNPACK takes multipliers below 256


class Unit:
    """What the scales around connected sums are multiples of."""

    learned = True
    ceiling = None

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def export_scale(self) -> float:
        """Returns its value."""
        return self.scale

    def rescale(self, factor: float) -> None:
        """Multiplies it."""
        self.scale *= factor


Movable = ActivationQuantizer | Unit


class Relation:
    """What one operator asks.

    Attributes:
        node: the operator.
        members: what could move, what should rather do so first.
        place: where a grid of its own would do away with the relation: None for the operator's
            output, or the number of an input.
    """

    node: FlatNode
    members: tuple[Movable, ...]
    place: int | None = None

    def holds(self) -> bool:
        """Whether it is met."""
        raise NotImplementedError

    def move(self, member: Movable) -> None:
        """Moves one of the members so that it is met."""
        raise NotImplementedError


def _scale(member: Movable) -> float:
    return float(member.export_scale())


@dataclasses.dataclass(eq=False)
class Multiple(Relation):
    """A scale beside a sum is a whole multiple of the unit: an odd one where it is the sum's."""

    node: FlatNode
    quantizer: Any
    unit: Unit
    is_output: bool
    place: int | None = None

    def __post_init__(self) -> None:
        """Lists what could move."""
        fixed = not isinstance(self.quantizer, ActivationQuantizer)
        self.members = () if fixed else (self.quantizer, self.unit)

    @property
    def scale(self) -> float:
        """The scale beside the sum."""
        return _scale(self.quantizer) if self.members else float(self.quantizer.step)

    def _whole(self, multiple: float, *, only_down: bool = False) -> float:
        # A range at its ceiling has only downwards to go.
        rounded = np.floor if only_down or self.quantizer.ceiling is not None else np.rint
        if self.is_output:
            return max(float(2 * rounded((multiple - 1) / 2 + 1e-6) + 1), 1.0)
        return max(float(rounded(multiple + 1e-6)), 1.0)

    def holds(self) -> bool:
        """Whether it is a multiple; a fixed scale counts as none."""
        if not self.members:
            return False
        multiple = _scale(self.quantizer) / self.unit.scale
        return abs(self._whole(multiple) / multiple - 1) < _SAME

    def move(self, member: Movable) -> None:
        """Rounds the multiple; a unit only grows, so that other multiples stay below 1024.

        A scale below the unit that others hold fast stays: `grids.limits` refuses it.
        """
        multiple = _scale(self.quantizer) / self.unit.scale
        if member is self.unit:
            member.rescale(max(multiple / self._whole(multiple, only_down=True), 1.0))
        else:
            member.rescale(self._whole(multiple) / multiple)


@dataclasses.dataclass(eq=False)
class Ratio(Relation):
    """A multiplier made of scales is an odd fraction.

    Attributes:
        factor: all that cannot move.
        powers: of each scale in the multiplier.
        greatest: what the multiplier stays below.
        fractions: from multipliers to the nearest ones that will do.
        nodes: all operators with this multiplier.
    """

    node: FlatNode
    factor: float
    powers: dict[ActivationQuantizer, int]
    greatest: float = np.inf
    fractions: Callable[[np.ndarray], Any] = odd_fraction
    nodes: list[FlatNode] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        """Lists what could move: outputs first."""
        self.nodes = [self.node]
        self.members = tuple(sorted(self.powers, key=lambda q: self.powers[q]))

    @property
    def key(self) -> Any:
        """What is the same for operators that ask the same of the same scales."""
        powers = frozenset((id(quantizer), power) for quantizer, power in self.powers.items())
        return self.factor, powers, self.greatest, self.fractions

    @property
    def multiplier(self) -> float:
        """What the operator multiplies whole numbers with."""
        scales = (_scale(q) ** power for q, power in self.powers.items())
        return self.factor * float(np.prod([*scales]))

    def _wanted(self, multiplier: float) -> float:
        return float(self.fractions(np.array(min(multiplier, self.greatest))))

    def holds(self) -> bool:
        """Whether it is such a fraction; one of numbers that cannot move must be a plain one."""
        multiplier = self.multiplier
        return abs(self._wanted(multiplier) / multiplier - 1) < _SAME

    def move(self, member: Movable) -> None:
        """Moves to the nearest fraction; a range under a ceiling to the nearest one below."""
        if self.holds() or not isinstance(member, ActivationQuantizer):
            return
        power, multiplier = self.powers[member], self.multiplier
        wanted = multiplier if member.ceiling is None else multiplier * _ABOVE ** -np.sign(power)
        member.rescale((self._wanted(wanted) / multiplier) ** (1 / power))


@dataclasses.dataclass(eq=False)
class TableInputs(Relation):
    """No value of the functions that read a tensor comes near the middle of two of their codes."""

    node: FlatNode
    grid: Callable[[], Grid]
    quantizer: ActivationQuantizer | None
    nodes: list[FlatNode] = dataclasses.field(default_factory=list)
    place: int | None = 0

    def __post_init__(self) -> None:
        """Lists what could move."""
        self.members = () if self.quantizer is None else (self.quantizer,)

    @property
    def functions(self) -> list[Function]:
        """What reads the tensor."""
        return [function for node in self.nodes if (function := _function(node))]

    def _tables(self) -> list[Rounded]:
        looked_up = [Rounded(f.values, f.grid[0]) for f in self.functions if f.values and f.grid]
        if any(map(rounds_powers, self.nodes)):
            looked_up.append(RoundedPowers(np.exp, POWER_STEP))
        return looked_up

    def _factors(self) -> np.ndarray | None:
        """What puts 1/2 of a hard sigmoid on an odd number of steps of its sum; None: anything."""
        if not any(function.name == "hard_sigmoid" for function in self.functions):
            return None
        steps = 192 / float(self.grid().scale)
        odd = 2 * np.rint((steps - 1) / 2) + 1 + np.array([0, 2, -2, 4, -4, 6, -6])
        return steps / odd[odd > 0]

    def holds(self) -> bool:
        """Whether all stay away."""
        factors = self._factors()
        if factors is not None and np.abs(factors - 1).min() > _SAME:
            return False
        grid = self.grid()
        return all(table.margin(grid) >= MARGIN for table in self._tables())

    def move(self, member: Movable) -> None:
        """Moves by the factor that leaves most."""
        if not self.holds():
            member.rescale(
                best_factor(
                    self._tables(), self.grid(), self._factors(), member.ceiling is not None
                )
            )


@dataclasses.dataclass(eq=False)
class Table(Relation):
    """No value of a function comes near the middle of two codes of a grid of its own."""

    node: FlatNode
    grid: Callable[[], Grid]
    function: Values
    quantizer: ActivationQuantizer | None
    output: ActivationQuantizer
    place: int | None = None

    def __post_init__(self) -> None:
        """Lists what could move: nothing where input and output share a grid."""
        self.members = tuple(q for q in (self.output, self.quantizer) if q is not None)
        if self.output is self.quantizer:
            self.members = ()

    def holds(self) -> bool:
        """Whether all stay away, at whatever the range is."""
        shared = self.output is self.quantizer
        table = Rounded(self.function, _scale(self.output))
        return not shared and table.margin(self.grid()) >= MARGIN

    def move(self, member: Movable) -> None:
        """Moves the output's scale, or the input's."""
        if not self.holds():
            tables = [Rounded(self.function, _scale(self.output))]
            is_output = member is self.output
            only_down = member.ceiling is not None
            member.rescale(best_factor(tables, self.grid(), None, only_down, of_output=is_output))


def relations(graph: FlatGraph) -> list[Relation]:
    """Returns what the operators of a DDQ model without weights ask of its scales."""
    found: list[Relation] = [*_sums(graph), *_table_inputs(graph)]
    ratios: dict[Any, Ratio] = {}
    for node in graph.nodes:
        relation = _table(graph, node) or _ratio(graph, node)
        if isinstance(relation, Ratio):
            known = ratios.setdefault(relation.key, relation)
            if known is not relation:
                known.nodes.append(node)
                continue
        if relation is not None:
            found.append(relation)
    return found


def meet(graph: FlatGraph) -> None:
    """Moves scales so that all relations are met; where they form circles, as many as can be."""
    order, left = _peeled(relations(graph))
    settled: set[int] = set()
    for relation in left:
        free = [m for m in relation.members if id(m) not in settled]
        if free:
            relation.move(free[0])
        settled.update(id(m) for m in relation.members)
    for relation, member in reversed(order):
        relation.move(member)


def conflicts(graph: FlatGraph) -> list[tuple[str, int | None]]:
    """Returns where grids of their own let all relations be met.

    Returns:
        (name, place) of operators; see `Relation.place`.
    """
    _, left = _peeled(relations(graph))
    found = []
    while left:
        # One output costs less than the inputs of all that read a tensor.
        broken = min(
            (r for r in left if _is_open(r)), key=lambda r: r.place is not None, default=None
        )
        if broken is None:
            return found
        nodes = broken.nodes if isinstance(broken, TableInputs | Ratio) else [broken.node]
        found += [(node.name, broken.place) for node in nodes]
        _, left = _peeled([r for r in left if r is not broken])
    return found


def _is_open(relation: Relation) -> bool:
    """Whether an operator can be given a grid of its own."""
    if isinstance(relation, Multiple):
        return not relation.members
    return not rounds_activations(relation.node.layer)


def _peeled(
    found: list[Relation],
) -> tuple[list[tuple[Relation, Movable]], list[Relation]]:
    """Takes relations away that a scale of their own can meet; returns them, and the others."""
    left = [r for r in found if r.members or not r.holds()]
    order: list[tuple[Relation, Movable]] = []
    while True:
        uses: dict[int, list[tuple[Relation, Movable]]] = {}
        for relation in left:
            for member in relation.members:
                uses.setdefault(id(member), []).append((relation, member))
        alone = [users[0] for users in uses.values() if len(users) == 1]
        if not alone:
            return order, left
        least = min(map(_reluctance, alone))
        taken = {id(pair[0]): pair for pair in alone if _reluctance(pair) == least}
        order += taken.values()
        left = [r for r in left if id(r) not in taken]


def _reluctance(pair: tuple[Relation, Movable]) -> tuple[int, int]:
    """Inputs of the model should move last, ranges under a ceiling before them."""
    relation, member = pair
    rank = 2 if not member.learned else 1 if member.ceiling is not None else 0
    return rank, [id(m) for m in relation.members].index(id(member))


def _sums(graph: FlatGraph) -> list[Relation]:
    """The multiples of each set of connected sums."""
    found: list[Relation] = []
    for group in connected_sums(graph):
        unit = Unit(1.0)
        roles: dict[int, Multiple] = {}
        for node, layer, place in group:
            quantizer = layer.movable or layer
            role = roles.setdefault(
                id(quantizer), Multiple(node, quantizer, unit, place is None, place)
            )
            role.is_output |= place is None
        unit.scale = _unit_of(list(roles.values()))
        found += roles.values()
    return found


def _unit_of(roles: list[Multiple]) -> float:
    """The unit on which scales lie already; else the greatest scale is its 1023-fold."""
    scales = np.array([role.scale for role in roles])
    odd = np.array([role.is_output for role in roles])
    counts = np.concatenate([np.arange(LARGEST, 0, -1), np.arange(LARGEST + 1, 2 * LARGEST)])
    multiples = counts[:, None] * (scales / scales.max())
    whole = np.maximum(np.rint(multiples), 1)
    lies = (np.abs(multiples / whole - 1) < _SAME) & ((whole % 2 == 1) | ~odd)
    return float(scales.max() / counts[np.argmax(lies.all(axis=1))])


def connected_sums(graph: FlatGraph) -> list[list[tuple[FlatNode, Any, int | None]]]:
    """Returns the layers whose grids lie around sums: those that share one together.

    Returns:
        For each set: the sum's node, the layer, and the number of the input (None: the output).
    """
    groups: list[list[tuple[FlatNode, Any, int | None]]] = []
    for node in graph.nodes:
        if not rule_of(node.layer).adds:
            continue
        around: list[tuple[FlatNode, Any, int | None]] = [
            (node, source_of(graph, tensor), place) for place, tensor in enumerate(node.inputs)
        ]
        reader = quantizer_after(graph, node.outputs[0])
        if reader is not None:
            around.append((node, reader.layer, None))
        names = {id(layer) for _, layer, _ in around if layer.movable is not None}
        joined = [g for g in groups if names & {id(layer) for _, layer, _ in g}]
        groups = [g for g in groups if g not in joined]
        groups.append([*around, *(member for g in joined for member in g)])
    return groups


def _table_inputs(graph: FlatGraph) -> list[Relation]:
    """The functions with fixed output grids, together for each tensor's grid."""
    found: dict[int, TableInputs] = {}
    for node in graph.nodes:
        function = _function(node)
        if not rounds_powers(node) and (function is None or function.grid is None):
            continue
        tensor = node.inputs[0]
        source = source_of(graph, tensor)
        new = TableInputs(node, lambda t=tensor: grid_of(graph, t), source.movable)
        relation = found.setdefault(id(source), new)
        relation.nodes.append(node)
        if not new.grid().cut:  # the whole of the grid, where some see a half
            relation.grid = new.grid
    return list(found.values())


def _table(graph: FlatGraph, node: FlatNode) -> Relation | None:
    function, after = _function(node), quantizer_after(graph, node.outputs[0])
    if function is None or function.values is None or function.grid or after is None:
        return None
    tensor = node.inputs[0]
    moves, output = source_of(graph, tensor).movable, after.layer.quantizer
    return Table(node, lambda: grid_of(graph, tensor), function.values, moves, output)


def _function(node: FlatNode) -> Function | None:
    return function_of(node.layer) if is_activation(node) else None


def rounds_powers(node: FlatNode) -> bool:
    """Returns whether a layer rounds e^(x - max x)."""
    return rule_of(node.layer).rounds_powers(node)


def _ratio(graph: FlatGraph, node: FlatNode) -> Relation | None:
    factor, fractions, greatest = _own_factor(graph, node)
    after = node if rounds_activations(node.layer) else None
    after = after or quantizer_after(graph, node.outputs[0])
    if factor is None or after is None:
        return None
    powers = {after.layer.quantizer: -1}
    for tensor in node.inputs:
        source = source_of(graph, tensor)
        if source.movable is not None:
            powers[source.movable] = powers.get(source.movable, 0) + 1
        else:
            factor *= float(source.step)
    moving = {quantizer: power for quantizer, power in powers.items() if power}
    return Ratio(node, factor, moving, greatest, fractions)


def _own_factor(graph: FlatGraph, node: FlatNode) -> tuple[float | None, Any, float]:
    """What an operator multiplies its inputs with; the fractions it wants, and its greatest."""
    if rounds_activations(node.layer):
        return (1.0 if _keeps_grid(graph, node) else None), _odd_256ths, 2.0**7
    return rule_of(node.layer).factor(node), odd_fraction, GREATEST


def _keeps_grid(graph: FlatGraph, node: FlatNode) -> bool:
    """Whether a quantizer reads a tensor that lies on another quantizer's grid already."""
    tensor = node.inputs[0]
    while (before := graph.producer(tensor)) is not None:
        output = output_of(before)
        if output is Output.GRID:
            return before.layer is not node.layer
        if output is not Output.KEEPS:
            return False
        tensor = before.inputs[0]
    return False


def _odd_256ths(ratio: np.ndarray) -> float:
    """The nearest odd multiple of 1/256."""
    return float(max(2 * np.rint((ratio * 256 - 1) / 2) + 1, 1) / 256)
