"""A float network written so that Keras 2, tf_keras and HGQ2 can build it: layers and weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GRAPH, WEIGHTS = "graph.json", "weights.npz"
_SETTINGS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "BatchNormalization": ("momentum", "epsilon", "center", "scale"),
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "activation", "use_bias"),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": ("kernel_size", "strides", "padding", "activation", "use_bias"),
    "Dropout": ("rate",),
    "Flatten": (),
    "GlobalAveragePooling2D": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "ZeroPadding2D": ("padding",),
}


def save(model: Any, folder: Path) -> None:
    """Writes a Keras 3 model's layers, in order of execution, and their weights.

    Raises:
        SystemExit: naming the layers that have no counterpart.
    """
    from ddq_tf.graph.flatten import flatten

    graph = flatten(model)
    unknown = {type(n.layer).__name__ for n in graph.nodes} - set(_SETTINGS)
    if unknown:
        raise SystemExit(f"the peers' twin has no layers for {sorted(unknown)}")
    nodes, weights = [], {}
    for index, node in enumerate(graph.nodes):
        values = node.layer.get_weights()
        weights |= {f"{index}/{place}": value for place, value in enumerate(values)}
        nodes.append(_described(node, len(values)))
    description = {
        "shape": graph.input_shapes[0][1:],
        "input": graph.inputs[0],
        "output": graph.outputs[0],
        "nodes": nodes,
    }
    (folder / GRAPH).write_text(json.dumps(description, indent=1))
    np.savez(folder / WEIGHTS, **weights)


def read(folder: Path) -> dict[str, Any]:
    """Returns the description that `save` wrote."""
    return json.loads((folder / GRAPH).read_text())


def gives_logits(graph: dict[str, Any]) -> bool:
    """Returns whether the network ends without softmax."""
    return graph["nodes"][-1]["settings"].get("activation") != "softmax"


def build(
    folder: Path,
    keras: Any,
    make: Callable[[dict[str, Any]], Any] | None = None,
    *,
    set_weights: bool = True,
) -> Any:
    """Returns the network.

    Args:
        folder: where `save` wrote to.
        keras: the library, Keras 2 or 3.
        make: from a node to its layer; None makes the library's own.
        set_weights: whether it gets its weights, or stays as it is made.
    """
    graph, weights = read(folder), np.load(folder / WEIGHTS)
    make = make or (lambda node: layer_of(node, keras))
    tensors = {graph["input"]: keras.Input(tuple(graph["shape"]))}
    layers = []
    for node in graph["nodes"]:
        inputs = [tensors[number] for number in node["inputs"]]
        layers.append(make(node))
        tensors[node["output"]] = layers[-1](inputs if len(inputs) > 1 else inputs[0])
    model = keras.Model(tensors[graph["input"]], tensors[graph["output"]])
    for index, (node, layer) in enumerate(zip(graph["nodes"], layers, strict=True)):
        if set_weights:
            layer.set_weights([weights[f"{index}/{place}"] for place in range(node["weights"])])
    return model


def layer_of(node: dict[str, Any], keras: Any) -> Any:
    """Returns the library's layer for a node, with its own weights still to come."""
    settings = dict(node["settings"])
    if node["l2"]:
        settings["kernel_regularizer"] = keras.regularizers.L2(node["l2"])
    return getattr(keras.layers, node["kind"])(name=node["name"], **settings)


def largest_difference(model: Any, folder: Path, inputs: np.ndarray) -> float:
    """Returns how far a twin's outputs are from those of the float model in `folder`."""
    expected = np.load(folder / "float_outputs.npy")[: len(inputs)]
    return float(np.abs(np.asarray(model(inputs, training=False)) - expected).max())


def _described(node: Any, num_weights: int) -> dict[str, Any]:
    kind, config = type(node.layer).__name__, node.layer.get_config()
    penalty = config.get("kernel_regularizer") or {}
    return {
        "kind": kind,
        "name": node.name,
        "settings": {name: config[name] for name in _SETTINGS[kind]},
        "l2": penalty.get("config", {}).get("l2", 0.0),
        "inputs": node.inputs,
        "output": node.outputs[0],
        "weights": num_weights,
    }
