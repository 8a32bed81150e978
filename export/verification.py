"""The proof that a file computes what was trained: Keras against stock LiteRT on real data."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from ddq_tf.answers import answers
from ddq_tf.errors import DDQError
from ddq_tf.export import runtime_check, tflite
from ddq_tf.export.exporter import ExportResult, target_of
from ddq_tf.export.interpreter import (
    Delegation,
    Runner,
    TensorInfo,
    content_of,
    delegation,
    quantized_inputs,
)
from ddq_tf.export.ir import DType, Graph, Tensor
from ddq_tf.export.lower import lower
from ddq_tf.export.operators import weight_kind
from ddq_tf.export.passes import run_passes
from ddq_tf.export.simulation import simulate, sums_floats, with_all_outputs
from ddq_tf.export.stream import Stream, rows_of, states_of, told_states, zero_states
from ddq_tf.graph import flatten
from ddq_tf.graph.inputs import Interface, batches_of, checked, in_parts
from ddq_tf.grids import Grid, grid_of
from ddq_tf.layers import examples_at_once, rounds_activations
from ddq_tf.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """How well a file and its model agree.

    Attributes:
        num_samples: inputs compared.
        top1_agreement: share of answers that are the same: where the greatest value along the last
            axis stands, also at each pixel; of a single value there, its code. The mean over
            examples; of several outputs the least of each example.
        equal_codes_share: share of output codes that are equal.
        max_lsb: the largest difference of an output code.
        weight_codes_identical: whether every weight code in the file is the trained one.
        delegation: what one XNNPACK partition holds.
    """

    num_samples: int
    top1_agreement: float
    equal_codes_share: float
    max_lsb: int
    weight_codes_identical: bool
    delegation: Delegation


def verify(
    model: keras.Model,
    file: ExportResult | bytes | str | os.PathLike[str],
    batches: Any,
    *,
    target: str | None = None,
    num_threads: int = 2,
) -> Verification:
    """Compares a DDQ model in Keras with its exported file in stock LiteRT.

    A streaming file runs step by step: what it gives behind the last step is compared, or behind
    each where the model gives that.

    Args:
        model: the DDQ model that was exported.
        file: what `export_tflite` returned, or the file's path or content.
        batches: float32 inputs, with or without labels: whole arrays as `fit` takes them, or
            batches as pipelines give them; for several inputs a list or a dictionary of arrays.
        target: what the file was written for; None for the model's own or the result's.
        num_threads: used by each op.

    Raises:
        DDQError: if the file is none, is of another model, or there are no inputs.
    """
    interface = _interface_of_ddq(model)
    content = content_of(file)
    streams = bool(states_of(content))
    runner = (Stream if streams else Runner)(content, num_threads=num_threads)
    agreement = _Agreement(model, interface, runner)
    for batch in batches_of(batches, interface):
        agreement.add(batch)
    if not agreement.samples:
        raise DDQError("verification needs at least one input. Received: none")
    return Verification(
        num_samples=agreement.samples,
        top1_agreement=agreement.same_answers / agreement.samples,
        equal_codes_share=agreement.equal / agreement.total,
        max_lsb=agreement.max_lsb,
        weight_codes_identical=_same_weights(
            model, tflite.read(content), _target(model, file, target), streams
        ),
        delegation=delegation(content),
    )


def _interface_of_ddq(model: keras.Model) -> Interface:
    interface = Interface(model)
    if not any(rounds_activations(node.layer) for node in flatten(model).nodes):
        raise DDQError(
            "a comparison with a file needs a DDQ model, as quantize_model returns it. "
            f"Received: {model.name!r}, a model without quantizers"
        )
    return interface


class _Agreement:
    """Counts how far a model and its file agree, batch by batch, over all outputs."""

    def __init__(self, model: keras.Model, interface: Interface, runner: Runner | Stream) -> None:
        self.model = model
        self.runner = runner
        self.interface = interface
        self.at_once = examples_at_once(model)
        graph = flatten(model)
        self.grids = [grid_of(graph, tensor) for tensor in graph.outputs]
        self.samples = self.equal = self.total = self.max_lsb = 0
        self.same_answers = 0.0

    def add(self, batch: Any) -> None:
        """Compares the outputs for a batch of inputs."""
        label = f"the batch behind {self.samples} examples"
        for part in in_parts(
            checked(self.interface.arrays(batch), self.interface, label), self.at_once
        ):
            self._add(part)

    def _add(self, arrays: list[np.ndarray]) -> None:
        expected = keras.tree.flatten(self.model(self.interface.packed(arrays), training=False))
        inputs = dict(zip(self.interface.names, arrays, strict=True))
        received = self._from_file(inputs, [np.ndim(wanted) for wanted in expected])
        same = np.ones(len(arrays[0]))
        for wanted, (codes, info), grid in zip(expected, received, self.grids, strict=True):
            same = np.minimum(same, self._compare(np.asarray(wanted), codes, info, grid))
        self.samples += len(same)
        self.same_answers += float(np.sum(same))

    def _from_file(
        self, inputs: dict[str, np.ndarray], ranks: Sequence[int]
    ) -> list[tuple[np.ndarray, TensorInfo]]:
        """The file's outputs, of the model's ranks and in its order."""
        codes = self.runner.run(quantized_inputs(self.runner, inputs))
        labels = getattr(self.model, "float_outputs", ()) or tuple(codes)
        if set(labels) != set(codes) or len(labels) != len(ranks):
            raise DDQError(
                f"the file needs the model's outputs {list(labels)}. Received: {list(codes)}. "
                "It was exported from another model"
            )
        if isinstance(self.runner, Stream):
            rows = zip(labels, ranks, strict=True)
            codes |= {name: codes[name][:, -1] for name, rank in rows if codes[name].ndim > rank}
        return [(codes[label], self.runner.outputs[label]) for label in labels]

    def _compare(
        self, wanted: np.ndarray, codes: np.ndarray, info: TensorInfo, grid: Grid
    ) -> np.ndarray:
        """Counts equal codes; returns the share of each example's answers that are the same."""
        if wanted.shape != codes.shape:
            raise DDQError(
                f"the file needs outputs of the model's shape {wanted.shape[1:]}. "
                f"Received: {codes.shape[1:]}. It was exported from another model"
            )
        ours, theirs = _codes(wanted, grid), _codes(info.dequantize(codes), grid)
        difference = np.abs(ours - theirs)
        self.equal += int(np.sum(difference == 0))
        self.total += difference.size
        self.max_lsb = max(self.max_lsb, int(difference.max(initial=0)))
        return np.equal(answers(ours), answers(theirs)).mean(axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first operator, in order of execution, whose codes differ from the simulator's.

    Attributes:
        kind: the operator.
        source: the Keras layer that it comes from.
        party: who differs: "Keras" or "LiteRT".
        num_different: how many codes.
        num_codes: of how many.
        max_lsb: by how much at most.
    """

    kind: str
    source: str
    party: str
    num_different: int
    num_codes: int
    max_lsb: int


def first_difference(
    model: keras.Model, images: Any, *, target: str | None = None, streaming: bool = False
) -> Difference | None:
    """Compares Keras, the integer simulator and LiteRT operator by operator.

    Floats may differ in their last bits; the codes that follow from them are compared. What layers
    in float add up, each machine in its own order, is taken as LiteRT has it.

    Args:
        model: a DDQ model.
        images: float32 inputs, as `verify` takes a batch; a few are enough.
        target: what to export for; None for the model's own.
        streaming: whether to compare the streaming file, at each step; Keras tells the outputs.

    Returns:
        The first difference, or None where all codes of all operators are equal.

    Raises:
        DDQError: if the simulator has no rule for an operator (INT4 convolutions), or LiteRT could
            not run the graph.
    """
    interface = _interface_of_ddq(model)
    chosen = _target(model, None, target)
    lowered = lower(model, chosen, streaming=streaming)
    graph = run_passes(lowered, chosen)
    shown = with_all_outputs(graph)
    runtime_check.check(shown)
    runner = Runner(tflite.write(shown))
    arrays = checked(interface.arrays(images), interface, "the batch")
    named = dict(zip(interface.names, arrays, strict=True))
    if not streaming:
        codes = quantized_inputs(runner, named)
        trained = _trained_codes(model, lowered, arrays)
        return _difference(shown, codes, runner.run(codes), trained)
    names = told_states(graph)
    infos = {name: info for name, info in runner.inputs.items() if name not in names}
    states = zero_states({name: runner.inputs[name] for name in names}, len(arrays[0]))
    rows = rows_of(infos, {name: infos[name].quantize(values) for name, values in named.items()})
    outputs = keras.tree.flatten(model(interface.packed(arrays), training=False))
    expected = _outputs_by_step(outputs, graph, len(rows))
    for row, trained in zip(rows, expected, strict=True):
        codes = {**row, **states}
        ran = runner.run(codes)
        found = _difference(shown, codes, ran, trained)
        if found is not None:
            return found
        states = {name: ran[graph.outputs[name]] for name in names}
    return None


def _outputs_by_step(outputs: list[Any], graph: Graph, steps: int) -> list[dict[str, np.ndarray]]:
    """The codes of a model's outputs, as far as it tells them, behind each step.

    Args:
        outputs: of the model.
        graph: of one step.
        steps: how many.
    """
    tensors = [graph.tensors[name] for name in graph.outputs.values()]
    trained: list[dict[str, np.ndarray]] = [{} for _ in range(steps)]
    for tensor, values in zip(tensors[: len(outputs)], outputs, strict=True):
        codes = _codes_of(tensor, values)
        if codes.ndim > len(tensor.shape):
            for step, of_step in enumerate(trained):
                of_step[tensor.name] = codes[:, step]
        else:
            trained[-1][tensor.name] = codes
    return trained


def _difference(
    shown: Graph,
    codes: dict[str, np.ndarray],
    ran: dict[str, np.ndarray],
    trained: dict[str, np.ndarray],
) -> Difference | None:
    """Compares what LiteRT ran and what was trained with the simulator.

    Args:
        shown: with all codes as outputs.
        codes: of its inputs.
        ran: of its outputs, in LiteRT.
        trained: likewise, in Keras; of some.
    """
    sums = [op.outputs[0] for op in shown.ops if sums_floats(op, shown)]
    computed = simulate(shown, codes, given={name: ran[name] for name in sums})
    for op in shown.ops:
        name = op.outputs[0]
        if name not in ran or shown.tensors[name].dtype is DType.FLOAT32:
            continue
        for party, values in (("Keras", trained.get(name)), ("LiteRT", ran[name])):
            if values is not None and not np.array_equal(values, computed[name]):
                distance = np.abs(values.astype(np.int64) - computed[name].astype(np.int64))
                return Difference(
                    kind=op.kind,
                    source=op.source,
                    party=party,
                    num_different=int(np.sum(distance > 0)),
                    num_codes=distance.size,
                    max_lsb=int(distance.max()),
                )
    return None


def _trained_codes(
    model: keras.Model, lowered: Graph, inputs: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """The codes that Keras computes, by the names of the graph before any pass."""
    calls = collections.Counter(id(node.layer) for node in flatten(model).nodes)
    kept = [
        layer
        for layer in model.layers
        if layer.name in lowered.tensors and calls[id(layer)] == 1  # of several, which is it?
    ]
    names = [*(layer.name for layer in kept), *lowered.outputs.values()]
    taps = keras.Model(model.inputs, [*(layer.output for layer in kept), *model.outputs])
    outputs = keras.tree.flatten(taps(inputs, training=False))
    trained = {}
    for name, values in zip(names, outputs, strict=True):
        tensor = lowered.tensors[name]
        if tensor.quantization is not None:
            trained[name] = _codes_of(tensor, values)
    return trained


def _codes_of(tensor: Tensor, values: Any) -> np.ndarray:
    """Real numbers as codes of an INT8 tensor."""
    grid: Any = tensor.quantization
    codes = np.rint(np.asarray(values, np.float64) / np.float64(grid.scale[0]))
    return np.clip(codes + grid.zero_point, -128, 127).astype(np.int8)


def _target(model: Any, file: Any, target: str | None) -> Target:
    if target is None and isinstance(file, ExportResult):
        return file.target
    return target_of(model, target)


def _codes(values: np.ndarray, grid: Grid) -> np.ndarray:
    """Real numbers as codes of a grid, int64."""
    codes = np.rint(np.asarray(values, np.float64) / np.float64(grid.scale))
    return np.clip(codes, grid.qmin, grid.qmax).astype(np.int64)


def _same_weights(model: keras.Model, written: Graph, target: Target, streams: bool) -> bool:
    """Whether the file's weights, unpacked, are the codes that the layers train with."""
    expected = run_passes(lower(model, target, streaming=streams), target)
    trained = [t.data for t in _weights(expected)]
    stored = [t.data for t in _weights(written)]
    return len(trained) == len(stored) and all(
        a is not None and b is not None and np.array_equal(a, b)
        for a, b in zip(trained, stored, strict=True)
    )


def _weights(graph: Graph) -> list[Any]:
    """The weight tensors in the order of the ops that read them."""
    return [graph.tensors[op.inputs[1]] for op in graph.ops if weight_kind(op) is not None]
