"""The Keras callback that turns what the gates learn into precisions within the budget."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import logging

from ddq_tf.backend import sync
from ddq_tf.config import DDQConfig
from ddq_tf.errors import DDQError
from ddq_tf.layers import activation_layers, weighted_layers
from ddq_tf.search.budget import PrecisionBudget, activation_budget, weight_budget
from ddq_tf.search.calls import count_calls
from ddq_tf.search.choose import best_choice
from ddq_tf.search.monitors import Monitors

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
    have budgets of their own, weights also one of time, which sinks with that of bytes; layers
    whose quantizers are not trainable keep their precision.

    `DDQModel.fit` adds it by itself. Works on whatever length `fit` was asked for; if training
    stops earlier, the choice is made then. Once final it stays: later `fit` calls train on. All of
    its state is in the model's weights, so a training that goes on from saved weights, as with
    `keras.callbacks.BackupAndRestore`, makes the same choices.

    In a loop of one's own:

        search = PrecisionSearch(model.ddq_config)
        search.start(model, steps=epochs * len(batches))
        for x, y in ...:
            search.step()
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_variables))
        search.finish()

    Args:
        config: the budgets and how long to search.

    Attributes:
        monitors: the callbacks that compare epochs, which wait until the choice is final.
    """

    def __init__(self, config: DDQConfig) -> None:
        super().__init__()
        self.monitors = Monitors()
        self.config = config
        self._budgets: list[PrecisionBudget] = []
        self._started = False
        self._epoch = 0
        self._steps = self._taken = 0
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

    # In a loop of one's own

    def start(self, model: keras.Model, steps: int, taken: int = 0) -> None:
        """Begins a training in a loop of one's own.

        Args:
            model: a DDQ model.
            steps: how many the whole training takes.
            taken: how many of them are over, for a training that goes on from saved weights.

        Raises:
            DDQError: if there are no steps, or the budget is impossible.
        """
        if not 0 <= taken < steps:
            raise DDQError(
                f"the search needs 0 <= taken < steps. Received: taken={taken!r}, steps={steps!r}"
            )
        count_calls(model)
        self.set_model(model)
        self._steps, self._taken = steps, taken
        self._begin()

    def step(self) -> None:
        """To be called before each training step: brings precisions into force for it.

        Raises:
            DDQError: if `start` was not called.
        """
        if not self._steps:
            raise DDQError("search.step() needs search.start(model, steps=...) before it")
        self._random = np.random.default_rng((self.config.seed, self._taken))
        self._advance(self._taken / self._steps, (self._taken - 1) / self._steps)
        self._taken += 1

    def finish(self) -> None:
        """Makes the choice final, also if another callback has restored an earlier state since."""
        if not is_frozen(self._trained):
            self._budgets = _budgets(self._trained, self.config)
            self._freeze()

    # In fit

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
            self._begin()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Chooses anew when it is time, and sends some layers to a neighbouring precision."""
        self._advance(self._progress(batch), self._progress(batch - 1))

    def _progress(self, batch: int) -> float:
        """The share of the training that is over at the begin of a batch."""
        steps = self._params.get("steps")
        part = batch / steps if steps else min(batch, 0)
        return (self._epoch + part) / max(self._params.get("epochs") or 1, 1)

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

    # Both

    def _begin(self) -> None:
        self._budgets, self._visiting = [], []
        if not is_frozen(self._trained):
            self._budgets = _budgets(self._trained, self.config)
            self._visiting = [q for q in _quantizers(self._trained) if q.is_visiting]
            self.monitors.hold()

    def _advance(self, progress: float, before: float) -> None:
        """What a step asks for, from the shares of the training at its begin and one step ago."""
        if not self._budgets:
            return
        sync(self._trained)
        searched, searched_before = (p / self.config.search_fraction for p in (progress, before))
        if searched >= 1:
            self._freeze()
            return
        if np.floor(searched * _UPDATES) > np.floor(searched_before * _UPDATES):
            self._choose(min(searched / _DESCENT, 1.0))
        self._visit()

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
            quantizer.visit(int(quantizer.indices))
        layers = [layer for budget in self._budgets for layer in budget.layers]
        draws = self._random.random((len(layers), 2))
        self._visiting = []
        for layer, (draw, side) in zip(layers, draws, strict=True):
            quantizer = layer.quantizer
            neighbour = int(quantizer.indices) + (-1 if side < 0.5 else 1)
            if draw < _EXPLORE and 0 <= neighbour < len(quantizer.precisions):
                quantizer.visit(neighbour)
                self._visiting.append(quantizer)

    def _freeze(self) -> None:
        """Makes the choice final."""
        self._choose(1.0)
        for quantizer in _quantizers(self._trained):
            quantizer.frozen.assign(True)
        self._budgets = []
        self.monitors.release()
        weights = weight_budget(self._trained, self.config)
        logging.info(
            "precision is final: %.3f bits per weight, %d bytes%s",
            weights.average_bits,
            weights.used_bits // 8,
            f", {weights.used_ns / 1e3:.1f} us predicted" if weights.times_ns else "",
        )


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
    budgets = weight_budget(model, config), activation_budget(model, config)
    return [budget.of_learning_layers() for budget in budgets if budget is not None]
