"""Trainings that become NaN stop at once, with the last good state."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import sync
from ddq_tf.errors import DDQError

_NAMED = 5
_CHUNK = 1 << 24  # values


class FiniteGuard(keras.callbacks.Callback):
    """Stops `fit` at the first batch whose loss, or epoch whose weights, are NaN or infinite.

    Weights and optimizer are then what they were when the epoch began. `DDQModel.fit` adds it,
    unless it is given a `keras.callbacks.TerminateOnNaN`.

    Args:
        labels: as `fit` takes them, to tell which are not finite.

    Raises:
        DDQError: in `fit`, with the batch, or the layers.
    """

    def __init__(self, labels: Any = None) -> None:
        super().__init__()
        self._labels = labels
        self._epoch = 0
        self._kept: list[tuple[Any, np.ndarray]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps a copy of weights and optimizer."""
        trained: Any = self.model
        self._epoch = epoch
        variables = [*trained.variables, *trained.optimizer.variables]
        self._kept = [(v, np.array(ops.convert_to_numpy(v))) for v in variables]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or np.isfinite(loss):
            return
        why = "; ".join(not_finite(self._labels, "labels")) or (
            "its inputs, labels or sample weights hold NaN or infinite values, or the steps are "
            "too large (lower the learning rate, or clip gradients)"
        )
        self._stop(f"the loss became {loss} in batch {batch} of epoch {self._epoch}", why)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the weights: quantizers clip what is infinite, so the loss may not tell."""
        trained: Any = self.model
        layers = [
            layer.name
            for layer in trained.layers
            if not all(
                np.isfinite(np.asarray(ops.convert_to_numpy(v))).all() for v in layer.weights
            )
        ]
        if layers:
            self._stop(
                f"weights of the layers {', '.join(map(repr, layers))} became NaN or infinite in "
                f"epoch {epoch}",
                "the steps are too large (lower the learning rate, or clip gradients)",
            )

    def _stop(self, what: str, why: str) -> None:
        sync(self.model)
        for variable, value in self._kept:
            variable.assign(value)
        raise DDQError(f"{what} (counted from 0): {why}. The model is as it was before this epoch")


def nan_unless_finite(loss: Any, inputs: Any) -> Any:
    """Returns the loss, or NaN if inputs are not finite: their quantizers clip what they get.

    Args:
        loss: a scalar tensor.
        inputs: an array, or arrays, of a batch.
    """
    floats = [ops.convert_to_tensor(x) for x in keras.tree.flatten(inputs) if _is_float(x)]
    finite = [ops.all(ops.isfinite(x)) for x in floats]
    return ops.where(ops.all(ops.stack(finite)), loss, np.nan) if finite else loss


def _is_float(x: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))


def check_inputs(inputs: Any) -> None:
    """Raises DDQError if arrays for `fit` hold NaN or infinite values; other data pass."""
    found = not_finite(inputs, "inputs")
    if found:
        raise DDQError(f"training inputs must be finite. Received: {'; '.join(found)}")


def not_finite(data: Any, words: str) -> list[str]:
    """Says which examples of float arrays in memory are not finite.

    Args:
        data: an array, or a list or a dictionary of arrays; anything else is not looked at.
        words: what they are.
    """
    if isinstance(data, dict):
        return [line for k, v in data.items() for line in not_finite(v, f"{words}[{k!r}]")]
    if isinstance(data, list | tuple) and all(isinstance(v, np.ndarray) for v in data):
        return [line for k, v in enumerate(data) for line in not_finite(v, f"{words}[{k}]")]
    if not isinstance(data, np.ndarray) or isinstance(data, np.memmap):
        return []
    if data.dtype.kind != "f" or not data.size:
        return []
    rows = max(_CHUNK * len(data) // data.size, 1)
    parts = (data[start : start + rows] for start in range(0, len(data), rows))
    finite = np.concatenate([np.isfinite(p).reshape(len(p), -1).all(axis=1) for p in parts])
    bad = np.flatnonzero(~finite)
    if not bad.size:
        return []
    more = f" and {bad.size - _NAMED} more" if bad.size > _NAMED else ""
    return [
        f"{words} of example {', '.join(map(str, bad[:_NAMED]))}{more} are NaN or infinite, "
        f"of {len(data)} examples"
    ]
