"""The times of operators with weights, one by one, at every width that a file may store.

Each operator becomes a file of its own, of random codes. In this computer's interpreter all files
run in turns, so that what slows the computer for a while slows all, and weights come from where
they come from in a network: not from the cache that the last run left. What entering and leaving
the runtime takes, measured with the smallest operator there is, is taken off.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from ddq_tf.errors import DDQError
from ddq_tf.export import tflite
from ddq_tf.export.device import deploy_several
from ddq_tf.export.host_benchmark import WARMUP_RUNS, interleaved_ms, prepared
from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor
from ddq_tf.export.operators import attributes, weight_kind
from ddq_tf.export.passes import pointwise_to_fully_connected
from ddq_tf.latency import LatencyPrediction, LatencyRow, LatencyTable, OperatorShape
from ddq_tf.scheme import MAX_BITS
from ddq_tf.targets import OpKind, Target

_SMALLEST = OperatorShape(operator="FULLY_CONNECTED", positions=(1,), weights=(8, 8))
_TYPES = {2: DType.INT2, 4: DType.INT4, 8: DType.INT8}
_KINDS = {
    "FULLY_CONNECTED": OpKind.DENSE,
    "CONV_2D": OpKind.CONV,
    "DEPTHWISE_CONV_2D": OpKind.DEPTHWISE,
    "TRANSPOSE_CONV": OpKind.TRANSPOSED,
}
_US = 1e3  # in a millisecond
_DIGITS = 3  # of microseconds
_MOST_MS = 3000.0  # of timing a file

Key = tuple[OperatorShape, int]


def shapes_in(graph: Graph, target: Target) -> list[OperatorShape]:
    """Returns the operators with quantized weights in a file, in order, for one example.

    Args:
        graph: as `tflite.read` returns it.
        target: whether pointwise convolutions count as FULLY_CONNECTED.
    """
    graph = pointwise_to_fully_connected.run(graph, target)
    return [shape_of(op, graph) for op in graph.ops if _has_codes(op, graph)]


def prediction_of(
    graph: Graph, table: LatencyTable, layers: Collection[str]
) -> LatencyPrediction | None:
    """Returns what the operators of layers take in a file by a table; None where it lacks one.

    Args:
        graph: of the file, with all sizes but the batch fixed.
        table: of times.
        layers: that count, by name: those with weights. Other layers may become operators with
            weights too, as means of windows do.
    """
    us = int8_us = 0.0
    for op in graph.ops:
        if op.source in layers and _has_codes(op, graph):
            shape = shape_of(op, graph)
            stored = table.us(shape, graph.tensors[op.inputs[1]].dtype.bits)
            int8 = table.us(shape, MAX_BITS)
            if stored is None or int8 is None:
                return None
            us, int8_us = us + stored, int8_us + int8
    return LatencyPrediction(us=us, int8_us=int8_us, table=table)


def side_by_side(graph: Graph, other: Graph, *, num_threads: int = 1) -> tuple[float, float, float]:
    """Times two files in turns, on this computer.

    Each runs 10 to 200 times, as fit into about three seconds, after a tenth as often untimed.

    Args:
        graph: of a file.
        other: of another.
        num_threads: of each operator.

    Returns:
        The median times of the two in microseconds, and the median ratio of two times in one
        round.

    Raises:
        DDQError: if one cannot be run.
    """
    interpreters = [
        prepared(tflite.write(each), num_threads=num_threads, delegate=True, seed=0)
        for each in (graph, other)
    ]
    round_ms = float(interleaved_ms(interpreters, 1).sum())
    runs = int(np.clip(_MOST_MS / max(round_ms, 1e-3), 10, 200))
    interleaved_ms(interpreters, runs // 10)
    first, second = interleaved_ms(interpreters, runs) * _US
    return float(np.median(first)), float(np.median(second)), float(np.median(first / second))


def shape_of(op: Op, graph: Graph) -> OperatorShape:
    """Returns what of an operator with weights its time depends on, for one example.

    Args:
        op: of the graph, with weights.
        graph: with all sizes but the batch fixed.
    """
    weights, output = graph.tensors[op.inputs[1]].shape, graph.tensors[op.outputs[0]].shape
    if op.kind == "FULLY_CONNECTED":
        rows = int(np.prod(output[:-1], dtype=int))
        return OperatorShape(operator=op.kind, positions=(abs(rows),), weights=weights)
    attrs = attributes(op)
    dilations = (attrs.get("dilation_h_factor", 1), attrs.get("dilation_w_factor", 1))
    return OperatorShape(
        operator=op.kind,
        positions=output[1:3],
        weights=weights,
        strides=(attrs["stride_h"], attrs["stride_w"]),
        dilations=dilations,
        groups=_groups(op, graph),
    )


def widths_of(shape: OperatorShape, target: Target) -> list[int]:
    """Returns the widths that a target may store an operator's weights in."""
    kind = _KINDS[shape.operator]
    return [bits for bits in _TYPES if target.stores(kind, bits, shape.row)]


def one_operator(shape: OperatorShape, bits: int, seed: int = 0) -> Graph:
    """Returns the graph of one operator, with random weights and 8-bit activations.

    Args:
        shape: of the operator.
        bits: its weights' width: 2, 4 or 8.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    depthwise = shape.operator == "DEPTHWISE_CONV_2D"
    axis = 3 if depthwise else 0
    channels, limit = shape.weights[axis], 1 << (bits - 1)
    codes = rng.integers(-limit, limit, shape.weights).astype(np.int8)
    # About the span of int8 at the output: sums of n products spread by n^0.5.
    terms = codes.size / channels
    scale = np.full(channels, 1 / (limit * np.sqrt(terms)), np.float32)
    activations = Quantization(scale=np.ones(1, np.float32))
    tensors = [
        Tensor(name="x", shape=_input(shape), dtype=DType.INT8, quantization=activations),
        Tensor(
            name="w",
            shape=shape.weights,
            dtype=_TYPES[bits],
            quantization=Quantization(scale=scale, axis=axis),
            data=codes,
        ),
        Tensor(
            name="b",
            shape=(channels,),
            dtype=DType.INT32,
            quantization=Quantization(scale=scale),
            data=np.zeros(channels, np.int32),
        ),
        Tensor(
            name="y",
            shape=(1, *shape.positions, channels),
            dtype=DType.INT8,
            quantization=activations,
        ),
    ]
    op = Op(kind=shape.operator, inputs=("x", "w", "b"), outputs=("y",), attrs=_attrs(shape))
    if shape.operator == "TRANSPOSE_CONV":
        size = np.array(tensors[-1].shape, np.int32)
        tensors.append(Tensor(name="size", shape=(4,), dtype=DType.INT32, data=size))
        op = Op(kind=op.kind, inputs=("size", "w", "x", "b"), outputs=("y",), attrs=op.attrs)
    return Graph(
        tensors={tensor.name: tensor for tensor in tensors},
        ops=(op,),
        inputs={"x": "x"},
        outputs={"y": "y"},
    )


def host_times(
    shapes: Iterable[OperatorShape],
    target: Target,
    *,
    machine: str,
    created: str,
    runs: int = 100,
    num_threads: int = 1,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Returns the times of operators in this computer's interpreter, on XNNPACK.

    Args:
        shapes: of the operators.
        target: whose widths are measured.
        machine: what this computer is called in the table.
        created: now, in ISO 8601.
        runs: timed runs of each file, in turns, after ten that are not.
        num_threads: of each operator.
        on_round: called after parts of the runs with how many are done, of all.

    Raises:
        DDQError: if a number is below 1, there is no operator, or one cannot be run.
    """
    if min(runs, num_threads) < 1:
        raise DDQError(
            "runs and num_threads must be at least 1. "
            f"Received: runs={runs}, num_threads={num_threads}"
        )
    contents = _contents(shapes, target)
    interpreters = [
        prepared(content, num_threads=num_threads, delegate=True, seed=0)
        for content in contents.values()
    ]
    interleaved_ms(interpreters, WARMUP_RUNS)
    parts = []
    for done in range(0, runs, WARMUP_RUNS):
        parts.append(interleaved_ms(interpreters, min(WARMUP_RUNS, runs - done)))
        on_round(min(done + WARMUP_RUNS, runs), runs)
    times_us = np.concatenate(parts, axis=1) * _US
    # Median, a tenth was faster, a tenth was slower: a row for each file.
    rows = np.percentile(times_us, (50, 10, 90), axis=1).T
    return _table(
        dict(zip(contents, rows.tolist(), strict=True)),
        machine=machine,
        runtime=f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}",
        num_threads=num_threads,
        created=created,
    )


def device_times(
    shapes: Iterable[OperatorShape],
    target: Target,
    *,
    created: str,
    num_threads: int = 1,
    on_round: Callable[[int, int], None] = lambda done, total: None,
    **options: object,
) -> LatencyTable:
    """Returns the times of operators on a phone; see `ddq_tf.export.deploy`.

    A phone's benchmark_model runs one file after the other, each over and over: weights that fit
    into a cache come from there. Its median counts where it tells one, else the mean.

    Args:
        shapes: of the operators.
        target: whose widths are measured.
        created: now, in ISO 8601.
        num_threads: of each operator.
        on_round: called after each file with how many are done, of all.
        options: of `deploy`.

    Raises:
        DDQError: as `deploy`; or if there is no operator.
    """
    contents = _contents(shapes, target)
    with _files(contents) as paths:
        results = deploy_several(paths, num_threads=num_threads, on_done=on_round, **options)  # type: ignore[arg-type]
    if results[0].leftover:
        logging.warning("the folder %s could not be removed from the device", results[0].leftover)
    times = {}
    for key, result in zip(contents, results, strict=True):
        middle = result.avg_ms if result.median_ms is None else result.median_ms
        times[key] = (middle * _US, result.min_ms * _US, result.max_ms * _US)
    first = results[0]
    return _table(
        times,
        machine=f"{first.device} ({first.abi})",
        runtime="benchmark_model",
        num_threads=num_threads,
        created=created,
    )


def _contents(shapes: Iterable[OperatorShape], target: Target) -> dict[Key, bytes]:
    """The files to time, the smallest operator first."""
    keys: list[Key] = [(_SMALLEST, MAX_BITS)]
    keys += [(shape, bits) for shape in shapes for bits in widths_of(shape, target)]
    if len(keys) == 1:
        raise DDQError("there is no operator with weights to time: give a model that has some")
    return {key: tflite.write(one_operator(*key)) for key in dict.fromkeys(keys)}


@contextlib.contextmanager
def _files(contents: Mapping[Key, bytes]) -> Iterator[list[Path]]:
    """The paths of files that go away at the end."""
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        paths = [Path(folder) / f"{number}.tflite" for number in range(len(contents))]
        for path, content in zip(paths, contents.values(), strict=True):
            path.write_bytes(content)
        yield paths


def _table(
    times: Mapping[Key, Sequence[float]],
    *,
    machine: str,
    runtime: str,
    num_threads: int,
    created: str,
) -> LatencyTable:
    """Times (median, low, high) in microseconds as a table, without what the smallest takes."""
    overhead = float(times[_SMALLEST, MAX_BITS][0])

    def without(us: float) -> float:
        return round(max(float(us) - overhead, 0.0), _DIGITS)

    return LatencyTable(
        machine=machine,
        runtime=runtime,
        num_threads=num_threads,
        created=created,
        overhead_us=round(overhead, _DIGITS),
        rows=tuple(
            LatencyRow(
                shape=shape,
                bits=bits,
                median_us=without(median),
                low_us=without(low),
                high_us=without(high),
            )
            for (shape, bits), (median, low, high) in list(times.items())[1:]
        ),
    )


def _groups(op: Op, graph: Graph) -> int:
    """The groups of a convolution; see `OperatorShape`."""
    if op.kind == "TRANSPOSE_CONV":
        return 1
    channels = graph.tensors[op.inputs[0]].shape[-1]
    return (
        channels
        if op.kind == "DEPTHWISE_CONV_2D"
        else channels // graph.tensors[op.inputs[1]].shape[-1]
    )


def _has_codes(op: Op, graph: Graph) -> bool:
    """Whether an operator has quantized weights."""
    return weight_kind(op) is not None and graph.tensors[op.inputs[1]].dtype in _TYPES.values()


def _input(shape: OperatorShape) -> tuple[int, ...]:
    """The size of what an operator reads: convolutions just what VALID padding needs."""
    if shape.operator == "FULLY_CONNECTED":
        return (1, *shape.positions, shape.row)
    windows = [
        (size - 1) * dilation + 1
        for size, dilation in zip(shape.weights[1:3], shape.dilations, strict=True)
    ]
    rows = zip(shape.positions, windows, shape.strides, strict=True)
    if shape.operator == "TRANSPOSE_CONV":
        sizes = [max((n - window) // stride + 1, 1) for n, window, stride in rows]
    else:
        sizes = [(n - 1) * stride + window for n, window, stride in rows]
    depthwise = shape.operator == "DEPTHWISE_CONV_2D"
    return (1, *sizes, shape.groups if depthwise else shape.row * shape.groups)


def _attrs(shape: OperatorShape) -> dict[str, object]:
    if shape.operator == "FULLY_CONNECTED":
        return {"keep_num_dims": True}
    down, right = shape.strides
    attrs: dict[str, object] = {"padding": "VALID", "stride_h": down, "stride_w": right}
    if shape.operator != "TRANSPOSE_CONV":
        attrs["dilation_h_factor"], attrs["dilation_w_factor"] = shape.dilations
    if shape.operator == "DEPTHWISE_CONV_2D":
        attrs["depth_multiplier"] = shape.weights[-1] // shape.groups
    return attrs
