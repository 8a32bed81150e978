"""What weight and activation quantizers share: precisions, the one in force, and its gates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.quantizers import gates
from ddq_tf.quantizers.native import num_replicas, shared
from ddq_tf.scheme import check_precisions

Tensor = Any


class LearnedPrecision(keras.layers.Layer):
    """A quantizer that learns over several precisions, of which one is in force.

    With `channel_precision` each output channel has one of its own; gates do not learn those.

    Variables: `choice`, int32, index of the precision in force, a scalar or one for each channel;
    `active`, likewise, the one that training steps use: `choice`, or a neighbour that the search
    visits; `frozen`, whether the choice is final; `evidence` of the gates (see `quantizers.gates`),
    if there are several precisions.

    Args:
        precisions: ascending, each 2..8.

    Attributes:
        calls: how often the quantizer stands in the model that trains it.
    """

    calls = 1
    channel_precision = False

    def __init__(self, precisions: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.precisions = tuple(int(b) for b in precisions)
        check_precisions("precisions", self.precisions)

    def add_precision(self, shape: Sequence[int] = ()) -> None:
        """Creates the variables; the highest precision comes into force.

        Args:
            shape: of `choice`: () or that of the channels.
        """
        last = keras.initializers.Constant(len(self.precisions) - 1)
        for name in ("choice", "active"):
            variable = self.add_weight(
                name=name, shape=shape, dtype="int32", initializer=last, trainable=False
            )
            setattr(self, name, variable)
        self.frozen = self.add_weight(
            name="frozen", shape=(), dtype="bool", initializer="zeros", trainable=False
        )
        if len(self.precisions) > 1 and not self.channel_precision:
            self.evidence = self.add_weight(
                name="evidence",
                shape=(len(self.precisions) - 1, 2, 2),
                initializer="zeros",
                overwrite_with_gradient=True,
                aggregation="mean",  # over the replicas of a tf.distribute strategy
            )

    def selection(self, training: bool | None) -> Tensor:
        """Returns the precision of this pass: float32, (num_precisions, ...), one-hot.

        The other axes are those of `choice`.
        """
        index = self.active if training else self.choice
        axis = 0 if self.channel_precision else -1
        return ops.one_hot(index, len(self.precisions), axis=axis, dtype="float32")

    def with_gates(
        self,
        quantize: Callable[..., Tensor],
        selection: Tensor,
        tensors: Sequence[Tensor],
        prepare: Callable[..., Callable[..., Tensor]] | None = None,
    ) -> Tensor:
        """Returns quantize(selection, *tensors); backward, the gates learn until they are final.

        Args:
            quantize: from a selection and tensors to the tensor quantized at that precision.
            selection: as `selection` returns it.
            tensors: all that `quantize` computes with and that has a gradient, first what is
                quantized.
            prepare: from a function of tensors to that which is called, for example compiled; None
                for `shared`.
        """
        arguments: list[Tensor] = [selection]
        function = quantize
        if len(self.precisions) > 1 and not self.channel_precision:
            searching = ops.logical_not(ops.convert_to_tensor(self.frozen))
            arguments += [searching, ops.convert_to_tensor(self.evidence)]
            function = gates.Gated(quantize, self.calls, num_replicas())
        if prepare is None:
            return shared(function, len(arguments))(*arguments, *tensors)
        return prepare(function)(*arguments, *tensors)

    def choose(self, index: int | np.ndarray) -> None:
        """Brings precision number `index` into force; one for all channels, or one for each."""
        for variable in (self.choice, self.active):
            variable.assign(np.broadcast_to(np.asarray(index, np.int32), variable.shape))

    def visit(self, index: int) -> None:
        """Lets training steps use precision number `index` for now."""
        self.active.assign(index)

    @property
    def is_visiting(self) -> bool:
        """Whether training steps use another precision for now."""
        active = np.asarray(ops.convert_to_numpy(self.active))
        return bool(np.any(active != self.indices))

    @property
    def num_bits(self) -> int:
        """The precision in force; of several, the highest."""
        return int(np.max(self.bits))

    @property
    def mean_bits(self) -> float:
        """The precision in force, its mean over channels of equal size."""
        return float(np.mean(self.bits))

    @property
    def bits(self) -> np.ndarray:
        """The precisions in force: int, the shape of `choice`."""
        return np.array(self.precisions)[self.indices]

    @property
    def indices(self) -> np.ndarray:
        """Numbers of the precisions in force: int32, the shape of `choice`."""
        if len(self.precisions) == 1:  # asked for thousands of times: reading a variable takes long
            return np.zeros(self.choice.shape, np.int32)
        return np.asarray(ops.convert_to_numpy(self.choice))

    @property
    def is_frozen(self) -> bool:
        """Whether the choice of precision is final."""
        return bool(ops.convert_to_numpy(self.frozen))

    def loss_saved(self) -> np.ndarray:
        """Returns the loss that each next precision is estimated to save."""
        if len(self.precisions) == 1 or self.channel_precision:
            return np.zeros(len(self.precisions) - 1)
        return gates.loss_saved(np.asarray(ops.convert_to_numpy(self.evidence)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "precisions": list(self.precisions)}
