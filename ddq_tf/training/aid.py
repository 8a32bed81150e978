"""What the training aids share."""

from __future__ import annotations

import math
from typing import Any

import keras

from ddq_tf.errors import DDQError
from ddq_tf.search import DDQModel


class TrainingAid(keras.callbacks.Callback):
    """A callback for the `fit` of a DDQ model that knows how far the training is."""

    def __init__(self) -> None:
        super().__init__()
        self._epoch = 0

    @property
    def ddq_model(self) -> DDQModel:
        """The model in training.

        Raises:
            DDQError: if it is no DDQ model.
        """
        model: Any = self.model
        if not isinstance(model, DDQModel):
            raise DDQError(
                f"{type(self).__name__} is for the models that quantize_model returns. "
                f"Received: {type(model).__name__}"
            )
        return model

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def progress(self, batch: int) -> float:
        """Returns the share of the training before a batch, in [0, 1].

        Where the number of steps is unknown, the share before its epoch.
        """
        params: dict[str, Any] = self.params or {}
        steps = params.get("steps") or math.inf
        return min((self._epoch + batch / steps) / max(params.get("epochs") or 1, 1), 1.0)


def cosine(start: float, end: float, progress: float) -> float:
    """Returns a value that goes from `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
