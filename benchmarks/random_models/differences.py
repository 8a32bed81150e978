"""The first operator at which Keras, the integer simulator and LiteRT part, for any interface."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export import Runner, tflite
from ddq_tf.export.exporter import target_of
from ddq_tf.export.ir import DType, Graph, Op
from ddq_tf.export.lower import lower
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import simulate, sums_floats, with_all_outputs

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_BUILT_IN = ("SOFTMAX", "GELU")
_NARROW = ("INT4", "INT2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    """Where results part.

    Attributes:
        kind: the operator.
        layer: the class of the Keras layer that it comes from.
        weights: the type of its weights, "" without any.
        party: who differs from the simulator, or from LiteRT where that has no rule.
        largest: by how many codes.
        amount: how many codes.
    """

    kind: str
    layer: str
    weights: str
    party: str
    largest: int
    amount: str


def is_documented(first: First, target: str) -> bool:
    """Whether docs/supported.md says that an operator rounds differently from Keras."""
    if first.kind in _BUILT_IN:
        return first.largest <= 1
    narrow = first.weights in _NARROW
    return target == "litert-compact" and first.kind in _CONVOLUTIONS and narrow


def codes_of(values: np.ndarray, scale: Any, zero_point: int) -> np.ndarray:
    """Real numbers as codes, int64, not clipped."""
    return np.rint(np.asarray(values, np.float64) / np.float64(scale)).astype(np.int64) + zero_point


def first_difference(model: Any, data: list[np.ndarray]) -> First | None:
    """Returns the first operator in order of execution; None if there is none.

    Args:
        model: a DDQ model.
        data: of every input, float32.
    """
    lowered = lower(model)
    graph = with_all_outputs(run_passes(lowered, target_of(model)))
    runner = Runner(tflite.write(graph))
    names = [tensor._keras_history.operation.name for tensor in model.inputs]
    values = dict(zip(names, data, strict=True))
    codes = {name: info.quantize(values[name]) for name, info in runner.inputs.items()}
    ran = runner.run(codes)
    sums = [op.outputs[0] for op in graph.ops if sums_floats(op, graph)]
    try:
        computed = simulate(graph, codes, given={name: ran[name] for name in sums})
    except DDQError:
        computed = ran
    trained = _trained_codes(model, lowered, data)
    for op in graph.ops:
        name = op.outputs[0]
        if name not in ran or graph.tensors[name].dtype is DType.FLOAT32:
            continue
        for party, received in (("Keras", trained.get(name)), ("LiteRT", ran[name])):
            if received is not None and not np.array_equal(received, computed[name]):
                distance = np.abs(received.astype(np.int64) - computed[name].astype(np.int64))
                writer = _unclamped(graph, op) if party == "Keras" else op
                hidden = _hidden(graph, writer, trained) if party == "Keras" else None
                if hidden is not None:  # by how much it differs, Keras does not show
                    return _unshown(model, graph, hidden)
                return First(
                    kind=writer.kind,
                    layer=_class_of(model, writer),
                    weights=_weights(graph, writer),
                    party=party,
                    largest=int(distance.max()),
                    amount=f"{int(np.sum(distance > 0))} of {distance.size}, by {distance.max()}",
                )
    return _unseen(model, graph, trained)


def _unseen(model: Any, graph: Graph, trained: dict[str, np.ndarray]) -> First | None:
    """The first built-in kernel whose result Keras does not show."""
    for op in graph.ops:
        if op.outputs[0] not in trained and _is_built_in(graph, op):
            return _unshown(model, graph, op)
    return None


def _unshown(model: Any, graph: Graph, op: Op) -> First:
    return First(
        kind=op.kind,
        layer=_class_of(model, op),
        weights=_weights(graph, op),
        party="Keras",
        largest=0,
        amount="not shown by Keras",
    )


def _unclamped(graph: Graph, op: Op) -> Op:
    """The operator whose narrow result a QUANTIZE bounds; Keras has the two in one layer."""
    writers = [each for each in graph.ops if each.outputs[0] == op.inputs[0]]
    if op.kind == "QUANTIZE" and writers and writers[0].source == op.source:
        return _unclamped(graph, writers[0])
    return op


def _hidden(graph: Graph, op: Op, trained: dict[str, np.ndarray]) -> Op | None:
    """The built-in kernel that a difference comes from, if Keras hides what it writes.

    Several layers, or calls of one, may be one operator: then Keras shows no result between.
    """
    for name in op.inputs:
        if name in trained:
            continue
        for writer in graph.ops:
            if name in writer.outputs:
                found = writer if _is_built_in(graph, writer) else _hidden(graph, writer, trained)
                if found is not None:
                    return found
    return None


def _is_built_in(graph: Graph, op: Op) -> bool:
    """Whether LiteRT's own kernel runs an operator, which may round differently."""
    narrow = op.kind in _CONVOLUTIONS and _weights(graph, op) in _NARROW
    is_integer = graph.tensors[op.outputs[0]].dtype is DType.INT8
    return narrow or (op.kind in _BUILT_IN and is_integer)


def _class_of(model: Any, op: Op) -> str:
    """The class of the layer that an operator comes from."""
    found = [type(layer).__name__ for layer in model.layers if layer.name == op.source]
    return found[0] if found else "?"


def _weights(graph: Graph, op: Op) -> str:
    constants = [graph.tensors[name] for name in op.inputs[1:2] if name]
    return "".join(t.dtype.name for t in constants if t.data is not None)


def _trained_codes(model: Any, lowered: Graph, data: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The codes that Keras computes, by the names of the graph before any pass."""
    kept = [
        layer
        for layer in model.layers
        if layer.name in lowered.tensors and len(layer._inbound_nodes) == 1
    ]
    taps = keras.Model(model.inputs, [layer.output for layer in kept])
    outputs = keras.tree.flatten(taps(data, training=False))
    trained = {}
    for layer, values in zip(kept, outputs, strict=True):
        grid = lowered.tensors[layer.name].quantization
        if grid is not None:
            codes = codes_of(np.asarray(values), grid.scale[0], int(grid.zero_point))
            trained[layer.name] = np.clip(codes, -128, 127).astype(np.int8)
    return trained
