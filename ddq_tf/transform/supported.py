"""Which layers of a canonical graph can be quantized, and what is wrong with the others."""

from __future__ import annotations

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import RULES, find_rule, function_of, is_activation
from ddq_tf.layers import DDQActivation, DDQFixedGrid, DDQWeightedLayer, FloatLayer
from ddq_tf.targets import Target


def _known(module: str) -> str:
    """The names of what has a rule, of a module of Keras."""
    kinds = {layer for rule in RULES.rules for layer in rule.layers}
    return ", ".join(sorted(k.__name__ for k in kinds if k.__module__.startswith(module)))


_MOVES_CHANNELS = (
    "if it changes the order of channels, as preprocess_input of some networks does, leave it "
    "outside the model: in the data pipeline, or ddq's --channels=bgr"
)
# By names of operations: what to do instead.
_CURES: dict[str, str] = dict.fromkeys(("GetItem", "Stack", "Flip"), _MOVES_CHANNELS)


def problems_of(graph: FlatGraph, target: Target) -> list[str]:
    """Returns one line for every layer of a canonical graph that cannot be quantized.

    Args:
        graph: canonical.
        target: where the file will run.
    """
    found = [
        f"input {name!r}: needs a fixed size, all but the batch, which LiteRT plans its memory "
        f"for. Received: shape {shape}. Build the model for one size; its weights fit any"
        for name, shape in zip(graph.input_names, graph.input_shapes, strict=True)
        if None in shape[1:]
    ]
    for node in graph.nodes:
        problem = _problem_of(graph, node) or _missing(node, target)
        if problem is not None:
            found.append(f"layer {node.name!r} ({type(node.layer).__name__}): {problem}")
    return found


def problems_of_weights(graph: FlatGraph) -> list[str]:
    """Returns one line for every layer whose weights are no plain variables of its own.

    Args:
        graph: as flattened; rewriting copies weights.
    """
    found: list[str] = []
    owners: dict[int, FlatNode] = {}
    for node in graph.nodes:
        layer, label = node.layer, f"layer {node.name!r} ({type(node.layer).__name__})"
        if getattr(layer, "quantization_mode", None):
            found.append(
                f"{label}: is quantized by Keras already ({layer.quantization_mode}); pass the "
                "float model"
            )
        elif getattr(layer, "lora_enabled", False):
            found.append(
                f"{label}: has LoRA weights beside its kernel; save the model and load it again, "
                "which adds them up"
            )
        for variable in getattr(layer, "weights", ()):
            owner = owners.setdefault(id(variable), node)
            if owner.layer is not layer:
                found.append(
                    f"{label}: shares its {variable.name!r} with layer {owner.name!r}, which "
                    "quantization would part; call one layer twice instead"
                )
    return list(dict.fromkeys(found))


def _problem_of(graph: FlatGraph, node: FlatNode) -> str | None:
    if isinstance(node.layer, DDQWeightedLayer | DDQActivation | DDQFixedGrid | FloatLayer):
        return "is quantized already; quantize_model takes the float model"
    rule = find_rule(node.layer)
    if rule is None:
        kind = type(node.layer)
        is_operation = kind.__module__.startswith("keras.src.ops")
        known = _known("keras.src.ops" if is_operation else "keras.src.layers")
        cure = _CURES.get(kind.__name__, f"supported are {known}")
        return f"has no integer form here; {cure}"
    return rule.problem(graph, node)


def _missing(node: FlatNode, target: Target) -> str | None:
    function = function_of(node.layer) if is_activation(node) else None
    if function is None or function.operator not in target.missing_operators:
        return None
    return (
        f"{target.runtime}, where the target {target.name!r} runs, has no {function.operator}. "
        "Choose another activation or target"
    )
