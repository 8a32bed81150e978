"""Recurrent layers of a fixed length, unrolled: each time step calls the same dense layers.

The kernel works on the whole sequence at once. What a step computes is known layers: slices, one
dense layer of the state, sums, products, sigmoid and tanh. The weights stand in the file once. Each
tensor of a step lies on one grid with its likes of all other steps, and the first step computes
what the others do, of zeros: so that one step, called again and again, gives the same codes
(`ddq_tf.export.one_step`). `DDQState` marks the states behind each step.

Dropout inside a layer, and its activity regularizer, act in training only and are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds.rule import Example, Family, LayerRule, Output
from ddq_tf.kinds.steps import Steps, Value, on_one_grid
from ddq_tf.kinds.training_only import lower_alias
from ddq_tf.layers import DDQConstant, DDQState, StateMark

if TYPE_CHECKING:
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers

MOST_STEPS = 32


@dataclasses.dataclass
class _Unrolled:
    """One cell over all time steps.

    Attributes:
        steps: writes down the calls.
        owner: the layer that the user wrote.
        cell: of Keras.
        prefix: before the roles of its layers.
        mark: what its states have in common.
        time: the number of the step, counted in the order of computation.
    """

    steps: Steps
    owner: Any
    cell: Any
    prefix: str
    mark: StateMark
    time: int = 0

    def call(self, role: str, make: Callable[[str], Any], *reads: Value) -> Value:
        """A layer of this step, which writes on one grid with those of all other steps."""
        return self.steps.call(
            f"{self.prefix}{self.time}_{role}",
            lambda name: self._alike(role, make(name)),
            *reads,
            owner=self.owner,
        )

    def _alike(self, role: str, layer: Any) -> Any:
        return on_one_grid(layer, (id(self.owner), f"{self.prefix}{role}"))

    def zero(self, role: str, like: Value) -> Value:
        """A zero, to be added in the place of what the other steps compute in a role."""
        return self.steps.call(
            f"{self.prefix}{role}_of_zeros",
            lambda name: self._alike(role, DDQConstant.holding([0.0], name, trainable=False)),
            like,
            owner=self.owner,
        )

    def state(self, label: str, value: Value) -> Value:
        """A state behind this step, marked."""
        mark = dataclasses.replace(self.mark, label=f"{self.prefix}{label}", step=self.time)
        return self.call(label, lambda name: DDQState(mark, name=name), value)

    def dense(self, role: str, value: Value, kernel: Any, bias: Any, of: str) -> Value:
        """A dense layer, the same in all steps.

        Args:
            role: its name.
            value: what it reads.
            kernel: its kernel.
            bias: its bias; None for none.
            of: what the cell calls the regularizer of this kernel.
        """

        def built(name: str) -> Any:
            layer: Any = L.Dense(
                kernel.shape[-1],
                use_bias=bias is not None,
                kernel_regularizer=getattr(self.cell, f"{of}_regularizer"),
                bias_regularizer=self.cell.bias_regularizer,
                name=name,
            )
            layer.build(value.shape)
            layer.kernel.assign(kernel)
            if bias is not None:
                layer.bias.assign(bias)
            return self._alike(role, layer)

        name = f"{self.prefix}{role}"
        return self.steps.call(name, built, value, owner=self.owner)

    def recurrent(self, state: Value, columns: Any, bias: Any = None, role: str = "") -> Value:
        """What the recurrent kernel, or some of its columns, makes of a state."""
        kernel = as_float64(self.cell.recurrent_kernel)[:, columns]
        return self.dense(f"{role}recurrent", state, kernel, bias, "recurrent")

    def fed_back(self, states: Sequence[Value], columns: Any, like: Value) -> Value:
        """What the recurrent kernel, without a bias, makes of the first state."""
        return self.recurrent(states[0], columns) if states else self.zero("recurrent", like)

    def part(self, role: str, value: Value, start: int, count: int = 1) -> Value:
        """Some of the gates in a vector of them, each of `units` values."""
        units = self.cell.units
        name = f"{self.prefix}{self.time}_{role}"
        return self.steps.cut(value, 1, start * units, count * units, name)

    def active(self, role: str, function: Any, value: Value) -> Value:
        """An activation of the cell."""
        if function in (None, keras.activations.linear):
            return value
        if isinstance(function, L.Layer):
            return self.call(role, lambda _: function, value)
        return self.call(role, lambda name: L.Activation(function, name=name), value)

    def add(self, role: str, one: Value, other: Value) -> Value:
        """Their sum."""
        return self.call(role, lambda name: L.Add(name=name), one, other)

    def minus(self, role: str, one: Value, other: Value) -> Value:
        """Their difference."""
        return self.call(role, lambda name: L.Subtract(name=name), one, other)

    def times(self, role: str, one: Value, other: Value) -> Value:
        """Their product."""
        return self.call(role, lambda name: L.Multiply(name=name), one, other)


State = list[Value]  # empty for zeros
Step = Callable[[_Unrolled, Sequence[Value], State], list[Value]]
_ALL = slice(None)


def _simple_step(by: _Unrolled, x: Sequence[Value], states: State) -> list[Value]:
    """H = activation(x + R h)."""
    z = by.add("sum", x[0], by.fed_back(states, _ALL, x[0]))
    return [by.state("h", by.active("state", by.cell.activation, z))]


def _lstm_step(by: _Unrolled, x: Sequence[Value], states: State) -> list[Value]:
    """C = f c + i g; h = o activation(c). The gates stand in the order i, f, o, g."""
    cell = by.cell
    z = by.add("sum", x[0], by.fed_back(states, _gates_first(cell.units), x[0]))
    gates = by.active("gates", cell.recurrent_activation, by.part("three", z, 0, 3))
    new = by.active("new", cell.activation, by.part("fourth", z, 3))
    inlet, keep, outlet = (
        by.part(role, gates, place) for place, role in enumerate(("inlet", "keep", "outlet"))
    )
    added = by.times("added", inlet, new)
    kept = by.times("kept", keep, states[1]) if states else by.zero("kept", added)
    c = by.state("c", by.add("cell", kept, added))
    return [by.state("h", by.times("state", outlet, by.active("squashed", cell.activation, c))), c]


def _gates_first(units: int) -> Any:
    """Columns in the order input, forget, output, new; Keras's has the last two the other way."""
    i, f, g, o = np.arange(4 * units).reshape(4, units)
    return np.concatenate([i, f, o, g])


def _gru_step(by: _Unrolled, x: Sequence[Value], states: State) -> list[Value]:
    """H = n + z (h - n), with n = activation(x_n + r (R h + b)), or R (r h) without reset_after."""
    cell = by.cell
    (gates, new), two = x, slice(2 * cell.units)
    third = slice(2 * cell.units, None)
    bias = as_float64(cell.bias)[1] if cell.reset_after and cell.use_bias else None
    if states:
        (h,) = states
    else:
        # Not a constant: of zeros, the dense layers are their biases, which learn.
        some = by.active("some", "sigmoid", new)
        h = by.minus("zeros", some, some)
    own = None if bias is None else bias[two]
    gates = by.add("sum", gates, by.recurrent(h, two, own, "gates_"))
    gates = by.active("gates", cell.recurrent_activation, gates)
    z, r = by.part("update", gates, 0), by.part("reset", gates, 1)
    if cell.reset_after:
        own = None if bias is None else bias[third]
        reset = by.times("reset_state", r, by.recurrent(h, third, own, "new_"))
    else:
        reset = by.recurrent(by.times("reset_state", r, h), third, role="new_")
    n = by.active("new", cell.activation, by.add("new_sum", new, reset))
    change = by.times("kept", z, by.minus("change", h, n))
    return [by.state("h", by.add("state", n, change))]


_STEPS: dict[type, Step] = {
    L.SimpleRNNCell: _simple_step,
    L.LSTMCell: _lstm_step,
    L.GRUCell: _gru_step,
}


def _cells(layer: Any) -> list[Any]:
    """The cells of a recurrent layer, the first first."""
    stacked = type(layer.cell) is L.StackedRNNCells
    return list(layer.cell.cells) if stacked else [layer.cell]


Weights = tuple[np.ndarray, np.ndarray | None]


def _kernels(cell: Any) -> dict[str, Weights]:
    """Kernels and biases of what a cell adds of its input, as its step wants them."""
    kernel = as_float64(cell.kernel)
    bias = as_float64(cell.bias) if cell.use_bias else None
    if isinstance(cell, L.LSTMCell):
        parts = {"kernel": _gates_first(cell.units)}
    elif isinstance(cell, L.GRUCell):
        two = 2 * cell.units
        parts = {"gates_kernel": slice(two), "new_kernel": slice(two, None)}
        bias = bias[0] if bias is not None and cell.reset_after else bias
    else:
        parts = {"kernel": _ALL}
    return {
        role: (kernel[:, columns], None if bias is None else bias[columns])
        for role, columns in parts.items()
    }


class _Run:
    """What a recurrent layer writes.

    Attributes:
        outputs: of the last cell, in the order of computation.
        states: behind the last step, of all cells.
    """

    def __init__(
        self, steps: Steps, owner: Any, layer: Any, states: Sequence[Value], prefix: str = ""
    ) -> None:
        self._steps, self._owner, self._prefix = steps, owner, prefix
        self.states: list[Value] = []
        given = list(states)
        values: list[Value] = []
        for number, cell in enumerate(_cells(layer)):
            name = f"{prefix}{number}_" if number else prefix
            mark = StateMark(
                owner=steps.name,
                of=steps.inputs[0].shape[1] or 0,
                backwards=layer.go_backwards,
                given=bool(states),
            )
            by = _Unrolled(steps, owner, cell, name, mark)
            parts = []
            for role, (kernel, bias) in _kernels(cell).items():
                if number:
                    part = [by.dense(role, value, kernel, bias, "kernel") for value in values]
                else:
                    sequence = by.dense(role, steps.inputs[0], kernel, bias, "kernel")
                    part = self._at_each(sequence, role)
                    part = part[::-1] if layer.go_backwards else part
                parts.append(part)
            count = _count_states(cell)
            values = self._through(by, list(zip(*parts, strict=True)), given[:count])
            given = given[count:]
        self.outputs = values

    def _through(self, by: _Unrolled, values: list[Any], states: State) -> list[Value]:
        found: list[Value] = []
        for by.time, value in enumerate(values):
            states = _STEPS[type(by.cell)](by, value, states)
            found.append(states[0])
        self.states += states
        return found

    def _at_each(self, sequence: Value, role: str) -> list[Value]:
        """The vectors of a sequence."""
        size = sequence.shape[-1]
        return [
            self._steps.reshaped(
                f"{self._prefix}{role}_vector_{place}",
                self._steps.cut(sequence, 1, place, 1, f"{self._prefix}{role}_at_{place}"),
                (size,),
            )
            for place in range(sequence.shape[1] or 0)
        ]

    def result(self, whole: bool, backwards: bool = False) -> Value:
        """The last output, or all of them as a sequence."""
        if not whole:
            return self.outputs[-1]
        order = self.outputs[::-1] if backwards else self.outputs
        rows = [
            self._steps.reshaped(f"{self._prefix}row_{place}", value, (1, value.shape[-1]))
            for place, value in enumerate(order)
        ]
        if len(rows) == 1:
            return rows[0]
        role = f"{self._prefix}sequence"
        return self._steps.call(role, lambda name: L.Concatenate(1, name=name), *rows)


def _count_states(cell: Any) -> int:
    return len(cell.state_size) if isinstance(cell.state_size, list | tuple) else 1


# Rewriting


def _unroll(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A recurrent layer."""
    if _trouble(node) is not None:
        return [node]
    steps, layer = Steps(to, node), node.layer
    run = _Run(steps, layer, layer, steps.inputs[1:])
    states = run.states if layer.return_state else []
    return steps.writing(run.result(layer.return_sequences), *states)


def _unroll_both(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """One layer from the first step on, another from the last."""
    if _trouble(node) is not None:
        return [node]
    steps, layer = Steps(to, node), node.layer
    states = steps.inputs[1:]
    half = len(states) // 2
    rows = (
        ("forward_", layer.forward_layer, states[:half]),
        ("backward_", layer.backward_layer, states[half:]),
    )
    runs = [_Run(steps, layer, each, given, prefix) for prefix, each, given in rows]
    whole = layer.return_sequences
    pair = [
        run.result(whole, backwards) for run, backwards in zip(runs, (False, True), strict=True)
    ]
    merged = pair
    if layer.merge_mode is not None:
        merged = [steps.call("", _MERGED[layer.merge_mode], *pair)]
    ends = [state for run in runs for state in run.states] if layer.return_state else []
    return steps.writing(*merged, *ends)


_MERGED: dict[str, Callable[[str], Any]] = {
    "concat": lambda name: L.Concatenate(-1, name=name),
    "sum": lambda name: L.Add(name=name),
    "ave": lambda name: L.Average(name=name),
    "mul": lambda name: L.Multiply(name=name),
}


# Checks


def _check(graph: FlatGraph, node: FlatNode) -> str | None:
    return _trouble(node)


def _trouble(node: FlatNode) -> str | None:
    """What keeps a layer from being unrolled."""
    both = isinstance(node.layer, L.Bidirectional)
    layers = [node.layer.forward_layer, node.layer.backward_layer] if both else [node.layer]
    for layer in layers:
        found = _trouble_of(layer, node.shapes[0])
        if found is not None:
            return found
    wanted = [
        (None, int(size))
        for layer in layers
        for cell in _cells(layer)
        for size in keras.tree.flatten(cell.state_size)
    ]
    given = [tuple(shape) for shape in node.shapes[1:]]
    if given and [shape[1:] for shape in given] != [shape[1:] for shape in wanted]:
        return (
            "takes a sequence and, if any, initial states; a mask that varies has no integer form: "
            f"give all sequences one length. Received: inputs of shapes {node.shapes}"
        )
    return None


def _trouble_of(layer: Any, shape: tuple[int | None, ...]) -> str | None:
    if type(layer) not in _LAYERS:
        known = ", ".join(kind.__name__ for kind in _LAYERS)
        return f"needs layers among {known}. Received: {type(layer).__name__}"
    other = [cell for cell in _cells(layer) if type(cell) not in _STEPS]
    if other:
        known = ", ".join(kind.__name__ for kind in _STEPS)
        return f"needs cells among {known}. Received: {type(other[0]).__name__}"
    if layer.stateful:
        return (
            "needs stateful=False: a file keeps nothing between calls. Pass the state as a second "
            "input (initial_state) and return it (return_state=True). Received: stateful=True"
        )
    if len(shape) != 3 or None in shape[1:]:
        return (
            "is unrolled step by step and needs sequences of a fixed length. Build the model with "
            f"keras.Input((steps, features)); its weights fit any. Received: shape {shape}"
        )
    if (shape[1] or 0) > MOST_STEPS:
        return (
            f"is unrolled step by step, and {MOST_STEPS} steps are the most. Shorten the sequence "
            f"before it, as by Conv1D with strides or pooling. Received: {shape[1]} steps"
        )
    return None


_LAYERS = (L.SimpleRNN, L.LSTM, L.GRU, L.RNN)
_SEQUENCE = (2, 3)


def _rule(layer: type, *uses: Callable[[Any], Any], both: bool = False) -> LayerRule:
    return LayerRule(
        layers=(layer,),
        words=layer.__name__,
        expand=_unroll_both if both else _unroll,
        problem=_check,
        examples=tuple(Example(build=use, shape=_SEQUENCE) for use in uses),
    )


FAMILY = Family(
    title="recurrent",
    rules=(
        _rule(
            L.LSTM,
            lambda x: L.LSTM(3, return_sequences=True)(x),
            lambda x: L.Reshape((2, 2))(L.LSTM(4, go_backwards=True, use_bias=False)(x)),
        ),
        _rule(
            L.GRU,
            lambda x: L.GRU(3, return_sequences=True)(x),
            lambda x: L.Reshape((2, 2))(L.GRU(4, reset_after=False)(x)),
        ),
        _rule(
            L.SimpleRNN,
            lambda x: L.SimpleRNN(3, return_sequences=True)(x),
            lambda x: L.Reshape((2, 2))(L.SimpleRNN(4, activation="relu")(x)),
        ),
        _rule(
            L.RNN,
            lambda x: L.RNN([L.LSTMCell(3), L.SimpleRNNCell(2)], return_sequences=True)(x),
        ),
        _rule(
            L.Bidirectional,
            lambda x: L.Bidirectional(L.SimpleRNN(3, return_sequences=True))(x),
            lambda x: L.Reshape((2, 2))(L.Bidirectional(L.SimpleRNN(4), merge_mode="ave")(x)),
            both=True,
        ),
        LayerRule(layers=(DDQState,), output=Output.KEEPS, lower=lower_alias),
    ),
)
