"""Data as users have it, as checked batches of a model's inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.graph.functional import functional_of, input_names

_BATCH = 32


class Interface:
    """What a model takes: names, shapes and structure of its inputs.

    Args:
        model: built, or what `functional_of` returned for it.
    """

    def __init__(self, model: Any) -> None:
        functional = functional_of(model)
        self.structure = input_structure(functional)
        self.names = input_names(functional)
        self.shapes = tuple(tuple(tensor.shape) for tensor in functional.inputs)

    def packed(self, arrays: Sequence[Any]) -> Any:
        """Returns one array for each input in the structure that the model takes."""
        return keras.tree.pack_sequence_as(self.structure, list(arrays))

    def arrays(self, batch: Any) -> list[Any]:
        """Returns the inputs in a batch, in the model's order.

        Args:
            batch: an array, a list, or a dictionary by the names of the inputs or by the keys of
                the model's own; or a tuple that starts with one, as (inputs, labels).

        Raises:
            DDQError: if it holds other inputs.
        """
        if isinstance(batch, tuple) and not (self._is_own(batch) and len(self.names) > 1):
            batch = batch[0]
        if isinstance(batch, tuple | list) and len(self.names) == 1:
            batch = batch[0]
        if isinstance(batch, Mapping):
            return self._by_name(batch)
        if len(self.names) == 1:
            return [batch]
        if not self._is_own(batch):
            raise DDQError(
                f"a batch must hold the inputs {', '.join(self.names)}: a list of "
                f"{len(self.names)} arrays, or a dictionary. Received: {_described(batch)}"
            )
        return list(batch)

    def _is_own(self, batch: Any) -> bool:
        """Whether a sequence holds one array for each input."""
        return (
            isinstance(batch, tuple | list)
            and len(batch) == len(self.names)
            and all(_is_array(part) for part in batch)
            and all(
                len(np.shape(part)) == len(shape)
                for part, shape in zip(batch, self.shapes, strict=True)
            )
        )

    def _by_name(self, batch: Mapping[str, Any]) -> list[Any]:
        own = isinstance(self.structure, dict) and set(self.structure) <= set(batch)
        if own:
            return keras.tree.flatten({key: batch[key] for key in self.structure})
        missing = [name for name in self.names if name not in batch]
        if missing:
            raise DDQError(
                f"a batch lacks the inputs {', '.join(missing)}. Received: {', '.join(batch)}"
            )
        return [batch[name] for name in self.names]

    def is_data_set(self, data: Any) -> bool:
        """Returns whether arrays hold all examples at once, as `fit` takes them.

        A tuple is (inputs, labels) or (inputs, labels, weights).
        """
        if self._is_inputs(data):
            return True
        return isinstance(data, tuple) and 1 < len(data) <= 3 and self._is_inputs(data[0])

    def _is_inputs(self, data: Any) -> bool:
        if isinstance(data, Mapping) or _is_array(data):
            return True
        return len(self.names) > 1 and self._is_own(data)


def input_structure(functional: Any) -> Any:
    """Returns a model's inputs as it takes them; a list of one, as Sequential has, is bare."""
    given = functional.input
    return given[0] if isinstance(given, list | tuple) and len(given) == 1 else given


def examples_of(data: Any, interface: Interface, limit: int) -> list[list[np.ndarray]]:
    """Returns examples as checked float32 batches: for each, one array per input.

    Args:
        data: all examples at once, as `fit` takes them: an array, or a list or dictionary of arrays
            for several inputs, or a tuple that starts with these and goes on with labels; or
            batches of all this: a tf.data pipeline, a
            keras.utils.PyDataset, a list, a generator, also without end; or a function that returns
            such a generator, as tf.lite's representative_dataset.
        interface: of the model.
        limit: how many examples to take at most; no more batches than that needs are read.

    Raises:
        DDQError: if there are none, or one has the wrong shape or is not finite.
    """
    found: list[list[np.ndarray]] = []
    taken = 0
    for number, batch in enumerate(batches_of(data, interface)):
        columns = interface.arrays(batch)
        rows = [x[: limit - taken] if x.ndim else x for x in map(as_array, columns)]
        arrays = checked(rows, interface, f"calibration batch {number}")
        found.append(arrays)
        taken += len(arrays[0])
        if taken >= limit:
            break
    if not taken:
        raise DDQError(
            "calibration data is empty: at least one batch of inputs is required to choose the "
            "activation ranges. Received: none."
        )
    return found


def as_array(values: Any) -> np.ndarray:
    """Returns the values of an array or a tensor of any backend."""
    array: Any = ops.convert_to_numpy(values)
    return array


def batches_of(given: Any, interface: Interface) -> Iterator[Any]:
    """Returns batches as `Interface.arrays` takes them.

    Args:
        given: see `examples_of`.
        interface: of the model.

    Raises:
        DDQError: if it is no data.
    """
    data: Any = given
    if not hasattr(data, "__iter__") and not hasattr(data, "__getitem__"):
        data = data() if callable(data) else data
    if data is None or isinstance(data, str | bytes | int | float):
        raise DDQError(
            f"data must be an array of inputs or an iterable of batches. Received: {data!r}"
        )
    if interface.is_data_set(data):
        return _sliced(interface.arrays(data), interface)
    if not hasattr(data, "__iter__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))
    if not hasattr(data, "__iter__"):
        raise DDQError(
            "data must be an array of inputs or an iterable of batches. "
            f"Received: {_described(data)}"
        )
    batches: Iterable[Any] = data
    return iter(batches)


def _sliced(columns: Sequence[Any], interface: Interface) -> Iterator[list[np.ndarray]]:
    arrays = [as_array(column) for column in columns]
    for start in itertools.count(0, _BATCH):
        rows = [array[start : start + _BATCH] if array.ndim else array for array in arrays]
        if any(row.ndim == 0 for row in rows) or not any(len(row) for row in rows):
            return
        yield rows if len(interface.names) > 1 else rows[0]  # type: ignore[misc]


def in_parts(batch: Any, size: int) -> Iterator[Any]:
    """Yields a batch, of any structure, in parts of `size` examples; the last may have fewer."""
    for start in range(0, len(keras.tree.flatten(batch)[0]), size):
        yield keras.tree.map_structure(lambda x, start=start: x[start : start + size], batch)


def checked(columns: Sequence[Any], interface: Interface, label: str) -> list[np.ndarray]:
    """Returns the inputs of a batch as float32 arrays.

    Args:
        columns: one array for each input.
        interface: of the model.
        label: what errors call the batch.

    Raises:
        DDQError: if they are no finite numbers, or do not fit the model.
    """
    kinds = [np.asarray(column).dtype for column in columns]
    try:
        if any(kind.kind in "cSU" for kind in kinds):
            raise TypeError("numpy would drop a part of complex numbers, and read words")
        arrays = [np.asarray(column, np.float32) for column in columns]
    except (TypeError, ValueError) as error:
        raise DDQError(
            f"{label} must hold numbers. Received: arrays of type {', '.join(map(str, kinds))}"
        ) from error
    _check_batch(arrays, interface, label)
    return arrays


def _check_batch(arrays: Sequence[np.ndarray], interface: Interface, label: str) -> None:
    several = len(arrays) > 1
    for array, shape, name in zip(arrays, interface.shapes, interface.names, strict=True):
        where = label + (f", input {name!r}," if several else "")
        wanted = shape[1:]
        fits = array.ndim == len(shape) and all(
            w is None or w == g for w, g in zip(wanted, array.shape[1:], strict=True)
        )
        if not fits:
            raise DDQError(
                f"{where} needs the shape (batch, "
                f"{', '.join('any' if d is None else str(d) for d in wanted)}). "
                f"Received: {array.shape}. Batches come first: pass dataset.batch(32), not single "
                "images."
            )
        if not np.isfinite(array).all():
            raise DDQError(f"{where} holds NaN or infinite values.")
    sizes = {name: len(array) for name, array in zip(interface.names, arrays, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DDQError(f"{label} needs as many examples of each input. Received: {sizes}")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or bool(ops.is_tensor(value))


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__
