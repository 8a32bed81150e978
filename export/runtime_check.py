"""What LiteRT would refuse, abort on or compute wrong in an integer graph, before it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ddq_tf.errors import raise_all
from ddq_tf.export.ir import DType, Graph, Op, Tensor
from ddq_tf.export.operators import completed, operator_of, requantizations
from ddq_tf.export.operators.weighted import reached_sums, sum_limit

_SCALES_CURE = (
    "What it reads is far beyond what it may write, as behind a layer that is dead in calibration, "
    "before a ceiling, or with images that are not normalized: calibrate with typical, normalized "
    "images, or remove the layer"
)
_SUMS_CURE = "Feed this layer fewer inputs, for example by pooling before it"
_NARROW_CURE = "use precisions=(8,), whose sums may reach 2^31"


def check(graph: Graph) -> None:
    """Refuses a graph whose file LiteRT could not run.

    Args:
        graph: after all passes.

    Raises:
        DDQError: listing all `problems`.
    """
    raise_all("LiteRT could not run this model as it was trained:", problems(graph))


def problems(graph: Graph) -> list[str]:
    """Returns a line for each op that LiteRT refuses or computes wrong.

    That are factors above what XNNPACK takes, and sums beyond its registers. Sums are those that
    the known weights reach with the worst codes that there can be.

    Args:
        graph: well formed.
    """
    return [
        f"{_label(op)}: {problem}"
        for op in graph.ops
        for find in (_large_factors, _long_sums)
        for problem in find(op, graph.tensors)
    ]


def left_to_built_in_kernels(graph: Graph) -> list[str]:
    """Returns a line for each op whose factors are below what XNNPACK takes.

    Built-in kernels run it: more slowly, and with nearly all codes the same.

    Args:
        graph: well formed.
    """
    return [
        f"{_label(op)}: {item.name} below {item.taken.least:.6g}. "
        f"Received: {float(np.min(item.values)):.6g}"
        for op in graph.ops
        if _is_integer(op, graph.tensors)
        for item in requantizations(op, graph.tensors)
        if np.min(item.values) < item.taken.least
    ]


def _label(op: Op) -> str:
    """The op as users know it."""
    return f"layer {op.source!r} ({op.kind})" if op.source else f"{op.kind} of {op.outputs[0]!r}"


def _large_factors(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields what is wrong with an op's scales."""
    if not _is_integer(op, tensors):
        return
    for item in requantizations(op, tensors):
        greatest = float(np.max(item.values))
        if greatest > item.taken.greatest:
            channel = f" in channel {np.argmax(item.values)}" if item.values.size > 1 else ""
            yield (
                f"needs {item.name} of at most {item.taken.greatest:.8g}. "
                f"Received: {greatest:.8g}{channel}. "
                f"{_SCALES_CURE}"
            )


def _long_sums(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields what is wrong with a weighted op's sums."""
    if operator_of(op.kind).weights is None or not _is_integer(op, tensors):
        return
    reached = reached_sums(op, tensors)
    if reached is None:
        return
    least, greatest = reached
    weights = tensors[op.inputs[1]]
    limit = sum_limit(completed(op), weights)
    furthest = np.maximum(-least, greatest + 1)
    channel = int(furthest.argmax())
    if furthest[channel] > limit:
        cure = _SUMS_CURE if limit == 1 << 31 else f"{_SUMS_CURE}, or {_NARROW_CURE}"
        yield (
            f"needs sums below 2^{limit.bit_length() - 1} with {weights.dtype.value} weights. "
            f"Received: {max(-least[channel], greatest[channel]):,} in channel {channel}. {cure}"
        )


def _is_integer(op: Op, tensors: Mapping[str, Tensor]) -> bool:
    """Whether an op reads and writes INT8 activations."""
    image = tensors[op.inputs[operator_of(op.kind).image]]
    return image.dtype is tensors[op.outputs[0]].dtype is DType.INT8
