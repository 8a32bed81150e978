"""Activations that quantize their output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import ActivationQuantizer

Tensor = Any

ACTIVATION_KINDS = ("linear", "relu", "relu6")

SOFTMAX_SCALE = 1.0 / 256.0


Probe = Callable[[Tensor, Tensor], Tensor]


class Observer(Protocol):
    """Receives the float values of an activation while a model is being calibrated."""

    def __call__(self, values: Tensor, /) -> None:
        """Takes one batch."""


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQActivation(keras.layers.Layer):
    """A ReLU, clipped or not, or nothing; followed by quantization with a learned range.

    The clipping of the grid *is* the activation: an unsigned grid starts at 0 (ReLU), and a range
    kept at or below the ceiling ends where min(relu(x), ceiling) does. Only a signed grid (kind
    "linear") sees negatives.

    Args:
        kind: "linear", "relu" or "relu6".
        precisions: the precisions to learn over, ascending, each 2..8.
        signed: whether the grid is symmetric about 0; None for signed if kind is "linear".
        learned: whether the range is trained.
        ceiling: where a clipped ReLU ends, > 0; None for 6 if kind is "relu6", else for no ceiling.
        symmetric: whether a "linear" grid stays symmetric about 0 whatever the data, as that of the
            second factor of a `DDQMatmul` does.
        model_config: of the `DDQModel` that it is the first quantizer of, None for others: Keras
            makes clones of models from what layers tell.

    Attributes:
        observer: sees the float values, which then pass unquantized; or None.
        arrivals: sees what arrives at the same time, before the ReLU; or None.
        probe: sees inputs and quantized outputs, while something is measured, and returns what to
            go on with; or None.
    """

    arrivals: Observer | None = None
    probe: Probe | None = None

    def __init__(
        self,
        kind: str = "linear",
        precisions: Sequence[int] = (8,),
        signed: bool | None = None,
        learned: bool = True,
        ceiling: float | None = None,
        symmetric: bool = False,
        model_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_config = model_config
        if kind not in ACTIVATION_KINDS:
            raise DDQError(
                f"layer {self.name!r}: kind must be one of {ACTIVATION_KINDS}. "
                f"Received: kind={kind!r}"
            )
        if signed is None:
            signed = kind == "linear"
        if signed and kind != "linear":
            raise DDQError(
                f"layer {self.name!r}: {kind} has no negative values to give a signed grid. "
                "Received: signed=True"
            )
        if ceiling is None and kind == "relu6":
            ceiling = 6.0
        if ceiling is not None and not _fits(kind, ceiling):
            raise DDQError(
                f"layer {self.name!r}: ceiling must be a number > 0, with kind 'relu' (6 with "
                f"'relu6'). Received: ceiling={ceiling!r}, kind={kind!r}"
            )
        self.kind = kind
        self.ceiling = None if ceiling is None else float(ceiling)
        self.symmetric = symmetric
        self.quantizer = ActivationQuantizer(
            precisions, signed=signed, learned=learned, ceiling=ceiling, name="quantizer"
        )
        self.observer: Observer | None = None

    def build(self, input_shape: Any) -> None:
        """Builds the quantizer."""
        self.quantizer.build(input_shape)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None, lift: float = 0.0) -> Tensor:
        """Applies the activation and quantizes.

        Args:
            inputs: float32.
            training: whether the model trains.
            lift: share of a step that is added first. With values that are whole fractions of a
                step, less than half a fraction makes halves round up, as RESIZE_BILINEAR does.
        """
        if self.observer is None:
            if lift:
                inputs = inputs + lift * self.quantizer.scale(self.quantizer.selection(False))
            outputs = self.quantizer(inputs, training=training)
            return outputs if self.probe is None else self.probe(inputs, outputs)
        outputs = self._float_activation(inputs)
        self.observer(outputs)
        if self.arrivals is not None:
            self.arrivals(inputs)
        return outputs

    def _float_activation(self, inputs: Tensor) -> Tensor:
        """The activation without quantization."""
        if self.kind == "linear":
            return inputs
        outputs = ops.relu(inputs)
        return outputs if self.ceiling is None else ops.minimum(outputs, self.ceiling)

    def see(self, *, negatives: bool) -> None:
        """Gives a "linear" activation a signed grid where there are negatives."""
        if self.kind == "linear":
            self.quantizer.signed = negatives or self.symmetric

    @property
    def movable(self) -> ActivationQuantizer:
        """What the grid's step belongs to, and can be moved by."""
        return self.quantizer

    @property
    def step(self) -> np.float32:
        """The grid's step."""
        return self.quantizer.export_scale()

    def current_step(self) -> Tensor:
        """Returns the grid's step in inference, as a tensor of what is being computed."""
        return self.quantizer.current_step()

    @property
    def limits(self) -> tuple[int, int]:
        """The grid's smallest and largest code."""
        return self.quantizer.qmin, self.quantizer.qmax

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "kind": self.kind,
            "precisions": list(self.quantizer.precisions),
            "signed": self.quantizer.signed,
            "learned": self.quantizer.learned,
            "ceiling": self.ceiling,
            "symmetric": self.symmetric,
            "model_config": copy.deepcopy(self.model_config),
        }


def _fits(kind: str, ceiling: float) -> bool:
    return ceiling == 6 if kind == "relu6" else kind == "relu" and 0 < ceiling < float("inf")


@keras.saving.register_keras_serializable(package="ddq_tf")
def elu(x: Tensor) -> Tensor:
    """Returns x above 0, else e^x - 1, exactly also for tiny x, where Keras's own rounds coarsely.

    Args:
        x: float32, any shape.
    """
    return ops.where(x > 0, x, ops.expm1(ops.minimum(x, 0.0)))
