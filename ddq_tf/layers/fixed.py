"""Grids that no training moves: where TFLite fixes the scale of an operator's output."""

from __future__ import annotations

from typing import Any

import keras

from ddq_tf.errors import DDQError
from ddq_tf.quantizers.fake_quant import as_float32, fake_quantize

Tensor = Any


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQFixedGrid(keras.layers.Layer):
    """Rounds to a grid of 256 steps: real = scale * code, codes qmin..qmin + 255.

    Args:
        scale: of one step.
        qmin: the lowest code.
    """

    def __init__(self, scale: float, qmin: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not scale > 0 or not -255 <= qmin <= 0:
            raise DDQError(
                f"layer {self.name!r} needs scale > 0 and qmin in -255..0. "
                f"Received: scale={scale!r}, qmin={qmin!r}"
            )
        self.scale = float(scale)
        self.qmin = int(qmin)

    @property
    def qmax(self) -> int:
        """The highest code."""
        return self.qmin + 255

    def call(self, inputs: Tensor) -> Tensor:
        """Rounds and clips; the gradient passes where nothing is clipped."""
        return fake_quantize(
            inputs, as_float32(self.scale), as_float32(self.qmin), as_float32(self.qmax)
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "scale": self.scale, "qmin": self.qmin}
