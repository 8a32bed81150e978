"""What kind of outputs a classifier gives."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from ddq_tf.backend import compiled
from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatNode, flatten

_PROBABILITIES = ("softmax", "sigmoid")


def outputs_logits(model: keras.Model) -> bool:
    """Returns whether a classifier ends in logits, not in probabilities; see `output_activation`.

    Raises:
        DDQError: if what the model does cannot be read, or it has several outputs.
    """
    return output_activation(model) is None


def answers_of(model: keras.Model, batches: Iterable[Any]) -> Iterator[tuple[Any, np.ndarray]]:
    """Yields (labels, outputs as an array) of each batch.

    Under a `tf.distribute` strategy too, where `predict_on_batch` answers once for each replica.

    Args:
        model: of one output; need not be compiled.
        batches: (inputs, labels).
    """
    num_calls = operator.length_hint(batches, sys.maxsize)
    run = compiled(lambda inputs: model(inputs, training=False), model.variables, num_calls)
    for inputs, labels in batches:
        yield labels, np.asarray(keras.ops.convert_to_numpy(run(inputs)))


def output_activation(model: keras.Model) -> str | None:
    """Returns "softmax" or "sigmoid" if a classifier ends so, None if it ends in logits.

    Goes back from the output to the first softmax or sigmoid (probabilities) or the first layer
    with a kernel (logits); layers between, such as quantizers, pooling and reshapes, keep what
    they are given. Layers tell by their attribute `activation`, softmax layers by their name.

    Raises:
        DDQError: if what the model does cannot be read, or it has several outputs.
    """
    graph = flatten(model)
    if len(graph.outputs) != 1:
        raise DDQError(
            f"model {model.name!r} must have one output, as a classifier, to tell whether it gives "
            f"logits. Received: {len(graph.outputs)} outputs. With several, give Distillation a "
            "loss, and measure by model.evaluate, or ddq_tf.export.evaluate(file, data, "
            "metrics={output: [...]})"
        )
    node = graph.producer(graph.outputs[0])
    while node is not None:
        probabilities = _probabilities(node.layer)
        if probabilities is not None:
            return probabilities
        if _has_kernel(node) or len(node.inputs) != 1:
            return None
        node = graph.producer(node.inputs[0])
    return None


def _has_kernel(node: FlatNode) -> bool:
    """Whether a layer, or an operation such as a product with a matrix, has weights of its own."""
    matrices = [constant for constant in node.constants if len(getattr(constant, "shape", ())) > 1]
    return bool(matrices) or getattr(node.layer, "kernel", None) is not None


def _probabilities(operation: Any) -> str | None:
    """Returns in which of the two a layer or operation ends, if in one."""
    activation = getattr(operation, "activation", None)
    names = (
        type(operation).__name__,
        activation if isinstance(activation, str) else getattr(activation, "__name__", ""),
    )
    ends = [kind for kind in _PROBABILITIES for name in names if name.lower().endswith(kind)]
    return ends[0] if ends else None
