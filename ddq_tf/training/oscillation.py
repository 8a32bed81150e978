r"""Weights that jump to and fro between two levels: dampening and freezing (Nagel et al., 2022).

Through the straight-through estimator a weight whose best value lies between two levels changes
sides again and again; BatchNorm statistics and loss then depend on the step at which training ends.
Both aids act once a layer's precision is final, and work for `uniform` and `free` levels alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.backend import compiled, sync
from ddq_tf.errors import DDQError, raise_all
from ddq_tf.layers import weighted_layers
from ddq_tf.quantizers import learned_range
from ddq_tf.quantizers.levels import FreeLevels
from ddq_tf.quantizers.native import num_replicas
from ddq_tf.quantizers.nearest import CODE_MAX
from ddq_tf.quantizers.selection import pick
from ddq_tf.search.callback import is_frozen
from ddq_tf.training.aid import TrainingAid, cosine

Tensor = Any


class OscillationDampening(TrainingAid):
    r"""Pulls weights to their levels, the more the longer the training.

    Adds to the loss of training steps
        lambda * sum over the weights of (clip(w, lowest level, highest level) - x_q)^2,
    x_q held fixed; lambda rises from 0 to `coefficient` along half a cosine. Clipped weights feel
    nothing. One step of plain SGD takes a weight the share 2 * lambda * learning rate of its way.

    Args:
        coefficient: of the sum, >= 0.
    """

    def __init__(self, coefficient: float) -> None:
        super().__init__()
        if not coefficient >= 0:
            raise DDQError(f"coefficient must be 0 or above. Received: {coefficient!r}")
        self.coefficient = coefficient
        self._strength = keras.Variable(0.0, trainable=False, dtype="float32")

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Changes the loss."""
        self.ddq_model.change_training_loss(self._change, [self._strength])

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Raises the coefficient."""
        sync(self.model)
        self._strength.assign(cosine(0.0, self.coefficient, self.progress(batch)))

    def _change(self, loss: Tensor, x: Any, outputs: Any, sample_weight: Any) -> Tensor:
        total = sum(_distance(layer) for layer in weighted_layers(self.ddq_model))
        strength: Any = ops.copy(self._strength)
        return loss + strength * total / num_replicas()


class OscillationFreezing(TrainingAid):
    r"""Holds weights that jump to and fro at the level where they are on average.

    Levels are counted upwards. In each step that it looks at, a weight oscillates if its level
    moves against the direction of its last move; with m the momentum,
        frequency <- m * [oscillates] + (1 - m) * frequency
        average   <- m * level number + (1 - m) * average.
    A weight whose frequency exceeds the threshold stays at level round(average) from then on, also
    when the range or the levels go on learning; the threshold falls from `first_threshold` to
    `threshold` along half a cosine over the training. A later `fit` starts anew; one that goes on
    after an interruption needs a `Checkpoint` with this among its companions.

    Args:
        threshold: of the frequency at the end of the training, in [0, 1].
        first_threshold: at its start; None for four times the last.
        momentum: m in (0, 1].
        every: looks at every so many batches, to save time; frequencies are then by looks. Frozen
            weights drift in between, and are back at their level wherever a model is evaluated or
            saved by `fit`.

    Attributes:
        frozen_share: of all weights, in [0, 1]; also among the epoch's logs as `frozen_weights`.
    """

    def __init__(
        self,
        threshold: float = 0.01,
        first_threshold: float | None = None,
        momentum: float = 0.01,
        every: int = 1,
    ) -> None:
        super().__init__()
        first = min(4 * threshold, 1.0) if first_threshold is None else first_threshold
        raise_all(
            "OscillationFreezing cannot work so:",
            [
                problem
                for problem, is_wrong in (
                    (f"threshold must lie in [0, 1], not {threshold!r}", not 0 <= threshold <= 1),
                    (
                        f"first_threshold must lie in [threshold, 1], not {first!r}",
                        not threshold <= first <= 1,
                    ),
                    (f"momentum must lie in (0, 1], not {momentum!r}", not 0 < momentum <= 1),
                    (f"every must be at least 1, not {every!r}", every < 1),
                )
                if is_wrong
            ],
        )
        self.threshold = threshold
        self.first_threshold = first
        self.momentum = momentum
        self.every = every
        self._trackers: list[_Tracker] = []
        self._look: Any = None
        self._hold: Any = None
        self._seen = 0

    @property
    def frozen_share(self) -> float:
        """Share of all weights that are frozen."""
        counts = [np.asarray(ops.convert_to_numpy(tracker.frozen)) for tracker in self._trackers]
        total = sum(count.size for count in counts)
        return sum(int(count.sum()) for count in counts) / total if total else 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets an earlier training."""
        _ = self.ddq_model
        self._trackers = []
        self._seen = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the levels, when it is time."""
        self._seen += 1
        if self._seen % self.every:
            return
        sync(self.model)
        if not self._trackers:
            if is_frozen(self.ddq_model):
                self._track()
            return
        threshold = cosine(self.first_threshold, self.threshold, self.progress(batch))
        self._look(ops.convert_to_tensor(threshold, "float32"))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Brings drifted weights back before they are evaluated."""
        self._hold_frozen()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Brings drifted weights back, and reports."""
        self._hold_frozen()
        if logs is not None:
            logs["frozen_weights"] = self.frozen_share

    def state(self) -> dict[str, np.ndarray]:
        """Returns what was seen of every weight, for `Checkpoint`."""
        kept = {
            f"{number}_{name}": np.asarray(ops.convert_to_numpy(variable))
            for number, tracker in enumerate(self._trackers)
            for name, variable in tracker.state.items()
        }
        return {**kept, "seen": np.array(self._seen)}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes up what `state` returned."""
        self._seen = int(state["seen"])
        if len(state) == 1:
            return
        self._track()
        for number, tracker in enumerate(self._trackers):
            for name, variable in tracker.state.items():
                variable.assign(state[f"{number}_{name}"])

    def _track(self) -> None:
        """Starts tracking every layer from the levels that it has now."""
        trackers = [_Tracker(layer, self.momentum) for layer in weighted_layers(self.ddq_model)]
        self._trackers = trackers
        used = [v for t in trackers for v in [*t.layer.variables, *t.state.values()]]
        self._look = compiled(lambda threshold: [t.look(threshold) for t in trackers], used)
        self._hold = compiled(lambda: [t.hold() for t in trackers], used)

    def _hold_frozen(self) -> None:
        if self._trackers and self.every > 1:
            self._hold()


class _Tracker:
    """The oscillations of one layer's weights; its precision is final."""

    def __init__(self, layer: Any, momentum: float) -> None:
        self.layer = layer
        self.momentum = momentum
        self.num_bits = layer.num_bits
        number, _ = self._levels()
        start = np.asarray(ops.convert_to_numpy(number))
        still = np.zeros_like(start)
        self.number, self.average, self.direction, self.frequency = (
            keras.Variable(values, trainable=False) for values in (start, start, still, still)
        )
        self.frozen = keras.Variable(np.zeros(start.shape, bool), trainable=False, dtype="bool")

    @property
    def state(self) -> dict[str, keras.Variable]:
        """All variables by name."""
        names = ("number", "average", "direction", "frequency", "frozen")
        return {name: getattr(self, name) for name in names}

    def look(self, threshold: Tensor) -> None:
        """Takes note of the levels, and freezes what oscillates more often than `threshold`."""
        number, values = self._levels()
        direction: Any = ops.copy(self.direction)
        move: Any = ops.sign(number - ops.copy(self.number))
        frozen: Any = ops.copy(self.frozen)
        frequency: Any = ops.copy(self.frequency)
        average: Any = ops.copy(self.average)
        oscillates: Any = ops.cast(move * direction < 0, "float32")
        m = self.momentum
        frequency = m * oscillates + (1 - m) * frequency
        average = ops.where(frozen, average, m * number + (1 - m) * average)
        frozen = ops.logical_or(frozen, frequency > threshold)
        self.frequency.assign(frequency)
        self.average.assign(average)
        self.direction.assign(ops.where(ops.not_equal(move, 0), move, direction))
        self.number.assign(number)
        self.frozen.assign(frozen)
        self._write(values)

    def hold(self) -> None:
        """Writes frozen weights back to their level."""
        self._write(self._levels()[1])

    def _levels(self) -> tuple[Tensor, Any]:
        return level_numbers(self.layer.quantizer, self.layer.kernel, self.num_bits)

    def _write(self, values: Tensor) -> None:
        """Gives frozen weights the value of their level.

        Args:
            values: from level numbers to weights.
        """
        held = values(ops.round(ops.copy(self.average)))
        kernel = self.layer.kernel
        kernel.assign(ops.where(ops.copy(self.frozen), held, ops.copy(kernel)))


def level_numbers(quantizer: Any, kernel: Any, num_bits: int) -> tuple[Tensor, Any]:
    """Returns which level each weight has, at the precision in force.

    Args:
        quantizer: the kernel's `WeightQuantizer`.
        kernel: the float kernel.
        num_bits: the precision in force, which must be final.

    Returns:
        numbers: float32, the kernel's shape: 0, 1, ... from the lowest level upwards. Of free
            levels that have snapped to one code, the lowest counts.
        values: the function from such numbers back to quantized weights.
    """
    step, codes = _grid(quantizer, quantizer.selection(False))
    code: Any = ops.round(quantizer(kernel, training=False) / step)
    if isinstance(quantizer.levels, FreeLevels):
        codes = codes[:: 2 ** (quantizer.precisions[-1] - num_bits)]
        numbers = ops.searchsorted(codes, ops.reshape(code, (-1,)))
        numbers = ops.cast(ops.reshape(numbers, code.shape), "float32")
    else:
        numbers = code - codes[0]
    return numbers, lambda chosen: ops.take(codes, ops.cast(chosen, "int32")) * step


def _distance(layer: Any) -> Tensor:
    """The dampening term of a layer: 0 until its precision is final."""
    quantizer = layer.quantizer
    step, codes = _grid(quantizer, quantizer.selection(False))
    kernel = ops.copy(layer.kernel)
    quantized = ops.stop_gradient(quantizer(kernel, training=False))
    lowest, highest = (ops.stop_gradient(code * step) for code in _ends(quantizer, codes))
    clipped: Any = ops.clip(kernel, lowest, highest)
    total: Any = ops.sum(ops.square(clipped - quantized))
    return ops.cast(quantizer.frozen, "float32") * total


def _grid(quantizer: Any, selection: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the step of the integer codes, and the levels' codes, ascending; some repeat."""
    alpha = learned_range(
        pick(selection, ops.convert_to_tensor(quantizer.base_range)),
        pick(selection, ops.convert_to_tensor(quantizer.log_range)),
    )
    levels = quantizer.levels
    if isinstance(levels, FreeLevels):
        codes = ops.round(pick(selection, levels.parameters()[0]) * float(CODE_MAX))
    else:
        qmin, qmax = _code_limits(levels, selection)
        counted: Any = ops.arange(2 * CODE_MAX + 1, dtype="float32")
        codes = ops.minimum(counted + ops.min(qmin), ops.max(qmax))
    return levels.rounding.scale(alpha, selection), codes


def _ends(quantizer: Any, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest code, of each channel where they differ."""
    if isinstance(quantizer.levels, FreeLevels):
        return codes[0], codes[-1]
    return _code_limits(quantizer.levels, quantizer.selection(False))


def _code_limits(levels: Any, selection: Tensor) -> tuple[Tensor, Tensor]:
    limits = (ops.convert_to_tensor(ends) for ends in (levels.qmin, levels.qmax))
    lowest, highest = (pick(selection, ends) for ends in limits)
    return lowest, highest
