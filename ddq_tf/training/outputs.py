"""What kind of outputs a classifier gives."""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.errors import DDQError

_PROBABILITIES = ("softmax", "sigmoid")


def outputs_logits(model: keras.Model) -> bool:
    """Returns whether a classifier ends in logits, not in probabilities; see `output_activation`.

    Raises:
        DDQError: if the model is not functional or sequential, or has several outputs.
    """
    return output_activation(model) is None


def output_activation(model: keras.Model) -> str | None:
    """Returns "softmax" or "sigmoid" if a classifier ends so, None if it ends in logits.

    Goes back from the output to the first softmax or sigmoid (probabilities) or the first layer
    with a kernel (logits); layers between, such as quantizers, pooling and reshapes, keep what
    they are given. Layers tell by their attribute `activation`, softmax layers by their name.

    Raises:
        DDQError: if the model is not functional or sequential, or has several outputs.
    """
    outputs = getattr(model, "outputs", None) or ()
    if len(outputs) != 1:
        raise DDQError(
            f"model {model.name!r} must be a built functional or sequential model with one output "
            "to tell whether it gives logits; otherwise pass from_logits=True or False. "
            f"Received: {type(model).__name__} with {len(outputs)} known outputs"
        )
    tensor = outputs[0]
    while True:
        # The only record of what made a tensor; keras.Model.summary reads it too.
        operation, node_index, _ = tensor._keras_history
        if isinstance(operation, keras.Model):
            return output_activation(operation)
        probabilities = _probabilities(operation)
        if probabilities is not None:
            return probabilities
        inputs = operation._inbound_nodes[node_index].input_tensors
        if getattr(operation, "kernel", None) is not None or len(inputs) != 1:
            return None
        tensor = inputs[0]


def _probabilities(operation: Any) -> str | None:
    """Returns in which of the two a layer or operation ends, if in one."""
    activation = getattr(operation, "activation", None)
    names = (
        type(operation).__name__,
        activation if isinstance(activation, str) else getattr(activation, "__name__", ""),
    )
    ends = [kind for kind in _PROBABILITIES for name in names if name.lower().endswith(kind)]
    return ends[0] if ends else None
