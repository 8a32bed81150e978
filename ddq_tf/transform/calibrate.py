"""Initial ranges from the float model's own values on calibration data."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import compiled
from ddq_tf.errors import DDQError
from ddq_tf.graph import flatten
from ddq_tf.graph.inputs import Interface, as_array, in_parts
from ddq_tf.layers import DDQActivation, activation_layers, examples_at_once, weighted_layers
from ddq_tf.layers.activation import Observer
from ddq_tf.layers.weighted import rounds_activations
from ddq_tf.quantizers import optimal_activation_range, percentile_activation_range

_VALUES_KEPT = 1 << 17
_FEWEST_STEPS = 4  # that a column of an input moves by without a warning
_LEAST_SHARE = 2.0**-14  # of what arrives at a ReLU, that its range spans


class _Sampler:
    """Keeps a random sample of a tensor's values, and its extremes.

    In one piece: small ones, kept between large tensors, would hold those tensors' memory.
    """

    def __init__(self, seed: int, per_batch: int, batches: int) -> None:
        self._random = np.random.default_rng(seed)
        self._per_batch = per_batch
        self._room = np.empty(batches * (per_batch + 2), np.float32)
        self._count = 0

    def __call__(self, values: Any) -> None:
        flat = np.ravel(as_array(values))
        ends = flat.min(), flat.max()
        if flat.size > self._per_batch:
            flat = flat[self._random.integers(0, flat.size, self._per_batch)]
        end = self._count + len(flat) + 2
        if end > len(self._room):  # of a layer that is called several times
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._count : end] = np.append(ends, flat)
        self._count = end

    @property
    def values(self) -> np.ndarray:
        """All that was kept."""
        return self._room[: self._count]


def calibrate_kernels(model: keras.Model) -> None:
    """Sets the ranges of all kernels of a DDQ model, with its weights in place."""
    for layer in weighted_layers(model):
        layer.quantizer.calibrate(ops.convert_to_numpy(layer.kernel))


def calibrate_activations(model: keras.Model, batches: list[Any], seed: int, method: str) -> None:
    """Sets the ranges of all activations of a DDQ model by the data; without data, none.

    The data passes through the float network (quantizers off), so that no range depends on the
    order of layers. A "linear" activation that never went below 0 gets an unsigned grid.

    Args:
        model: a DDQ model with its weights in place.
        batches: inputs, as the model takes them; may be none.
        seed: for sampling values.
        method: of activations, "mse" or "percentile".

    Raises:
        DDQError: if an activation is not finite on the data.
    """
    if not batches:
        return
    samplers, arrived = _observe(model, batches, seed)
    broken = [name for name, s in samplers.items() if not np.isfinite(s.values).all()]
    if broken:
        raise DDQError(
            "activations must be finite on the calibration data; check the input's range and the "
            f"weights. Received NaN or infinite values first at layer {broken[0]!r}."
        )
    for layer in activation_layers(model):
        values = samplers[layer.name].values
        _set_activation_range(layer, values, arrived[layer.name], method)


def tell_faint_columns(model: keras.Model, batches: list[Any]) -> None:
    """Warns of columns of an input that vary on the data, but hardly by a step of its grid.

    A model's input has one scale for all its columns; a Normalization behind it cannot bring back
    what was rounded away.

    Args:
        model: a DDQ model with calibrated ranges.
        batches: the calibration data.
    """
    if not batches:
        return
    graph, interface = flatten(model), Interface(model)
    rows = zip(*map(interface.arrays, batches), strict=True)
    for tensor, name, arrays in zip(graph.inputs, interface.names, rows, strict=True):
        node = graph.sole_consumer(tensor)
        if node is None or not rounds_activations(node.layer):
            continue
        columns = arrays[0].shape[-1] if arrays[0].ndim > 1 else 1
        flat = [np.asarray(array, np.float32).reshape(-1, columns) for array in arrays]
        highest = np.max([x.max(axis=0) for x in flat], axis=0)
        lowest = np.min([x.min(axis=0) for x in flat], axis=0)
        steps = (highest - lowest) / float(node.layer.step)
        faint = np.flatnonzero((steps > 0) & (steps < _FEWEST_STEPS))
        if faint.size:
            warnings.warn(
                f"input {name!r}: {faint.size} of {steps.size} columns (the first is number "
                f"{faint[0]}) vary by less than {_FEWEST_STEPS} steps of {node.layer.step:.3g} on "
                "the calibration data: the file hardly sees them. An input has one scale for all "
                "its columns, so bring them to like ranges before the model, and a Normalization "
                "out of it",
                stacklevel=4,
            )


def _observe(
    model: keras.Model, batches: list[Any], seed: int
) -> tuple[dict[str, _Sampler], dict[str, float]]:
    """Runs the float network; returns what each activation showed, and what arrived at it.

    Of the latter, the greatest magnitude.
    """
    layers = activation_layers(model)
    count = len(_in_parts(model, batches))
    per_batch = max(_VALUES_KEPT // count, 256)
    samplers = {layer.name: _Sampler(seed + i, per_batch, count) for i, layer in enumerate(layers)}
    arrived = dict.fromkeys(samplers, 0.0)

    def look(values: Any, arriving: Any) -> tuple[Any, Any]:
        return values, ops.max(ops.abs(arriving))

    for seen in observed(model, batches, layers, look):
        for name, calls in seen.items():
            for values, largest in calls:
                samplers[name](values)
                arrived[name] = max(arrived[name], float(largest))
    return samplers, arrived


def observed(
    model: keras.Model,
    batches: Sequence[Any],
    layers: Sequence[DDQActivation],
    look: Callable[[Any, Any], Any],
) -> Iterator[dict[str, list[Any]]]:
    """Passes batches through the float network, part by part, and yields what is seen on the way.

    Parts are small, so that all that is seen at once does not take too much memory.

    Args:
        model: a DDQ model.
        batches: inputs, as the model takes them.
        layers: that are looked at.
        look: what is to be seen of the values of a layer, and of what arrives before its ReLU.

    Yields:
        By name of a layer, what `look` returned each time that the layer was called.
    """
    values: dict[str, list[Any]] = {layer.name: [] for layer in layers}
    arriving: dict[str, list[Any]] = {layer.name: [] for layer in layers}

    def run(batch: Any) -> dict[str, list[Any]]:
        for tensors in (*values.values(), *arriving.values()):
            tensors.clear()
        with float_network(model, {name: tensors.append for name, tensors in values.items()}):
            for layer in layers:
                layer.arrivals = arriving[layer.name].append
            model(batch, training=False)
        return {
            name: [look(*pair) for pair in zip(tensors, arriving[name], strict=True)]
            for name, tensors in values.items()
        }

    parts = _in_parts(model, batches)
    watch = compiled(run, model.variables, num_calls=len(parts))
    for batch in parts:
        yield watch(keras.tree.map_structure(ops.convert_to_tensor, batch))


def _in_parts(model: keras.Model, batches: Sequence[Any]) -> list[Any]:
    """Cuts batches into smaller ones."""
    size = examples_at_once(model)
    return [part for batch in batches for part in in_parts(batch, size)]


@contextlib.contextmanager
def float_network(
    model: keras.Model, observers: Mapping[str, Observer] | None = None
) -> Iterator[None]:
    """Switches all quantizers of a DDQ model off: it computes what the float model does.

    What is traced meanwhile, as in a tf.function, stays float.

    Args:
        model: a DDQ model.
        observers: by name of an activation layer, what sees its values.
    """
    layers = activation_layers(model)
    try:
        for layer in layers:
            layer.observer = (observers or {}).get(layer.name, _ignore)
        for layer in weighted_layers(model):
            layer.quantizer.bypass = True
        yield
    finally:
        for layer in layers:
            layer.observer = layer.arrivals = None
        for layer in weighted_layers(model):
            layer.quantizer.bypass = False


def _ignore(values: Any) -> None:
    """An observer that does not look."""


def _set_activation_range(
    layer: DDQActivation, values: np.ndarray, arrived: float, method: str
) -> None:
    quantizer = layer.quantizer
    layer.see(negatives=bool(values.min() < 0))
    if not values.any():
        # Nothing but zeros: of what arrived, should it live again.
        quantizer.set_range(min(arrived or 1.0, quantizer.ceiling or np.inf))
    elif not quantizer.learned:
        quantizer.set_range(input_range(values, quantizer.qmax))
    else:
        least = min(arrived * _LEAST_SHARE, quantizer.ceiling or np.inf)
        limits = [quantizer.limits(bits) for bits in quantizer.precisions]
        ranges = (
            [percentile_activation_range(values)] * len(limits)
            if method == "percentile"
            else [optimal_activation_range(values, *pair) for pair in limits]
        )
        quantizer.set_range([max(each, least) for each in ranges])


def input_range(values: np.ndarray, qmax: int) -> float:
    """Returns the range of an input: all of the data; for images in 0..255 exactly these bytes."""
    low, high = float(values.min()), float(values.max())
    if qmax == 255 and low >= 0 and 127 < high <= 255:
        return 255.0
    return max(abs(low), abs(high))
