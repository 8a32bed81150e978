"""Initial ranges from the float model's own values on calibration data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.graph import FlatGraph
from ddq_tf.layers import DDQActivation, activation_layers, weighted_layers
from ddq_tf.layers.activation import Observer
from ddq_tf.quantizers import optimal_activation_range, percentile_activation_range

_BATCH = 32
_VALUES_KEPT = 1 << 17
_LEAST_SHARE = 2.0**-14  # of what arrives at a ReLU, that its range spans


def _as_array(values: Any) -> np.ndarray:
    array: Any = ops.convert_to_numpy(values)
    return array


class _Sampler:
    """Keeps a random sample of a tensor's values, and its extremes."""

    def __init__(self, seed: int, per_batch: int) -> None:
        self._random = np.random.default_rng(seed)
        self._per_batch = per_batch
        self._parts: list[np.ndarray] = []

    def __call__(self, values: Any) -> None:
        flat = np.ravel(_as_array(values))
        self._parts.append(np.array([flat.min(), flat.max()]))
        if flat.size > self._per_batch:
            flat = flat[self._random.integers(0, flat.size, self._per_batch)]
        self._parts.append(flat.copy())

    @property
    def values(self) -> np.ndarray:
        """All that was kept."""
        return np.concatenate(self._parts)


def images_of(
    calibration: Any, input_shape: tuple[int | None, ...], limit: int
) -> list[np.ndarray]:
    """Returns calibration data as checked float32 batches.

    Args:
        calibration: an array of inputs, or an iterable of batches, each an array or a tuple whose
            first element is one (as tf.data pipelines and keras.utils.PyDataset give).
        input_shape: the model's input shape, None for what is free.
        limit: how many inputs to take at most.

    Raises:
        DDQError: if there are none, or one has the wrong shape or is not finite.
    """
    batches: list[np.ndarray] = []
    taken = 0
    for number, batch in enumerate(_batches(calibration)):
        images = np.asarray(batch[: limit - taken], np.float32)
        _check_batch(images, input_shape, number)
        batches.append(images)
        taken += len(images)
        if taken >= limit:
            break
    if not taken:
        raise DDQError(
            "calibration data is empty: at least one batch of inputs is required to choose the "
            "activation ranges. Received: none."
        )
    return batches


def inputs_of(calibration: Any, graph: FlatGraph, limit: int) -> list[Any]:
    """Returns calibration data for any number of inputs.

    Args:
        calibration: for one input as `images_of` takes it. For several, an iterable of batches:
            each a list of arrays or a dictionary by input name, or a tuple whose first element is
            one.
        graph: of the model.
        limit: how many examples to take at most.

    Returns:
        Batches as the model takes them.

    Raises:
        DDQError: as `images_of`.
    """
    if len(graph.inputs) == 1:
        return list(images_of(calibration, graph.input_shapes[0], limit))
    batches = [_in_order(batch, graph.input_names) for batch in _raw_batches(calibration)]
    columns = [
        images_of([batch[i] for batch in batches], shape, limit)
        for i, shape in enumerate(graph.input_shapes)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _raw_batches(calibration: Any) -> list[Any]:
    if isinstance(calibration, dict | str | bytes) or not hasattr(calibration, "__iter__"):
        raise DDQError(
            "calibration of a model with several inputs must be an iterable of batches, each a "
            f"list or dictionary of arrays. Received: {type(calibration).__name__}"
        )
    return list(calibration)


def _in_order(batch: Any, names: tuple[str, ...]) -> list[Any]:
    """The inputs in a batch, in the model's order."""
    if isinstance(batch, tuple) and isinstance(batch[0], list | tuple | dict):
        batch = batch[0]
    if isinstance(batch, dict):
        batch = [batch.get(name) for name in names]
    if not isinstance(batch, list | tuple) or len(batch) != len(names):
        raise DDQError(
            f"a calibration batch must hold the inputs {', '.join(names)}. "
            f"Received: {type(batch).__name__}"
        )
    if any(part is None for part in batch):
        missing = [name for name, part in zip(names, batch, strict=True) if part is None]
        raise DDQError(f"a calibration batch lacks the inputs {', '.join(missing)}.")
    return list(batch)


def _batches(calibration: Any) -> Iterator[Any]:
    if calibration is None or isinstance(calibration, str | bytes | int | float):
        raise DDQError(
            "calibration must be an array of inputs or an iterable of batches. "
            f"Received: {calibration!r}"
        )
    if isinstance(calibration, np.ndarray) or ops.is_tensor(calibration):
        array = _as_array(calibration)
        for start in range(0, len(array) if array.ndim else 0, _BATCH):
            yield array[start : start + _BATCH]
        return
    source: Iterable[Any] = calibration
    if not hasattr(source, "__iter__") and hasattr(source, "__getitem__"):
        source = (calibration[i] for i in range(len(calibration)))
    for batch in source:
        yield batch[0] if isinstance(batch, tuple | list) else batch


def _check_batch(images: np.ndarray, input_shape: tuple[int | None, ...], number: int) -> None:
    wanted = input_shape[1:]
    fits = images.ndim == len(input_shape) and all(
        w is None or w == g for w, g in zip(wanted, images.shape[1:], strict=True)
    )
    if not fits:
        raise DDQError(
            f"calibration batch {number} needs the shape (batch, "
            f"{', '.join('any' if d is None else str(d) for d in wanted)}). "
            f"Received: {images.shape}. Batches come first: pass dataset.batch(32), not single "
            "images."
        )
    if not np.isfinite(images).all():
        raise DDQError(f"calibration batch {number} holds NaN or infinite values.")


def calibrate(model: keras.Model, batches: list[Any], seed: int, method: str) -> None:
    """Sets every range of a DDQ model: weights by their kernels, activations by the data.

    The data passes through the float network (quantizers off), so that no range depends on the
    order of layers. A "linear" activation that never went below 0 gets an unsigned grid.

    Args:
        model: a DDQ model with its weights in place.
        batches: inputs, as `inputs_of` returns them.
        seed: for sampling values.
        method: of activations, "mse" or "percentile".

    Raises:
        DDQError: if an activation is not finite on the data.
    """
    for layer in weighted_layers(model):
        layer.quantizer.calibrate(ops.convert_to_numpy(layer.kernel))
    samplers, arrived = _observe(model, batches, seed)
    broken = [name for name, s in samplers.items() if not np.isfinite(s.values).all()]
    if broken:
        raise DDQError(
            "activations must be finite on the calibration data; check the input's range and the "
            f"weights. Received NaN or infinite values first at layer {broken[0]!r}."
        )
    for layer in activation_layers(model):
        values = samplers[layer.name].values
        _set_activation_range(layer, values, arrived[layer.name].largest, method)


class _Magnitude:
    """Keeps the greatest magnitude of what it sees."""

    largest = 0.0

    def __call__(self, values: Any) -> None:
        self.largest = max(self.largest, float(np.abs(_as_array(values)).max(initial=0.0)))


def _observe(
    model: keras.Model, batches: list[Any], seed: int
) -> tuple[dict[str, _Sampler], dict[str, _Magnitude]]:
    """Runs the float network; returns what each activation showed, and what arrived at it."""
    per_batch = max(_VALUES_KEPT // len(batches), 256)
    layers = activation_layers(model)
    samplers = {layer.name: _Sampler(seed + i, per_batch) for i, layer in enumerate(layers)}
    arrived = {layer.name: _Magnitude() for layer in layers}
    with float_network(model, samplers):
        for layer in layers:
            layer.arrivals = arrived[layer.name]
        for batch in batches:
            model(batch, training=False)
    return samplers, arrived


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
    if layer.kind == "linear":
        quantizer.signed = bool(values.min() < 0)
    if not values.any():
        # Nothing but zeros: of what arrived, should it live again.
        quantizer.set_range(min(arrived or 1.0, quantizer.ceiling or np.inf))
    elif not quantizer.learned:
        quantizer.set_range(_input_range(values, quantizer.qmax))
    else:
        least = min(arrived * _LEAST_SHARE, quantizer.ceiling or np.inf)
        limits = [quantizer.limits(bits) for bits in quantizer.precisions]
        ranges = (
            [percentile_activation_range(values)] * len(limits)
            if method == "percentile"
            else [optimal_activation_range(values, *pair) for pair in limits]
        )
        quantizer.set_range([max(each, least) for each in ranges])


def _input_range(values: np.ndarray, qmax: int) -> float:
    """The range of a model's input: all of the data; for images in 0..255 exactly these bytes."""
    low, high = float(values.min()), float(values.max())
    if qmax == 255 and low >= 0 and 127 < high <= 255:
        return 255.0
    return max(abs(low), abs(high))
