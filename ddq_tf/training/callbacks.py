"""Keras callbacks that record what DDQ learns."""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.layers import weighted_layers


class BitwidthLogger(keras.callbacks.Callback):
    """Records the precision of every DDQ layer at the end of each epoch.

    Attributes:
        bits: per layer name, the bits in force after each epoch of the latest `fit`.
        average_bits: the mean over all weights after each epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits: dict[str, list[int]] = {}
        self.average_bits: list[float] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets an earlier training."""
        self.bits = {layer.name: [] for layer in self._layers()}
        self.average_bits = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Records the precisions in force."""
        used = total = 0
        for layer in self._layers():
            self.bits[layer.name].append(layer.num_bits)
            used += layer.num_bits * layer.quantizer.num_weights
            total += layer.quantizer.num_weights
        self.average_bits.append(used / max(total, 1))

    def _layers(self) -> list[Any]:
        return [] if self.model is None else weighted_layers(self.model)
