"""One time step of a DDQ model whose recurrent layers are unrolled.

What the unrolled model computes at its last step is what it computes at each: the same layers, on
the same grids (`ddq_tf.kinds.recurrent`). So the graph of one step is a part of the graph of all:
what the last step computes of its features and of the states behind the step before. A sequence
becomes its last row; a tensor of any other step is left out. The states become inputs and outputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from ddq_tf.errors import DDQError, raise_all
from ddq_tf.export.lowering.builder import output_shape
from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.flatten import Shape, read_by, unused
from ddq_tf.grids.fold import source_of
from ddq_tf.kinds import Output, output_of, rule_of
from ddq_tf.layers import (
    DDQConstant,
    DDQFixedGrid,
    DDQSlice,
    DDQState,
    StateMark,
    rounds_activations,
)

L = keras.layers
_RULE = (
    "cannot stream. A streaming file has one step and the states: layers that look at each step "
    "alone may stand around recurrent layers that run forwards. Put others in the place of these, "
    "or export without streaming:"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStep:
    """The graph of one step.

    Attributes:
        graph: its inputs are the model's, sequences without the axis of time, then the states; its
            outputs the model's likewise, then the states.
        states: their names, as inputs and as outputs.
    """

    graph: FlatGraph
    states: tuple[str, ...]


def one_step(graph: FlatGraph, name: str, labels: Sequence[str]) -> OneStep:
    """Returns the graph of one time step.

    Args:
        graph: of a DDQ model.
        name: of the model.
        labels: what the file calls the model's outputs.

    Raises:
        DDQError: naming every layer, input or output that needs more than one step and the states.
    """
    marks = [node.layer.mark for node in graph.nodes if isinstance(node.layer, DDQState)]
    if not marks:
        raise DDQError(
            f"model {name!r} cannot stream: streaming=True needs a recurrent layer (LSTM, GRU, "
            "SimpleRNN, RNN), whose states `quantize_model` has marked. Received: a model without. "
            "Export without streaming"
        )
    walk = _Walk(graph, marks)
    for node in graph.nodes:
        walk.take(node)
    rows = zip(graph.outputs, labels, strict=True)
    outputs = [walk.output(tensor, label) for tensor, label in rows]
    raise_all(f"model {name!r} {_RULE}", dict.fromkeys(walk.problems))
    states = sorted(walk.states, key=_order_of(marks))
    names: tuple[str, ...] = ()
    for mark in states:
        names += (unused(mark.name, (*graph.input_names, *labels, *names)),)
    kept = (*outputs, *(walk.new[walk.states[mark]] for mark in states))
    inputs = [*walk.inputs, *(walk.entries[mark.owner, mark.label] for mark in states)]
    return OneStep(
        graph=FlatGraph(
            nodes=read_by(kept, walk.nodes),
            inputs=tuple(each.tensor for each in inputs),
            outputs=kept,
            input_names=(*graph.input_names, *names),
            input_shapes=tuple(each.shape for each in inputs),
        ),
        states=names,
    )


def _order_of(marks: Sequence[StateMark]) -> Any:
    """The key of states in the order of layers, and within them of Keras: h, c."""
    owners = list(dict.fromkeys(mark.owner for mark in marks))
    return lambda mark: (owners.index(mark.owner), mark.label[:-1], "hc".index(mark.label[-1]))


class _Place(NamedTuple):
    """Where in time a tensor stands.

    Attributes:
        axis: of a sequence, the axis of time; else None.
        step: of a single step its number; None for what is the same at all, and for sequences.
        is_known: whether that can be told; what cannot has been complained of.
    """

    axis: int | None = None
    step: int | None = None
    is_known: bool = True


_UNKNOWN = _Place(is_known=False)


class _Input(NamedTuple):
    """An input of the new graph."""

    tensor: int
    shape: Shape


class _Walk:
    """Takes the nodes of the unrolled graph one by one.

    Attributes:
        nodes: of the new graph, with some that nothing reads.
        inputs: of the new graph that the model has too.
        entries: the inputs that hold states, by layer and label.
        states: for each state the tensor behind the last step.
        new: from tensors that the last step knows to those of the new graph.
        problems: a line each.
    """

    def __init__(self, graph: FlatGraph, marks: Sequence[StateMark]) -> None:
        self.graph = graph
        self.steps = max(mark.of for mark in marks)
        self.nodes: list[FlatNode] = []
        self.entries: dict[tuple[str, str], _Input] = {}
        self.states: dict[StateMark, int] = {}
        self.new: dict[int, int] = {}
        troubles = {mark.owner: words for mark in marks if (words := _problem_of(mark))}
        self._troubled = tuple(f"{owner}_" for owner in troubles)
        self.problems = [f"layer {owner!r}: {words}" for owner, words in troubles.items()]
        self._shapes: dict[int, Shape] = {}
        self._places: dict[int, _Place] = {}
        self._names = {node.name for node in graph.nodes}
        tensors = [t for node in graph.nodes for t in (*node.inputs, *node.outputs)]
        self._count = max((*tensors, *graph.inputs), default=-1) + 1
        self.inputs = [
            self._enter(tensor, shape)
            for tensor, shape in zip(graph.inputs, graph.input_shapes, strict=True)
        ]
        if not any(place.axis for place in self._places.values()):
            rows = zip(graph.input_names, graph.input_shapes, strict=True)
            self.problems += [
                f"input {name!r}: needs sequences of shape (None, {self.steps}, ...), a row for "
                f"each step. Received: shape {shape}"
                for name, shape in rows
            ]
            self._places.update(dict.fromkeys(graph.inputs, _UNKNOWN))

    # Tensors

    def _tensor(self, shape: Shape) -> int:
        self._count += 1
        self._shapes[self._count - 1] = tuple(shape)
        return self._count - 1

    def _enter(self, tensor: int, shape: Shape) -> _Input:
        """An input of the model: of a sequence one row."""
        is_sequence = len(shape) > 2 and shape[1] == self.steps
        self._places[tensor] = _Place(axis=1 if is_sequence else None)
        shape = (shape[0], *shape[2:]) if is_sequence else tuple(shape)
        self.new[tensor] = self._tensor(shape)
        return _Input(self.new[tensor], shape)

    def _append(self, layer: Any, name: str, reads: Sequence[int], writes: Shape) -> int:
        """Calls a layer on tensors of the new graph; returns what it writes."""
        shapes = tuple(self._shapes[tensor] for tensor in reads)
        result = self._tensor(writes)
        self.nodes.append(
            FlatNode(layer=layer, name=name, inputs=tuple(reads), outputs=(result,), shapes=shapes)
        )
        return result

    def _reshaped(self, tensor: int, target: Shape, name: str) -> int:
        """A tensor of the new graph in another shape; of two changes of shape the last remains."""
        written = {node.outputs[0]: node for node in self.nodes[-1:]}
        before = written.get(tensor)
        if before is not None and isinstance(before.layer, L.Reshape):
            tensor = before.inputs[0]
        if self._shapes[tensor][1:] == tuple(target[1:]):
            return tensor
        unique = unused(name, self._names)
        self._names.add(unique)
        return self._append(L.Reshape(target[1:], name=unique), unique, [tensor], target)

    # Nodes

    def take(self, node: FlatNode) -> None:
        """Finds where what a node writes stands, and calls its layer if that is the last step."""
        places = [self._places[tensor] for tensor in node.inputs]
        if not all(place.is_known for place in places):
            self._places[node.outputs[0]] = _UNKNOWN
        elif isinstance(node.layer, DDQState):
            self._mark(node)
        elif isinstance(node.layer, DDQConstant):
            self._constant(node)
        elif self._joins_steps(node, places):
            self._alias(node, _Place(axis=node.layer.axis % len(node.shapes[0])), node.inputs[-1])
        elif any(place.axis is not None for place in places):
            self._on_sequence(node, places)
        else:
            self._on_step(node, places)

    def _refuse(self, node: FlatNode, words: str) -> None:
        """Complains, unless a recurrent layer around the node has been complained of."""
        if not node.name.startswith(self._troubled):
            self.problems.append(f"layer {node.name!r} ({type(node.layer).__name__}): {words}")
        self._places[node.outputs[0]] = _UNKNOWN

    def _alias(self, node: FlatNode, place: _Place, tensor: int) -> None:
        """What a node writes is in the new graph what another tensor is."""
        self._places[node.outputs[0]] = place
        if tensor in self.new:
            self.new[node.outputs[0]] = self.new[tensor]

    def _called(self, node: FlatNode, place: _Place, written: Shape, layer: Any = None) -> None:
        """Calls a node's layer, or another in its place, if the last step knows its inputs."""
        self._places[node.outputs[0]] = place
        reads = [self.new[tensor] for tensor in node.inputs]
        made = node.layer if layer is None else layer
        self.new[node.outputs[0]] = self._append(made, node.name, reads, written)

    def _mark(self, node: FlatNode) -> None:
        """A state: behind the last step an output, behind the one before it an input."""
        mark, tensor = node.layer.mark, node.outputs[0]
        if _problem_of(mark):
            self._places[tensor] = _UNKNOWN
            return
        self._places[tensor] = _Place(step=mark.step)
        if mark.step == mark.of - 1:
            self._alias(node, _Place(step=mark.step), node.inputs[0])
            self.states[mark] = tensor
        elif mark.step == mark.of - 2:
            key = mark.owner, mark.label
            if key in self.entries:
                self.problems.append(
                    f"layer {mark.owner!r}: needs a single call, whose states have its name. "
                    "Received: several calls. Give each call a layer of its own"
                )
            shape = node.shapes[0]
            entry = self._tensor(shape)
            self.entries[key] = _Input(entry, shape)
            self.new[tensor] = self._append(*self._grid(node.inputs[0]), [entry], shape)

    def _grid(self, tensor: int) -> tuple[Any, str]:
        """A layer that puts an input on a tensor's grid, and its name."""
        layer = source_of(self.graph, tensor)
        if rounds_activations(layer):
            name = next(node.name for node in self.graph.nodes if node.layer is layer)
            return layer, name
        name = unused("state_grid", self._names)
        self._names.add(name)
        return DDQFixedGrid(float(layer.step), layer.limits[0], name=name), name

    def _constant(self, node: FlatNode) -> None:
        """Numbers beside activations, for as many examples as there are."""
        self._places[node.outputs[0]] = _Place()
        on_grids = [each for each in self.nodes if output_of(each) is Output.GRID]
        if on_grids:
            written = tuple(node.layer.compute_output_shape((None,)))
            reads = [on_grids[0].outputs[0]]
            self.new[node.outputs[0]] = self._append(node.layer, node.name, reads, written)

    def _joins_steps(self, node: FlatNode, places: Sequence[_Place]) -> bool:
        """Whether a node makes a sequence of all steps."""
        if not isinstance(node.layer, L.Concatenate):
            return False
        axis = node.layer.axis % len(node.shapes[0])
        alone = all(shape[axis] == 1 for shape in node.shapes)
        return alone and [place.step for place in places] == list(range(self.steps))

    def _on_step(self, node: FlatNode, places: Sequence[_Place]) -> None:
        """What a node computes of single steps, or of what is the same at all."""
        last = max((place.step for place in places if place.step is not None), default=None)
        place = _Place(step=last)
        missing = [p for p, t in zip(places, node.inputs, strict=True) if t not in self.new]
        if not missing:
            self._called(node, place, output_shape(node))
        elif last == self.steps - 1:
            others = sorted({p.step + 1 for p in missing if p.step is not None})
            received = f"Received: step {', '.join(map(str, others))} of {self.steps} too"
            self._refuse(node, f"needs the last step alone. {received}")
        else:
            self._places[node.outputs[0]] = place

    def _on_sequence(self, node: FlatNode, places: Sequence[_Place]) -> None:
        """What a node computes of a sequence, at each step alone."""
        place = next(p for p in places if p.axis is not None)
        axis = place.axis or 0
        shape = node.shapes[places.index(place)]
        behind = len(shape) - axis
        if node.inputs[0] in self.graph.inputs:
            self._enter_grid(node, place)
        elif isinstance(node.layer, DDQSlice):
            self._cut(node, axis)
        elif isinstance(node.layer, L.Reshape | L.Flatten):
            self._reshape(node, axis)
        elif isinstance(node.layer, L.Permute):
            moved = (0, *node.layer.dims).index(axis)
            self._called(node, _Place(axis=moved), self._row(output_shape(node), moved))
        elif not self._is_alike(node, places, behind) or not rule_of(node.layer).each_alone(
            node, axis
        ):
            self._refuse(node, f"looks at several of the {self.steps} steps at once")
        else:
            written = output_shape(node)
            moved = len(written) - behind
            self._called(node, _Place(axis=moved), self._row(written, moved))

    def _is_alike(self, node: FlatNode, places: Sequence[_Place], behind: int) -> bool:
        """Whether all inputs are sequences, or the same at all steps."""
        rows = zip(node.inputs, places, node.shapes, strict=True)
        return all(
            tensor in self.new
            and place.step is None
            and (
                len(shape) - place.axis == behind
                if place.axis is not None
                else len(shape) < behind + 1 or shape[len(shape) - behind] == 1
            )
            for tensor, place, shape in rows
        )

    def _row(self, shape: Shape, axis: int) -> Shape:
        """The shape of one step of a sequence."""
        return (*shape[:axis], 1, *shape[axis + 1 :])

    def _enter_grid(self, node: FlatNode, place: _Place) -> None:
        """The quantizer of an input: on features, which become a sequence of one step."""
        tensor, shape = self.new[node.inputs[0]], node.shapes[0]
        rounded = self._append(node.layer, node.name, [tensor], self._shapes[tensor])
        self._places[node.outputs[0]] = place
        self.new[node.outputs[0]] = self._reshaped(
            rounded, self._row(shape, 1), f"{node.name}_step"
        )

    def _cut(self, node: FlatNode, axis: int) -> None:
        """Some of the steps, or of the values of all."""
        begin, size = list(node.layer.begin), list(node.layer.size)
        whole = [s == n for s, n in zip(size, node.shapes[0][1:], strict=True)]
        if size[axis - 1] == self.steps:
            size[axis - 1] = 1
            layer = DDQSlice(begin, size, name=node.name)
            self._called(node, _Place(axis=axis), (None, *size), layer)
        elif size[axis - 1] == 1 and all(whole[: axis - 1] + whole[axis:]):
            step = begin[axis - 1]
            self._places[node.outputs[0]] = _Place(step=step)
            if step == self.steps - 1:
                self._alias(node, _Place(step=step), node.inputs[0])
        else:
            received = f"Received: {size[axis - 1]} of the {self.steps} steps"
            self._refuse(node, f"needs one step, or all. {received}")

    def _reshape(self, node: FlatNode, axis: int) -> None:
        """Another shape, which keeps the axis of time."""
        shape, target = node.shapes[0], output_shape(node)
        before = math.prod(size or 1 for size in shape[1:axis])
        moved = next(
            (
                place
                for place, size in enumerate(target)
                if place
                and size == self.steps
                and math.prod(each or 1 for each in target[1:place]) == before
            ),
            None,
        )
        if moved is None:
            self._refuse(node, f"joins the {self.steps} steps")
            return
        self._places[node.outputs[0]] = _Place(axis=moved)
        tensor = self.new[node.inputs[0]]
        self.new[node.outputs[0]] = self._reshaped(tensor, self._row(target, moved), node.name)

    # Outputs

    def output(self, tensor: int, label: str) -> int:
        """The tensor of the new graph that stands for an output of the model."""
        place = self._places[tensor]
        if place.axis is not None:
            row = self._shapes[self.new[tensor]]
            flat = (*row[: place.axis], *row[place.axis + 1 :])
            return self._reshaped(self.new[tensor], flat, f"{label}_row")
        if place.is_known and tensor not in self.new:
            self.problems.append(
                f"output {label!r}: needs the last step, or all. Received: step "
                f"{(place.step or 0) + 1} of {self.steps}"
            )
        return self.new.get(tensor, -1)


def _problem_of(mark: StateMark) -> str:
    """What keeps a recurrent layer from going step by step; "" for nothing."""
    if mark.backwards:
        return (
            "needs to run forwards: the last step is not there when the first one comes. Received: "
            "Bidirectional or go_backwards=True. Train with the forward layer alone"
        )
    if mark.given:
        return (
            "needs to start from zeros: a streaming file takes its states as inputs in any case. "
            "Received: initial_state. Call the layer without"
        )
    if mark.of < 2:
        return "needs sequences of two steps at least. Received: 1 step"
    return ""
