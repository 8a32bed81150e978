"""The Keras callback that turns what the gates learn into precisions within the budget."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import logging

from ddq_tf.config import DDQConfig
from ddq_tf.layers import weighted_layers
from ddq_tf.search.allocate import allocate
from ddq_tf.search.budget import WeightBudget, weight_budget

_DESCENT = 0.7
_EXPLORE = 0.15
_UPDATES = 50


class PrecisionSearch(keras.callbacks.Callback):
    """Steers every layer's precision to the budget and freezes it before training ends.

    While it searches, layers visit neighbouring precisions at random, and their gates learn from
    the loss's gradient what each step of precision saves (see `quantizers.gates`). Fifty times
    over the search the limit sinks, from full precision to the budget after 70 % of it, and the
    choice that saves most loss within the limit comes into force. After `search_fraction` of the
    training the choice is final: exploration ends and the weights settle.

    `DDQModel.fit` adds it by itself. Works on whatever length `fit` was asked for; if training
    stops earlier, the choice is made then. Once final it stays: later `fit` calls train on.

    Args:
        config: the budget and how long to search.
    """

    def __init__(self, config: DDQConfig) -> None:
        super().__init__()
        self.config = config
        self._budget: WeightBudget | None = None
        self._started = False
        self._epoch = 0
        self._next_update = 0.0

    @property
    def _trained(self) -> Any:
        """The model in training; Keras sets it."""
        return self.model

    @property
    def _params(self) -> dict[str, Any]:
        """What `fit` was asked for; Keras sets it."""
        return self.params or {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets an earlier training."""
        self._started = False
        self._budget = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts exploring, unless the choice is final already.

        Not before the first epoch: only then have all callbacks restored what they saved.
        """
        self._epoch = epoch
        if not self._started:
            self._started = True
            self._next_update = 0.0
            if not is_frozen(self._trained):
                self._budget = weight_budget(self._trained, self.config)
            self._set_exploration(_EXPLORE)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Chooses anew when it is time."""
        if self._budget is None:
            return
        steps = self._params.get("steps") or np.inf
        progress = (self._epoch + batch / steps) / max(self._params.get("epochs") or 1, 1)
        searched = progress / self.config.search_fraction
        if searched >= 1:
            self._freeze()
        elif searched >= self._next_update:
            self._next_update = searched + 1 / _UPDATES
            self._choose(min(searched / _DESCENT, 1.0))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the average bits among the epoch's logs."""
        if logs is not None:
            budget = self._budget or weight_budget(self._trained, self.config)
            logs["weight_bits"] = budget.average_bits

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the choice final if training was too short to get there."""
        if self._budget is not None:
            self._freeze()

    def finish(self) -> None:
        """Makes the choice final, also if another callback has restored an earlier state since."""
        if not is_frozen(self._trained):
            self._budget = weight_budget(self._trained, self.config)
            self._freeze()

    def _choose(self, descent: float) -> None:
        """Brings the best choice within the present limit into force."""
        budget = self._budget
        if budget is None:
            return
        if budget.capacity_bits is None:
            limit = budget.full_bits
        else:
            limit = budget.full_bits + descent * (budget.capacity_bits - budget.full_bits)
        values = [
            np.concatenate([[0.0], np.cumsum(layer.quantizer.loss_saved())])
            for layer in budget.layers
        ]
        for layer, option in zip(budget.layers, allocate(values, budget.costs, limit), strict=True):
            layer.quantizer.choice.assign(option)

    def _freeze(self) -> None:
        """Makes the choice final."""
        self._choose(1.0)
        self._set_exploration(0.0)
        for layer in self._budget.layers if self._budget else ():
            layer.quantizer.frozen.assign(True)
        if self._budget is not None:
            logging.info(
                "precision is final: %.3f bits per weight, %d bytes",
                self._budget.average_bits,
                self._budget.used_bits // 8,
            )
        self._budget = None

    def _set_exploration(self, probability: float) -> None:
        for layer in self._budget.layers if self._budget else ():
            layer.quantizer.explore.assign(probability)


def is_frozen(model: keras.Model) -> bool:
    """Returns whether the choice of precisions is final."""
    return all(layer.quantizer.is_frozen for layer in weighted_layers(model))
