"""Which layers of a canonical graph can be quantized, and what is wrong with the others."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.kinds import RULES, find_rule, function_of, is_activation, rule_of
from ddq_tf.layers import (
    DDQActivation,
    DDQFixedGrid,
    DDQWeightedLayer,
    FloatLayer,
)
from ddq_tf.targets import Target


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one layer or input; as text, a line of an error.

    Attributes:
        name: of the layer or input.
        kind: the class of the layer; "" for an input.
        words: what was required, what was received, and the cure.
        place: where in the user's code it stands; "" if that is not known.
    """

    name: str
    kind: str
    words: str
    place: str = ""

    @classmethod
    def of(cls, node: FlatNode, words: str) -> Problem:
        """Returns the problem of a layer."""
        return cls(node.name, type(node.layer).__name__, words, node.place)

    def __str__(self) -> str:
        label = f"layer {self.name!r} ({self.kind})" if self.kind else f"input {self.name!r}"
        return f"{label}{self.place and f', {self.place}'}: {self.words}"


def _known(module: str) -> str:
    """The names of what has a rule, of a module of Keras."""
    kinds = {layer for rule in RULES.rules for layer in rule.layers}
    return ", ".join(sorted(k.__name__ for k in kinds if k.__module__.startswith(module)))


_RECURRENT = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
# By names of classes: what to do instead.
CURES: dict[str, str] = {
    **dict.fromkeys(
        _RECURRENT, "put convolutions, such as Conv1D, in the place of recurrence and train again"
    ),
    **dict.fromkeys(
        (
            *("Conv3D", "Conv3DTranspose", "MaxPooling3D", "AveragePooling3D", "UpSampling3D"),
            *("GlobalMaxPooling3D", "GlobalAveragePooling3D", "ZeroPadding3D", "Cropping3D"),
        ),
        "LiteRT has no integer operators for volumes; call a model of Conv2D on each slice by "
        "TimeDistributed, or put the slices side by side as channels",
    ),
    **dict.fromkeys(
        ("Argmax", "Argmin", "TopK", "InTopK", "Argsort", "Sort"),
        "let the model end before it, and choose among the file's outputs in the app: quantization "
        "keeps their order but for ties",
    ),
    **dict.fromkeys(
        (
            *("CategoryEncoding", "Discretization", "Hashing", "HashedCrossing"),
            *("IntegerLookup", "StringLookup", "TextVectorization", "OneHot", "MultiHot"),
        ),
        "do it in the app before the file is called, and give the model what it makes",
    ),
    **dict.fromkeys(
        ("MelSpectrogram", "STFTSpectrogram", "STFT", "FFT", "FFT2", "RFFT"),
        "compute it in the app before the file is called, and give the model what it makes",
    ),
    "Embedding": "look its rows up in the app, and let the model start with them: "
    "keras.Input((length, dim))",
    "Masking": "a mask that varies has no integer form; give all sequences one length",
    "AdditiveAttention": "choose MultiHeadAttention, whose scores are products",
}


def problems_of(graph: FlatGraph, target: Target) -> list[Problem]:
    """Returns a problem for every layer of a canonical graph that cannot be quantized.

    Args:
        graph: canonical.
        target: where the file will run.
    """
    found = [
        Problem(
            name,
            "",
            "needs a fixed size, all but the batch, which LiteRT plans its memory for. "
            f"Received: shape {shape}. Build the model for one size; its weights fit any",
        )
        for name, shape in zip(graph.input_names, graph.input_shapes, strict=True)
        if None in shape[1:]
    ]
    for node in graph.nodes:
        problem = _problem_of(graph, node) or _missing(node, target)
        if problem is not None:
            found.append(Problem.of(node, problem))
    return found


def problems_of_weights(graph: FlatGraph) -> list[Problem]:
    """Returns a problem for every layer whose weights are no plain variables of its own.

    Args:
        graph: as flattened; rewriting copies weights.
    """
    found: list[Problem] = []
    owners: dict[int, FlatNode] = {}
    for node in graph.nodes:
        layer = node.layer
        if getattr(layer, "quantization_mode", None):
            words = (
                f"is quantized by Keras already ({layer.quantization_mode}); pass the float model"
            )
            found.append(Problem.of(node, words))
        elif getattr(layer, "lora_enabled", False):
            words = (
                "has LoRA weights beside its kernel; save the model and load it again, which adds "
                "them up"
            )
            found.append(Problem.of(node, words))
        variables = [c for c in node.constants if isinstance(c, keras.Variable)]
        for variable in (*getattr(layer, "weights", ()), *variables):
            owner = owners.setdefault(id(variable), node)
            if owner.layer is not layer and not _are_operations(owner, node):
                words = (
                    f"shares its {variable.name!r} with layer {owner.name!r}, which quantization "
                    "would part; call one layer twice instead"
                )
                found.append(Problem.of(node, words))
    return list(dict.fromkeys(found))


def _are_operations(one: FlatNode, other: FlatNode) -> bool:
    """Whether two calls do the same with a variable, which one layer then does for both."""
    return type(one.layer) is type(other.layer) and not isinstance(one.layer, keras.layers.Layer)


def problems_of_values(graph: FlatGraph) -> list[Problem]:
    """Returns a problem for every variable that is not finite.

    Args:
        graph: canonical, and supported.
    """
    found = {}
    for node in graph.nodes:
        for variable in node.layer.weights:
            bad = int(np.sum(~np.isfinite(as_float64(variable))))
            if bad:
                found[variable.path] = Problem.of(
                    node,
                    f"{bad} of {int(np.prod(variable.shape))} values of {variable.name!r} are NaN "
                    "or infinite",
                )
    return list(found.values())


def _problem_of(graph: FlatGraph, node: FlatNode) -> str | None:
    if isinstance(node.layer, DDQWeightedLayer | DDQActivation | DDQFixedGrid | FloatLayer):
        return "is quantized already; quantize_model takes the float model"
    if node.trouble:
        return node.trouble
    rule = find_rule(node.layer)
    if rule is None:
        kind = type(node.layer)
        is_operation = kind.__module__.startswith("keras.src.ops")
        known = "docs/supported.md lists those of keras.ops that have one"
        known = known if is_operation else f"supported are {_known('keras.src.layers')}"
        cure = CURES.get(kind.__name__, known)
        return f"has no integer form here; {cure}"
    return rule.problem(graph, node)


def _missing(node: FlatNode, target: Target) -> str | None:
    function = function_of(node.layer) if is_activation(node) else None
    rule = rule_of(node.layer)
    operator = rule.operator if function is None else function.operator
    if rule.in_floats and not target.float_islands:
        return (
            f"masks need float operators, which the target {target.name!r} has none of. Choose "
            "another target"
        )
    most = target.most_axes.get(operator, len(node.shapes[0]))
    if len(node.shapes[0]) > most:
        return (
            f"{target.runtime}, where the target {target.name!r} runs, takes at most {most} axes "
            f"in {operator}, the batch among them. Received: shape {node.shapes[0]}. Join axes "
            "that stay together first, or choose another target"
        )
    if operator not in target.missing_operators:
        return None
    other = "target" if function is None else "activation or target"
    return (
        f"{target.runtime}, where the target {target.name!r} runs, has no {operator} that is known "
        f"to be exact. Choose another {other}"
    )
