"""`quantize_model`: the one call from a float model to a DDQ model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.graph import FlatGraph, align, flatten
from ddq_tf.graph.affine import as_float64
from ddq_tf.graph.flatten import functional_of
from ddq_tf.graph.limits import narrow, problems
from ddq_tf.graph.relations import conflicts
from ddq_tf.search import DDQModel, weight_budget
from ddq_tf.targets import OpKind
from ddq_tf.transform.calibrate import calibrate, inputs_of
from ddq_tf.transform.canonical import WEIGHTED, canonical
from ddq_tf.transform.rebuild import rebuild
from ddq_tf.transform.separate import separate, separate_tied
from ddq_tf.transform.signs import make_gains_positive
from ddq_tf.transform.supported import problems_of


def quantize_model(
    model: keras.Model, config: DDQConfig | None = None, calibration: Any = None
) -> DDQModel:
    """Returns a DDQ model that starts from a float model's weights; the original stays as it is.

    Nested models are flattened. Every layer of the result is trainable, also where the original
    was frozen (a frozen kernel could not adapt to its levels); BatchNorms keep their flag. Set
    `trainable` afterwards to hold layers back.

    Args:
        model: a built Sequential or Functional Keras 3 model; nested ones too.
        config: target, budget and the rest.
        calibration: inputs as the model takes them: an array, or batches of them (a tf.data
            pipeline with or without labels); a few hundred are plenty. For several inputs each
            batch is a list or a dictionary of arrays.

    Returns:
        A `DDQModel` with calibrated ranges, at the highest precisions, to compile and fit.

    Raises:
        DDQError: before any work starts, if the model is unbuilt or subclassed, has unsupported
            layers (all are named) or NaN weights; if the calibration data is
            empty or does not fit; if the budget cannot be met. After calibration, if numbers are
            beyond what integer arithmetic takes.
    """
    config = config or DDQConfig()
    graph = canonical(flatten(model))
    _check_model(model, graph)
    batches = inputs_of(calibration, graph, config.calibration_images)
    quantized = _rebuilt(graph, config, model.name)
    quantized.float_outputs = tuple(functional_of(model).output_names)
    weight_budget(quantized, config)
    if not config.narrow_range:
        make_gains_positive(quantized)
    calibrate(quantized, batches, config.seed, config.activation_calibration)
    raise_all(f"model {model.name!r} cannot be quantized:", narrow(flatten(quantized)))
    align(quantized)
    stores_int4 = 4 in config.resolved_target.storage_bits[OpKind.DENSE]
    found = problems(flatten(quantized), stores_int4)
    raise_all(f"model {model.name!r} cannot be quantized:", found)
    return quantized


def _rebuilt(graph: FlatGraph, config: DDQConfig, name: str) -> DDQModel:
    """Returns the uncalibrated model, whose scales can meet all that operators ask of them."""
    graph = separate_tied(graph)
    quantized = rebuild(graph, config, name)
    places = conflicts(flatten(quantized))
    if not places:
        return quantized
    return rebuild(separate(graph, places), config, name)


def _check_model(model: keras.Model, graph: FlatGraph) -> None:
    """Raises one error for all that is wrong with a model."""
    raise_all(f"model {model.name!r} cannot be quantized:", problems_of(graph))
    if not any(isinstance(node.layer, WEIGHTED) for node in graph.nodes):
        raise DDQError(f"model {model.name!r} has no convolution or dense layer to quantize.")
    raise_all(f"weights of model {model.name!r} must be finite:", _not_finite(graph))


def _not_finite(graph: FlatGraph) -> list[str]:
    found = {}
    for node in graph.nodes:
        for variable in node.layer.weights:
            bad = int(np.sum(~np.isfinite(as_float64(variable))))
            if bad:
                found[variable.path] = (
                    f"layer {node.name!r}: {bad} of {int(np.prod(variable.shape))} values of "
                    f"{variable.name!r} are NaN or infinite"
                )
    return list(found.values())
