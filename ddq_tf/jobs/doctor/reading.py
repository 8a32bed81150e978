"""What a model reads and writes, and of what it consists."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.graph.functional import functional_of, output_names
from ddq_tf.graph.inputs import Interface
from ddq_tf.report.diagnosis import Port
from ddq_tf.training import output_activation


def ports_of(model: keras.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Returns the inputs and the outputs."""
    interface, functional = Interface(model), functional_of(model)
    reads = zip(interface.names, interface.shapes, strict=True)
    names = output_names(functional)
    words = _output_words(model) if len(names) == 1 else ""
    return (
        tuple(Port(name=name, shape=shape) for name, shape in reads),
        tuple(
            Port(name=name, shape=tuple(tensor.shape), words=words)
            for name, tensor in zip(names, functional.outputs, strict=True)
        ),
    )


def takes_image(inputs: Sequence[Port]) -> bool:
    """Returns whether a model takes what `ddq_tf.jobs.images` opens."""
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[3] == 3


def _output_words(model: keras.Model) -> str:
    kind = output_activation(model)
    return (
        "logits (no softmax or sigmoid at its end)" if kind is None else f"probabilities ({kind})"
    )


def nested_in(model: Any) -> Iterable[str]:
    """Yields the names of the models within a model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield layer.name
            yield from nested_in(layer)


def with_kernel(graph: FlatGraph) -> list[FlatNode]:
    """Returns the nodes whose layer has a kernel."""
    return [node for node in graph.nodes if getattr(node.layer, "kernel", None) is not None]


def named(nodes: Iterable[FlatNode]) -> tuple[str, ...]:
    """Returns the names of nodes, each once."""
    return tuple(dict.fromkeys(node.name for node in nodes))


def counted(words: Iterable[str]) -> dict[str, int]:
    """Returns how often each word is there, the most frequent first."""
    return dict(collections.Counter(words).most_common())
