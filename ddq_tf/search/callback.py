"""The Keras callback that turns what the gates learn into precisions within the budget."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import logging

from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.search.budget import PrecisionBudget, activation_budget, weight_budget
from ddq_tf.search.choose import best_choice

_DESCENT = 0.7
_EXPLORE = 0.15
_UPDATES = 50


class PrecisionSearch(keras.callbacks.Callback):
    """Steers every layer's precision to the budget and freezes it before training ends.

    While it searches, layers visit neighbouring precisions at random, and their gates learn from
    the loss's gradient what each step of precision saves (see `quantizers.gates`). Fifty times
    over the search the limit sinks, from full precision to the budget after 70 % of it, and the
    choice that saves most loss within the limit comes into force. After `search_fraction` of the
    training the choice is final: exploration ends and the weights settle. Weights and activations
    have budgets of their own.

    `DDQModel.fit` adds it by itself. Works on whatever length `fit` was asked for; if training
    stops earlier, the choice is made then. Once final it stays: later `fit` calls train on.

    Args:
        config: the budgets and how long to search.
    """

    def __init__(self, config: DDQConfig) -> None:
        super().__init__()
        self.config = config
        self._budgets: list[PrecisionBudget] = []
        self._started = False
        self._epoch = 0
        self._next_update = 0.0
        self._random = np.random.default_rng(config.seed)
        self._visiting: list[Any] = []

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
        self._budgets = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts searching, unless the choice is final already.

        Not before the first epoch: only then have all callbacks restored what they saved.
        """
        self._epoch = epoch
        self._random = np.random.default_rng((self.config.seed, epoch))
        if not self._started:
            self._started = True
            self._next_update = 0.0
            if not is_frozen(self._trained):
                self._budgets = _budgets(self._trained, self.config)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Chooses anew when it is time, and sends some layers to a neighbouring precision."""
        if not self._budgets:
            return
        steps = self._params.get("steps") or np.inf
        progress = (self._epoch + batch / steps) / max(self._params.get("epochs") or 1, 1)
        searched = progress / self.config.search_fraction
        if searched >= 1:
            self._freeze()
            return
        if searched >= self._next_update:
            self._next_update = searched + 1 / _UPDATES
            self._choose(min(searched / _DESCENT, 1.0))
        self._visit()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the average bits among the epoch's logs."""
        if logs is None:
            return
        logs["weight_bits"] = weight_budget(self._trained, self.config).average_bits
        activations = activation_budget(self._trained, self.config)
        if activations is not None:
            logs["activation_bits"] = activations.average_bits

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the choice final if training was too short to get there."""
        if self._budgets:
            self._freeze()

    def finish(self) -> None:
        """Makes the choice final, also if another callback has restored an earlier state since."""
        if not is_frozen(self._trained):
            self._budgets = _budgets(self._trained, self.config)
            self._freeze()

    def _choose(self, descent: float) -> None:
        """Brings the best choice within the present limits into force."""
        for budget in self._budgets:
            losses = [
                -np.concatenate([[0.0], np.cumsum(layer.quantizer.loss_saved())])[:, None]
                for layer in budget.layers
            ]
            options = best_choice(budget, losses, descent)
            for layer, option in zip(budget.layers, options, strict=True):
                layer.quantizer.choose(option.item())
        self._visiting = []

    def _visit(self) -> None:
        """Draws which layers use a neighbouring precision in this step."""
        for quantizer in self._visiting:
            quantizer.visit(int(quantizer.choice))
        layers = [layer for budget in self._budgets for layer in budget.layers]
        draws = self._random.random((len(layers), 2))
        self._visiting = []
        for layer, (draw, side) in zip(layers, draws, strict=True):
            quantizer = layer.quantizer
            neighbour = int(quantizer.choice) + (-1 if side < 0.5 else 1)
            if draw < _EXPLORE and 0 <= neighbour < len(quantizer.precisions):
                quantizer.visit(neighbour)
                self._visiting.append(quantizer)

    def _freeze(self) -> None:
        """Makes the choice final."""
        self._choose(1.0)
        for quantizer in _quantizers(self._trained):
            quantizer.frozen.assign(True)
        for budget in self._budgets:
            logging.info(
                "precision is final: %.3f bits per value, %d bytes",
                budget.average_bits,
                budget.used_bits // 8,
            )
        self._budgets = []


def is_frozen(model: keras.Model) -> bool:
    """Returns whether the choice of precisions is final."""
    return all(quantizer.is_frozen for quantizer in _quantizers(model))


def _quantizers(model: keras.Model) -> list[Any]:
    return [layer.quantizer for layer in [*weighted_layers(model), *activation_layers(model)]]


def _budgets(model: keras.Model, config: DDQConfig) -> list[PrecisionBudget]:
    by_channel = [q.path for q in _quantizers(model) if q.channel_precision]
    if by_channel:
        raise DDQError(
            f"fit learns one precision per layer. Received: channel_precision=True at "
            f"{', '.join(map(repr, by_channel))}. Let ddq_tf.reconstruct_model learn those of "
            "channels first; its models can train on."
        )
    weights, activations = weight_budget(model, config), activation_budget(model, config)
    return [weights] if activations is None else [weights, activations]
