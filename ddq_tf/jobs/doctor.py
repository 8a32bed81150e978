"""`ddq doctor`: what can be told of a float model within seconds, without data."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddq_tf import data, xnnpack
from ddq_tf.config import AUTO, DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.export.exporter import export_tflite
from ddq_tf.export.interpreter import delegation
from ddq_tf.graph import WEIGHTED, FlatGraph, FlatNode
from ddq_tf.graph.flatten import functional_of, output_names
from ddq_tf.graph.inputs import Interface
from ddq_tf.jobs.images import DEFAULT_INPUT_RANGE, noted_range
from ddq_tf.jobs.loading import load_model, read_notes
from ddq_tf.quiet import silenced
from ddq_tf.report.diagnosis import (
    Diagnosis,
    Draft,
    Port,
    PrecisionLimit,
    Quantizable,
    SizeAt,
    StepTimes,
    Trouble,
)
from ddq_tf.scheme import MAX_BITS
from ddq_tf.search import DDQModel, weight_budget
from ddq_tf.search.budget import PrecisionBudget
from ddq_tf.targets import TARGETS, OpKind, Target, get_target
from ddq_tf.training import output_activation
from ddq_tf.transform.canonical import origin_of
from ddq_tf.transform.quantize import Examination, examine, in_float32, rebuilt
from ddq_tf.transform.supported import Problem

_SIZES = (8, 4, 2)
_TIMED_BATCH = 8
_TIMED_STEPS = 3
_RECEIVED = " Received: "


def diagnose(
    source: str | os.PathLike[str] | keras.Model,
    *,
    target: str = "litert",
    measure: bool = False,
) -> Diagnosis:
    """Tells whether a float model can be quantized, what stands in the way, and how small it gets.

    Needs no data: sizes are those of weights, and a draft of the file has ranges by default.

    Args:
        source: the float model, which stays as it is, or its .keras or .h5 file.
        target: where the file will run.
        measure: whether to time training steps, too.

    Raises:
        DDQError: if the file cannot be read or holds no float model.
    """
    chosen = get_target(target)
    is_model = isinstance(source, keras.Model)
    model = source if is_model else _loaded(Path(source))
    file = "" if is_model else os.fspath(source)
    notes = {} if is_model else read_notes(source)
    with in_float32():
        return _diagnosis(model, chosen, file, notes, measure)


def _diagnosis(
    model: keras.Model, chosen: Target, file: str, notes: dict[str, Any], measure: bool
) -> Diagnosis:
    target = chosen.name
    found = _examined(model, chosen)
    if isinstance(found, Trouble):
        return _untold(model, target, found, file)
    config = DDQConfig(target=target, budget=None)
    troubles = _troubles(found)
    quantized = None
    if not troubles:
        try:
            quantized = _quantizable(model, found, config, measure)
        except DDQError as error:  # of scales that cannot meet what operators ask of them
            troubles = (_whole(error),)
    inputs, outputs = _ports(model)
    takes_image = _takes_image(inputs)
    input_range, channels, range_from = _pixels(model, notes) if takes_image else (None, "", "")
    return Diagnosis(
        name=model.name,
        file=file,
        target=target,
        num_params=model.count_params(),
        troubles=troubles,
        nested=tuple(_nested(model)),
        frozen=_named(n for n in _with_kernel(found.flat) if not n.layer.trainable),
        shared=_named(n for n in _with_kernel(found.flat) if found.flat.calls(n.layer) > 1),
        operations=_counted(
            type(n.layer).__name__
            for n in found.flat.nodes
            if not isinstance(n.layer, keras.layers.Layer)
        ),
        inputs=inputs,
        outputs=outputs,
        input_range=input_range,
        channels=channels,
        range_from=range_from,
        quantized=quantized,
        commands=_after_cure(file, target)
        if troubles
        else _commands(file, target, inputs, outputs, is_known=input_range is not None),
    )


def _loaded(path: Path) -> keras.Model:
    if path.suffix.lower() == ".tflite" and path.is_file():
        raise DDQError(
            f"{str(path)!r} is an exported file, not the float model: `ddq verify` checks it, "
            "`ddq benchmark` times it. Give the .keras or .h5 file that it was made from"
        )
    model = load_model(path)
    if isinstance(model, DDQModel):
        raise DDQError(
            f"{str(path)!r} holds a DDQ model, quantized already: `ddq report {path}` tells all of "
            "it, `ddq export` writes its file. `ddq doctor` takes the float model"
        )
    return model


# What stands in the way


def _examined(model: keras.Model, target: Target) -> Examination | Trouble:
    """What there is to say; a trouble if not even the graph can be read."""
    if isinstance(model, DDQModel):
        raise DDQError(f"model {model.name!r} is quantized already: pass the float model")
    try:
        return examine(model, target)
    except DDQError as error:
        return _whole(error)


def _whole(error: DDQError) -> Trouble:
    return Trouble(kind="", layers=(), words=str(error))


def _untold(model: keras.Model, target: str, trouble: Trouble, file: str) -> Diagnosis:
    """The diagnosis of a model whose graph cannot be read."""
    return Diagnosis(
        name=model.name,
        file=file,
        target=target,
        num_params=model.count_params() if model.built else 0,
        troubles=(trouble,),
        commands=_after_cure(file, target),
    )


def _troubles(found: Examination) -> tuple[Trouble, ...]:
    """All that is wrong, alike problems together."""
    groups: dict[tuple[str, str], list[Problem]] = collections.defaultdict(list)
    for problem in (*found.problems, *found.broken):
        # What was received, such as a shape, differs from layer to layer.
        groups[problem.words.split(_RECEIVED)[0], problem.kind].append(problem)
    troubles = [
        Trouble(
            kind=kind,
            layers=tuple(dict.fromkeys(problem.name for problem in group)),
            words=group[0].words,
        )
        for (_, kind), group in groups.items()
    ]
    if not found.problems and found.is_empty:
        words = "there is no convolution or dense layer to quantize"
        troubles.append(Trouble(kind="", layers=(), words=words))
    # Those of the same words stand together.
    words_of = list(dict.fromkeys(trouble.words for trouble in troubles))
    return tuple(sorted(troubles, key=lambda trouble: words_of.index(trouble.words)))


# What quantization would make of it


def _quantizable(
    model: keras.Model, found: Examination, config: DDQConfig, measure: bool
) -> Quantizable:
    flat, graph = found.checked()
    quantized = rebuilt(graph, config, model).model
    budget = weight_budget(quantized, config)
    auto = weight_budget(quantized, dataclasses.replace(config, budget=AUTO)).capacity_bits
    draft = _draft(quantized, budget, config.resolved_target)
    return Quantizable(
        kinds=_counted(layer.kind.value for layer in budget.layers),
        macs=sum(_macs(node) for node in graph.nodes if isinstance(node.layer, WEIGHTED)),
        folded=len({id(n.layer) for n in map(graph.norm_of, graph.nodes) if n is not None}),
        rewritten=_rewritten(flat, graph),
        num_weights=budget.num_values,
        sizes=_sizes(budget, config.resolved_target, draft),
        least_bytes=math.ceil(budget.least_bits / 8),
        auto_bytes=int((auto or 0) / 8),
        elsewhere={
            name: sum(_least_stored(layer, other) for layer in budget.layers)
            for name, other in TARGETS.items()
            if name != config.target
        },
        limits=_limits(budget, config.resolved_target),
        draft=draft if isinstance(draft, Draft) else None,
        no_draft="" if isinstance(draft, Draft) else draft,
        times=_times(model, quantized) if measure else None,
    )


def _macs(node: FlatNode) -> int:
    """Multiplications of one call, for one example."""
    layer = node.layer
    shape: Any = node.shapes[0]
    # A transposed convolution uses its kernel once for each position that it reads.
    if not isinstance(layer, keras.layers.Conv2DTranspose):
        shape = layer.compute_output_shape(shape)
    return math.prod(shape[1:-1]) * math.prod(layer.kernel.shape)


def _rewritten(flat: FlatGraph, graph: FlatGraph) -> dict[str, str]:
    """Layers with a kernel that others stand for: from their class to these."""
    kept = {id(node.layer) for node in flat.nodes}
    made: dict[int, list[str]] = collections.defaultdict(list)
    kinds: dict[int, str] = {}
    for node in graph.nodes:
        origin = origin_of(node.layer)
        if id(node.layer) not in kept and isinstance(node.layer, WEIGHTED):
            kinds[id(origin)] = type(origin).__name__
            made[id(origin)].append(type(node.layer).__name__)
    found = {kind: " and ".join(made[key]) for key, kind in kinds.items()}
    return {kind: parts for kind, parts in found.items() if kind != parts}


def _stored(layer: Any, bits: int, target: Target) -> int:
    """Bytes of a layer's weights in the file."""
    quantizer = layer.quantizer
    size = target.stored_size_bits(layer.kind, bits, quantizer.num_weights, quantizer.num_channels)
    return math.ceil(size / 8)


def _least_stored(layer: Any, target: Target) -> int:
    """The fewest bytes of a layer's weights in the file of a target."""
    config = DDQConfig(target=target.name)
    return _stored(layer, config.precisions_for(layer.kind, _row(layer))[0], target)


def _row(layer: Any) -> int:
    """Weights along the axis of the inputs."""
    return layer.quantizer.kernel_shape[-2]


def _sizes(budget: PrecisionBudget, target: Target, draft: Draft | str) -> tuple[SizeAt, ...]:
    sizes = []
    for bits in _SIZES:
        chosen = [_at_least(layer.quantizer.precisions, bits) for layer in budget.layers]
        pairs = list(zip(budget.layers, chosen, strict=True))
        stored = sum(_stored(layer, each, target) for layer, each in pairs)
        sizes.append(
            SizeAt(
                bits=bits,
                num_layers=sum(each == bits for each in chosen),
                weights_bytes=math.ceil(
                    sum(
                        cost[layer.quantizer.precisions.index(each)]
                        for (layer, each), cost in zip(pairs, budget.costs, strict=True)
                    )
                    / 8
                ),
                file_bytes=draft.rest_bytes + stored if isinstance(draft, Draft) else None,
            )
        )
    return tuple(sizes)


def _at_least(precisions: Sequence[int], bits: int) -> int:
    """The lowest precision that is not below these bits."""
    return min(each for each in precisions if each >= bits)


def _limits(budget: PrecisionBudget, target: Target) -> tuple[PrecisionLimit, ...]:
    """Which layers cannot have the lowest precision that the target has for any."""
    lowest = min(bits for kind in OpKind for bits in target.learned_bits(kind))
    groups: dict[tuple[str, int, str], list[Any]] = collections.defaultdict(list)
    for layer, cost in zip(budget.layers, budget.costs, strict=True):
        bits = layer.quantizer.precisions[0]
        if bits > lowest or cost[0] == cost[-1]:
            reason = _reason(layer, target)
            bits = bits if cost[0] < cost[-1] else MAX_BITS
            groups[layer.kind.value, bits, reason].append(layer)
    return tuple(
        PrecisionLimit(
            kind=kind,
            bits=bits,
            reason=reason,
            layers=tuple(layer.name for layer in layers),
            num_weights=sum(layer.quantizer.num_weights for layer in layers),
        )
        for (kind, bits, reason), layers in groups.items()
    )


def _reason(layer: Any, target: Target) -> str:
    """Why a layer cannot have fewer bits."""
    bits = layer.quantizer.precisions[0]
    if bits > target.learned_bits(layer.kind)[0]:
        return f"{_row(layer)} inputs of fewer bits do not end with a byte, as XNNPACK wants it"
    if target.lookup_tables:
        return "tables would take more bytes than they save"
    return f"{target.name} stores a {layer.kind.value} in {bits} bits at least"


def _draft(model: DDQModel, budget: PrecisionBudget, target: Target) -> Draft | str:
    """A file of the uncalibrated model, as its runtime sees it; or why there is none."""
    with tempfile.TemporaryDirectory() as folder, silenced():
        try:
            made = export_tflite(model, Path(folder) / "draft.tflite")
            taken = delegation(made.path.read_bytes()) if target.runtime == "LiteRT" else None
        except DDQError as error:
            return f"none before calibration: {str(error).splitlines()[0]}"
    return Draft(
        rest_bytes=made.size_bytes - made.sizes.weights,
        total_ops=len(made.graph.ops),
        partitions=None if taken is None else taken.partitions,
        undelegated=_counted(op.split(" ")[0] for op in taken.undelegated) if taken else {},
        slow_when_narrow=tuple(
            layer.name for layer in budget.layers if taken and _is_slow(layer, target)
        ),
    )


def _is_slow(layer: Any, target: Target) -> bool:
    """Whether XNNPACK leaves a layer to built-in kernels below 8 bits."""
    quantizer = layer.quantizer
    stored = {target.stored_bits(layer.kind, bits, _row(layer)) for bits in quantizer.precisions}
    return not all(
        xnnpack.takes_weights(
            layer.kind,
            bits,
            row=_row(layer),
            per_channel=quantizer.per_channel,
        )
        for bits in stored
    )


def _times(model: keras.Model, quantized: DDQModel) -> StepTimes:
    """Times training steps on random data, of a copy of the float model."""
    return StepTimes(
        batch_size=_TIMED_BATCH,
        float_s=_step_s(keras.models.clone_model(model)),
        ddq_s=_step_s(quantized),
    )


def _step_s(model: keras.Model) -> float:
    """Seconds of one training step: the shortest of a few, after one that traces it."""
    rng = np.random.default_rng(0)
    interface = Interface(model)
    inputs = interface.packed(
        [rng.random((_TIMED_BATCH, *shape[1:]), np.float32) for shape in interface.shapes]
    )
    wanted = keras.tree.map_structure(
        lambda tensor: np.zeros((_TIMED_BATCH, *tensor.shape[1:]), np.float32), model.output
    )
    losses = keras.tree.map_structure(lambda tensor: "mse", model.output)
    model.compile(keras.optimizers.SGD(1e-6), losses)
    model.train_on_batch(inputs, wanted)
    seconds = []
    for _ in range(_TIMED_STEPS):
        start = time.perf_counter()
        model.train_on_batch(inputs, wanted)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# What it reads and writes


def _pixels(
    model: keras.Model, notes: dict[str, Any]
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, str, str]:
    """What pixels 0 and 255 become, the order of channels, and who says so."""
    known, said = None, "noted in the file"
    if "input_range" in notes:
        known = noted_range(notes)
    else:
        known, said = data.published(model), "keras.applications"
    if known is None:
        low, high = DEFAULT_INPUT_RANGE
        words = f"range not known: give --input_range; without it, {low:g} to {high:g} is taken"
        return None, "", words
    (low, high), channels = known
    return (_ends(low), _ends(high)), channels, said


def _ends(level: Any) -> tuple[float, ...]:
    return tuple(level) if isinstance(level, tuple) else (float(level),)


def _ports(model: keras.Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """The inputs and the outputs."""
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


def _takes_image(inputs: Sequence[Port]) -> bool:
    """Whether a model takes what `ddq_tf.jobs.images` opens."""
    return len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].shape[3] == 3


def _output_words(model: keras.Model) -> str:
    kind = output_activation(model)
    return (
        "logits (no softmax or sigmoid at its end)" if kind is None else f"probabilities ({kind})"
    )


def _nested(model: Any) -> Iterable[str]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield layer.name
            yield from _nested(layer)


def _with_kernel(graph: FlatGraph) -> list[FlatNode]:
    return [node for node in graph.nodes if getattr(node.layer, "kernel", None) is not None]


def _named(nodes: Iterable[FlatNode]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.name for node in nodes))


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(collections.Counter(words).most_common())


# What to type next


def _after_cure(file: str, target: str) -> tuple[str, ...]:
    if not file:
        return (f"ddq_tf.jobs.diagnose(model, target={target!r})  # after the cure",)
    return (shlex.join(["ddq", "doctor", file, f"--target={target}"]) + "  # after the cure",)


def _commands(
    file: str,
    target: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    *,
    is_known: bool,
) -> tuple[str, ...]:
    """What quantizes the model: without labels and with them; in Python if it reads no images."""
    if not file or not _takes_image(inputs) or len(outputs) > 1:
        return (
            f"ddq_tf.quantize_model(model, ddq_tf.DDQConfig(target={target!r}), calibration=inputs)"
            "  # in Python; the commands take files of models of one image and one output",
        )
    flags = [f"--target={target}", f"--out={Path(file).with_suffix('')}_ddq.keras"]
    if not is_known:
        flags.insert(0, "--input_range=LOW,HIGH")
    kinds = [("reconstruct", "images:FOLDER", "some hundred images, no labels")]
    if len(outputs[0].shape) == 2:
        kinds.append(("quantize", "folder:FOLDER", "a folder for each class; trains"))
    return tuple(
        f"{shlex.join(['ddq', name, file, f'--data={spec}', *flags])}  # {words}"
        for name, spec, words in kinds
    )
