"""`quantize_model`: the one call from a float model to a DDQ model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from ddq_tf.arguments import check_is
from ddq_tf.backend import variables_of_one_name
from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.graph import FlatGraph, FlatNode, flatten
from ddq_tf.graph.inputs import Interface, examples_of
from ddq_tf.graph.origin import origin_of
from ddq_tf.grids import align
from ddq_tf.grids.limits import narrow, problems
from ddq_tf.grids.relations import conflicts
from ddq_tf.rules import Place, resolved
from ddq_tf.search import DDQModel, own_attributes, weight_budget
from ddq_tf.targets import Target
from ddq_tf.transform.calibrate import calibrate_activations, calibrate_kernels, tell_faint_columns
from ddq_tf.transform.canonical import canonical
from ddq_tf.transform.factors import separate_factors
from ddq_tf.transform.ranges import KnownRanges, Ranges, as_ranges
from ddq_tf.transform.rebuild import Rebuilt, blocks_of_own_precision, rebuild
from ddq_tf.transform.separate import separate, separate_tied
from ddq_tf.transform.signs import make_gains_positive
from ddq_tf.transform.supported import (
    Problem,
    problems_of,
    problems_of_values,
    problems_of_weights,
)


def quantize_model(
    model: keras.Model,
    config: DDQConfig | None = None,
    calibration: Any = None,
    *,
    ranges: Ranges | Mapping[str, tuple[float, float]] | None = None,
) -> DDQModel:
    """Returns a DDQ model that starts from a float model's weights; the original stays as it is.

    Nested models are flattened; subclassed models, custom layers and Lambdas are read by what their
    `call` calls in inference. What is frozen stays frozen: with `trainable=False`, before or
    after, a layer's kernel and bias keep their values and a BatchNorm its statistics, while the
    quantizers learn what suits them (unless `config.freeze_quantizers_of_frozen`, or
    `layer.quantizer.trainable=False`).

    Args:
        model: a built Keras 3 model: Sequential, Functional, or a subclass that was called once.
        config: target, budget and the rest.
        calibration: inputs as `fit` takes them: an array (a list or a dictionary of arrays for
            several inputs), or batches of them with or without labels (a tf.data pipeline, a
            PyDataset, a list, a generator, a function that returns one); a few hundred examples
            are plenty, and no more than `config.calibration_images` are read.
        ranges: what is known already, as of `ddq_tf.tfmot.from_tfmot`; it counts instead of
            calibration. A mapping from layers to (min, max) of what they write will do. Where it
            tells of all activations, no calibration data is needed.

    Returns:
        A `DDQModel` with calibrated ranges, at the highest precisions, to compile and fit.

    Raises:
        DDQError: before any work starts, if the model is unbuilt, has layers or operations that are
            not supported or cannot be read (all are named) or NaN weights; if the calibration data
            is empty or does not fit; if the budget cannot be met. After calibration, if numbers are
            beyond what integer arithmetic takes.
    """
    config = DDQConfig() if config is None else config
    check_is("config", config, DDQConfig, cure="; data goes to calibration")
    given = as_ranges(ranges)
    with in_float32(), variables_of_one_name():
        return _quantized(model, config, calibration, given)


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Layers that are made meanwhile compute in float32, whatever the global policy.

    Quantizers need it: half precision has fewer values between 0 and 1 than a grid of 8 bits needs
    to round as LiteRT does.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _quantized(model: keras.Model, config: DDQConfig, calibration: Any, ranges: Ranges) -> DDQModel:
    if isinstance(model, DDQModel):
        raise DDQError(
            f"model {model.name!r} is quantized already: train it on with fit, or pass the float "
            "model that it was made from"
        )
    flat, graph = examine(model, config.resolved_target).checked()
    config = dataclasses.replace(
        config, rules=resolved(config.rules, _kernels(graph), _outputs(graph))
    )
    attributes = own_attributes(model)
    interface = Interface(model)
    if calibration is None and ranges.say_nothing:
        raise DDQError(
            "calibration data is needed: pass some hundred inputs, as `fit` takes them, or ranges "
            "of all activations. Received: calibration=None"
        )
    batches = []
    if calibration is not None:
        examples = examples_of(calibration, interface, config.calibration_images)
        batches = [interface.packed(arrays) for arrays in examples]
    quantized, grids = rebuilt(graph, config, model)
    known = KnownRanges(ranges, flat, graph, grids)
    quantized.take_over(attributes)
    weight_budget(quantized, config)
    if calibration is None:
        known.check_whole(quantized)
    if not config.narrow_range:
        make_gains_positive(quantized)
    calibrate_kernels(quantized)
    calibrate_activations(quantized, batches, config.seed, config.activation_calibration)
    known.set_all(quantized)
    tell_faint_columns(quantized, batches)
    raise_all(f"model {model.name!r} cannot be quantized:", narrow(flatten(quantized)))
    align(quantized)
    found = problems(flatten(quantized), config.resolved_target)
    raise_all(f"model {model.name!r} cannot be quantized:", found)
    return quantized


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examination:
    """What can be told of a float model without data.

    Attributes:
        name: of the model.
        flat: its graph.
        graph: the canonical one; None where there are problems that stand in the way.
        problems: of its layers and inputs.
        broken: variables that are not finite.
        is_empty: whether there is no layer with a kernel.
    """

    name: str
    flat: FlatGraph
    graph: FlatGraph | None
    problems: list[Problem]
    broken: list[Problem]
    is_empty: bool

    def checked(self) -> tuple[FlatGraph, FlatGraph]:
        """Returns the flat and the canonical graph.

        Raises:
            DDQError: if the model cannot be quantized, with all that is wrong.
        """
        raise_all(f"model {self.name!r} cannot be quantized:", self.problems)
        if self.graph is None or self.is_empty:
            raise DDQError(f"model {self.name!r} has no convolution or dense layer to quantize.")
        raise_all(f"weights of model {self.name!r} must be finite:", self.broken)
        return self.flat, self.graph


def examine(model: keras.Model, target: Target) -> Examination:
    """Looks for all that is wrong with a float model, before any work starts.

    Args:
        model: built.
        target: where the file will run.

    Raises:
        DDQError: if the model's graph cannot be read.
    """
    flat = flatten(model)
    problems, broken, graph, is_empty = problems_of_weights(flat), [], None, False
    if not problems:
        graph = canonical(flat)
        problems = problems_of(graph, target)
        is_empty = not any(node.has_kernel for node in graph.nodes)
        broken = [] if problems else problems_of_values(graph)
    return Examination(
        name=model.name,
        flat=flat,
        graph=graph,
        problems=problems,
        broken=broken,
        is_empty=is_empty,
    )


def rebuilt(graph: FlatGraph, config: DDQConfig, model: keras.Model) -> Rebuilt:
    """Returns the uncalibrated model, whose scales can meet all that operators ask of them.

    Args:
        graph: canonical, and supported.
        config: of the DDQ model.
        model: the float model.
    """
    graph = separate_factors(separate_tied(graph))
    found = rebuild(graph, config, model)
    places = conflicts(flatten(found.model))
    return rebuild(separate(graph, places), config, model) if places else found


def _kernels(graph: FlatGraph) -> list[Place]:
    """The layers with a kernel, each once."""
    nodes = {node.name: node for node in graph.nodes if node.has_kernel}
    return [_place(node) for node in nodes.values()]


def _outputs(graph: FlatGraph) -> list[list[Place]]:
    """For each activation that may have other bits than 8 the layers that compute it."""
    return [[_place(node) for node in nodes] for nodes in blocks_of_own_precision(graph)]


def _place(node: FlatNode) -> Place:
    origin = origin_of(node.layer)
    return node.name, node.name if origin is node.layer else origin.name, origin
