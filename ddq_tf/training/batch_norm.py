"""BatchNorm re-estimation: moving statistics measured anew, for the weights as they ended."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import compiled
from ddq_tf.errors import DDQError
from ddq_tf.graph import as_float64
from ddq_tf.kinds import find_rule

_BATCHES = 100


class BatchNormReestimation(keras.callbacks.Callback):
    """Calls `reestimate_batch_norm` when `fit` ends, after the precisions are final.

    Args:
        batches: as `reestimate_batch_norm` takes them; as a rule the training data.
        num_batches: how many to use at most.
    """

    def __init__(self, batches: Iterable[Any], num_batches: int = _BATCHES) -> None:
        super().__init__()
        _check_count(num_batches)
        self.batches = batches
        self.num_batches = num_batches

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Measures the statistics."""
        model: Any = self.model
        reestimate_batch_norm(model, self.batches, self.num_batches)


def reestimate_batch_norm(
    model: keras.Model, batches: Iterable[Any], num_batches: int = _BATCHES
) -> int:
    r"""Replaces the moving statistics of every BatchNormalization by exact averages.

    The moving averages of training lag behind the weights, and quantized weights jump. Here each
    batch goes through the model with each BatchNorm on the batch's own statistics, everything
    else as in inference. Over batches b of n_b examples, with means m_b and variances v_b:
        mean     = sum n_b m_b / sum n_b
        variance = sum n_b (v_b + m_b^2) / sum n_b - mean^2    (law of total variance)
    So the first BatchNorm gets the statistics of all examples together. Nothing else moves; a
    BatchNorm with trainable=False keeps its statistics too.

    Args:
        model: any built Keras model.
        batches: of inputs, alone or as (inputs, labels); may be endless.
        num_batches: how many to use at most.

    Returns:
        How many BatchNormalizations were measured.

    Raises:
        DDQError: if there are no batches, or statistics are not finite; the model is then as it
            was.
    """
    _check_count(num_batches)
    layers = [layer for layer in _batch_norms(model) if layer.trainable]
    if not layers:
        return 0
    before = [[as_float64(v).copy() for v in _statistics(layer)] for layer in layers]
    try:
        after = _measured(model, layers, batches, num_batches)
    except BaseException:
        _assign(layers, before)
        raise
    _assign(layers, after)
    return len(layers)


def _measured(
    model: keras.Model, layers: list[Any], batches: Iterable[Any], num_batches: int
) -> list[list[np.ndarray]]:
    """The mean and variance of each layer over so many batches at most."""
    forward = compiled(lambda x: model(x, training=False), model.variables, num_batches)
    count = 0
    totals = [[np.zeros(v.shape), np.zeros(v.shape)] for v, _ in map(_statistics, layers)]
    with _own_statistics(layers):
        for batch in itertools.islice(batches, num_batches):
            inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
            inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
            forward(inputs)
            size = int(keras.tree.flatten(inputs)[0].shape[0])
            count += size
            for total, layer in zip(totals, layers, strict=True):
                mean, variance = (as_float64(v) for v in _statistics(layer))
                total[0] += size * mean
                total[1] += size * (variance + np.square(mean))
    if not count:
        raise DDQError("BatchNorm re-estimation needs at least one batch. Received: none")
    found = [[mean, square - np.square(mean)] for mean, square in _divided(totals, count)]
    odd = [
        layer.name
        for layer, values in zip(layers, found, strict=True)
        if not np.isfinite(values).all()
    ]
    if odd:
        raise DDQError(
            f"the statistics of {', '.join(odd)} are not finite: inputs or weights hold NaN or "
            "infinite values. The model stays as it was"
        )
    return [[mean, np.maximum(variance, 0)] for mean, variance in found]


def _divided(totals: list[list[np.ndarray]], count: int) -> list[list[np.ndarray]]:
    return [[part / count for part in total] for total in totals]


@contextlib.contextmanager
def fixed_statistics(layers: Iterable[Any]) -> Iterator[None]:
    """Keeps BatchNorms, dropouts and noise as in inference, also in training passes.

    BatchNorms normalize with their moving statistics, which stay; gamma and beta still learn.

    Args:
        layers: of a model without nesting; others among them stay as they are.
    """
    with _called_with([layer for layer in layers if _has_two_modes(layer)], training=False):
        yield


def _has_two_modes(layer: Any) -> bool:
    rule = find_rule(layer)
    return rule is not None and rule.has_two_modes


@contextlib.contextmanager
def _own_statistics(layers: list[Any]) -> Iterator[None]:
    """Lets BatchNorms use, and leave in their moving statistics, those of the present batch."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        with _called_with(layers, training=True):
            yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextlib.contextmanager
def _called_with(layers: list[Any], *, training: bool) -> Iterator[None]:
    """Lets layers hear only this of the two modes."""

    def deaf(call: Any) -> Any:
        def called(inputs: Any, **kwargs: Any) -> Any:
            return call(inputs, **{**kwargs, "training": training})

        return called

    for layer in layers:
        layer.call = deaf(layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call


def _batch_norms(model: keras.Model) -> list[Any]:
    """The BatchNormalizations of a model and of those within it, each once."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        inner = _batch_norms(layer) if isinstance(layer, keras.Model) else [layer]
        found.update({id(one): one for one in inner})
    return [one for one in found.values() if isinstance(one, keras.layers.BatchNormalization)]


def _statistics(layer: Any) -> tuple[Any, Any]:
    return layer.moving_mean, layer.moving_variance


def _assign(layers: list[Any], values: list[list[np.ndarray]]) -> None:
    for layer, pair in zip(layers, values, strict=True):
        for variable, value in zip(_statistics(layer), pair, strict=True):
            variable.assign(value)


def _check_count(num_batches: int) -> None:
    if num_batches < 1:
        raise DDQError(f"num_batches must be at least 1. Received: num_batches={num_batches!r}")
