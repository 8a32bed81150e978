"""Activations that a file computes in float, between two integer tensors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.layers.activation import SOFTMAX_SCALE
from ddq_tf.layers.formulas import FORMULAS, Formula, Value, softmax, steps_in_keras
from ddq_tf.quantizers.fake_quant import as_float32, fake_quantize

Tensor = Any


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQFunction(keras.layers.Layer):
    """One of `keras.activations` or `keras.ops`, in inference step by step as the file does.

    Training takes Keras's own activation, whose gradients are right also where a formula has a
    corner.

    Args:
        function: Keras's name, one of `formulas.FORMULAS`.
        arguments: of the function, by Keras's names.

    Attributes:
        formula: the steps.
    """

    def __init__(
        self, function: str, arguments: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if function not in FORMULAS:
            raise DDQError(
                f"layer {self.name!r}: function must be one of {sorted(FORMULAS)}. "
                f"Received: function={function!r}"
            )
        self.function = function
        self.arguments = dict(arguments or {})
        self.formula: Formula = functools.partial(FORMULAS[function], **self.arguments)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns the function's values, of the inputs' shape."""
        activation = getattr(keras.activations, self.function, None)
        if training and activation is not None:
            return activation(inputs, **self.arguments)
        return self.formula(Value(steps_in_keras, inputs)).tensor

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "function": self.function,
            "arguments": dict(self.arguments),
        }


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQSoftmax(keras.layers.Layer):
    """Softmax over the last axis; in inference on TFLite's fixed grid of 256 steps of 1/256.

    Training sees the float probabilities: a loss on the rounded ones has no gradient where a
    probability rounds to 0.

    With `rounds_powers`, the exponentials are rounded, so that results are the same everywhere
    (`ddq_tf.layers.formulas`).

    Args:
        rounds_powers: whether the file computes so, in float; otherwise the operator SOFTMAX does,
            which differs from machine to machine.

    Attributes:
        movable: None: nothing moves the grid.
        step: of the grid.
        limits: its smallest and largest code.
    """

    movable = None
    step = np.float32(SOFTMAX_SCALE)
    limits = (0, 255)

    def __init__(self, rounds_powers: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rounds_powers = rounds_powers

    def current_step(self) -> Tensor:
        """Returns the grid's step as a tensor."""
        return as_float32(SOFTMAX_SCALE)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Returns probabilities, of the inputs' shape."""
        if training or not self.rounds_powers:
            outputs = ops.softmax(inputs, axis=-1)
        else:
            outputs = softmax(Value(steps_in_keras, inputs)).tensor
        if training:
            return outputs
        return fake_quantize(outputs, as_float32(SOFTMAX_SCALE), as_float32(0), as_float32(255))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "rounds_powers": self.rounds_powers}
