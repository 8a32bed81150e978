"""The time of each operator of a .tflite file in this computer's LiteRT interpreter.

The Python interpreter tells the time of a whole inference only. So every operator becomes a file of
its own, and these run in turns, in the order of the network. Each has to enter and leave the
runtime, which takes a few microseconds: the times add up to more than an inference.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.host_benchmark import WARMUP_RUNS, interleaved_ms, prepared
from ddq_tf.export.interpreter import Model, content_of
from ddq_tf.export.ir import Graph, Op
from ddq_tf.export.operators import weight_kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """What one operator took.

    Attributes:
        index: its number in the file.
        kind: for example "FULLY_CONNECTED".
        weights: their type, for example "INT4"; "" for operators without weights.
        output_shape: of its first output; -1 where the batch is dynamic.
        median_ms: time of one run.
        share: of the sum over all operators.
    """

    index: int
    kind: str
    weights: str
    output_shape: tuple[int, ...]
    median_ms: float
    share: float


def profile(
    model: Model, *, runs: int = 50, num_threads: int = 1, delegate: bool = True, seed: int = 0
) -> list[OperatorTime]:
    """Times every operator of a file by itself, in turns, on random inputs.

    Args:
        model: the content of a .tflite file that `ddq_tf.export.tflite.read` reads, or its path.
        runs: timed runs of each operator.
        num_threads: used by each operator.
        delegate: whether XNNPACK may take operators over.
        seed: of the random inputs.

    Returns:
        The operators in the order of the file.

    Raises:
        DDQError: if the file cannot be read or run, or a number is below 1.
    """
    if min(runs, num_threads) < 1:
        raise DDQError(
            "runs and num_threads must be at least 1. "
            f"Received: runs={runs}, num_threads={num_threads}"
        )
    graph = tflite.read(content_of(model))
    interpreters = [
        prepared(
            tflite.write(_alone(op, graph)), num_threads=num_threads, delegate=delegate, seed=seed
        )
        for op in graph.ops
    ]
    interleaved_ms(interpreters, WARMUP_RUNS)
    medians = np.median(interleaved_ms(interpreters, runs), axis=1)
    return [
        OperatorTime(
            index=index,
            kind=op.kind,
            weights=_weights(op, graph),
            output_shape=graph.tensors[op.outputs[0]].shape,
            median_ms=float(median),
            share=float(median / medians.sum()),
        )
        for index, (op, median) in enumerate(zip(graph.ops, medians, strict=True))
    ]


def by_kind(times: list[OperatorTime]) -> dict[str, float]:
    """Returns the summed median times in ms by kind and type of weights, largest first."""
    sums: dict[str, float] = {}
    for time in times:
        name = f"{time.kind} {time.weights}".strip()
        sums[name] = sums.get(name, 0.0) + time.median_ms
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _alone(op: Op, graph: Graph) -> Graph:
    """Returns the graph of one operator."""
    names = [name for name in dict.fromkeys((*op.inputs, *op.outputs)) if name]
    reads = [name for name in names if name in op.inputs and not graph.tensors[name].is_constant]
    return Graph(
        tensors={name: graph.tensors[name] for name in names},
        ops=(op,),
        inputs={name: name for name in reads},
        outputs={name: name for name in op.outputs},
    )


def _weights(op: Op, graph: Graph) -> str:
    """Returns the type of an operator's weights, "" if it has none."""
    return "" if weight_kind(op) is None else graph.tensors[op.inputs[1]].dtype.value
