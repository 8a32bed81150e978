"""A Keras callback that records what DDQ learns."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import need_tensorflow
from ddq_tf.layers import activation_layers, weighted_layers

_RECORDED = (
    "bits",
    "errors",
    "ranges",
    "levels",
    "activation_bits",
    "activation_ranges",
    "average_bits",
)


class QuantizerLogger(keras.callbacks.Callback):
    """Records every layer's quantizer at the end of each epoch.

    The weights' `quantization_error`, the mean over all of them, is among the epoch's logs too, and
    so in the history.

    Args:
        log_dir: where to write scalars for TensorBoard too (needs TensorFlow), or None.

    Attributes:
        bits: by layer, the precision in force (the mean, if channels have their own) after each
            epoch of the latest `fit`.
        errors: by layer, sum (w - x_q)^2 / sum w^2 over its kernel.
        ranges: by layer, the mean over its channels of the range in force.
        levels: by layer, the levels in force in units of the range, ascending.
        activation_bits: by activation layer, the precision in force.
        activation_ranges: by activation layer, the range in force.
        average_bits: mean bits per weight after each epoch.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if log_dir is not None:
            need_tensorflow("what TensorBoard reads", "Leave log_dir out")
        self.log_dir = log_dir
        self._writer: Any = None
        self._forget()

    def _forget(self) -> None:
        self.bits: dict[str, list[float]] = {}
        self.errors: dict[str, list[float]] = {}
        self.ranges: dict[str, list[float]] = {}
        self.levels: dict[str, list[list[float]]] = {}
        self.activation_bits: dict[str, list[int]] = {}
        self.activation_ranges: dict[str, list[float]] = {}
        self.average_bits: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets an earlier training."""
        self._forget()
        if self.log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(os.fspath(self.log_dir))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records what is in force."""
        model: Any = self.model
        used = total = 0
        error = power = 0.0
        for layer in weighted_layers(model):
            quantizer = layer.quantizer
            lost, whole = _squares(layer)
            _append(self.bits, layer, quantizer.mean_bits)
            _append(self.errors, layer, lost / whole if whole else 0.0)
            _append(self.ranges, layer, float(quantizer.range_in_force().mean()))
            _append(self.levels, layer, [float(v) for v in quantizer.levels_in_force()])
            used += quantizer.mean_bits * quantizer.num_weights
            total += quantizer.num_weights
            error, power = error + lost, power + whole
        for layer in activation_layers(model):
            quantizer = layer.quantizer
            _append(self.activation_bits, layer, quantizer.num_bits)
            _append(self.activation_ranges, layer, float(quantizer.export_scale()) * quantizer.qmax)
        self.average_bits.append(used / max(total, 1))
        if logs is not None:
            logs["quantization_error"] = error / power if power else 0.0
        if self._writer is not None:
            self._write(epoch)

    def state(self) -> dict[str, np.ndarray]:
        """Returns what was recorded, for `Checkpoint`."""
        text = json.dumps({name: getattr(self, name) for name in _RECORDED})
        return {"recorded": np.frombuffer(text.encode(), np.uint8)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up what `state` returned."""
        for name, values in json.loads(bytes(state["recorded"]).decode()).items():
            setattr(self, name, values)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Closes the files for TensorBoard."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, epoch: int) -> None:
        import tensorflow as tf

        series = {
            "bits": self.bits,
            "quantization_error": self.errors,
            "range": self.ranges,
            "activation_bits": self.activation_bits,
            "activation_range": self.activation_ranges,
        }
        # Not tf.summary.scalar: that needs TensorBoard, which only those who look need.
        summary = tf.compat.v1.Summary()
        for kind, by_layer in series.items():
            for name, values in by_layer.items():
                summary.value.add(tag=f"{kind}/{name}", simple_value=values[-1])
        with self._writer.as_default():
            tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=epoch)
        self._writer.flush()


def _append(series: dict[str, list[Any]], layer: Any, value: Any) -> None:
    series.setdefault(layer.name, []).append(value)


def _squares(layer: Any) -> tuple[float, float]:
    """Returns sum (w - x_q)^2 and sum w^2 of a layer's kernel."""
    kernel = np.asarray(ops.convert_to_numpy(layer.kernel), np.float64)
    quantized = layer.quantizer(layer.kernel, training=False)
    quantized = np.asarray(ops.convert_to_numpy(quantized), np.float64)
    return float(np.sum(np.square(kernel - quantized))), float(np.sum(np.square(kernel)))
