"""Numbers that stand beside activations, the same for every example: positions, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from ddq_tf.layers.formulas import MASKED

Tensor = Any


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQConstant(keras.layers.Layer):
    """A tensor of weights, the same for each example, as learned positions are.

    The quantizer behind it gives it a range of its own; a file holds its codes, INT8.

    Args:
        shape: without the batch.

    Attributes:
        value: the weights, float32, of this shape.
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(int(size) for size in shape)

    @classmethod
    def holding(cls, values: npt.ArrayLike, name: str, *, trainable: bool = True) -> DDQConstant:
        """Returns a layer that holds some values.

        Args:
            values: without the batch.
            name: of the layer.
            trainable: whether they learn.
        """
        layer = cls(np.shape(values), name=name, trainable=trainable)
        layer.build(None)
        layer.value.assign(values)
        return layer

    def build(self, input_shape: Any) -> None:
        """Creates the weights."""
        self.value = self.add_weight(name="value", shape=self.shape, initializer="zeros")
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the weights for as many examples as there are inputs."""
        examples: Any = ops.shape(inputs)
        return ops.broadcast_to(self.value, (examples[0], *self.shape))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the batch and `shape`."""
        return (input_shape[0], *self.shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "shape": list(self.shape)}


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQMask(keras.layers.Layer):
    """Puts what a softmax must not see far below everything else.

    Args:
        shape: of the mask, which broadcasts to the inputs', without the batch.

    Attributes:
        kept: bool, of this shape: what the softmax sees.
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(int(size) for size in shape)

    @classmethod
    def keeping(cls, kept: np.ndarray, name: str) -> DDQMask:
        """Returns a layer that keeps what is True.

        Args:
            kept: bool, without the batch.
            name: of the layer.
        """
        layer = cls(kept.shape, name=name)
        layer.build(None)
        layer.kept.assign(kept)
        return layer

    def build(self, input_shape: Any) -> None:
        """Creates the mask."""
        self.kept = self.add_weight(
            name="kept", shape=self.shape, dtype="bool", initializer="ones", trainable=False
        )
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Returns the inputs, -2^60 in the place of what is masked."""
        return ops.where(self.kept, inputs, MASKED)

    def below(self) -> np.ndarray:
        """Returns what a file adds: 0, and -2^60 where something is masked; float32."""
        kept: Any = ops.convert_to_numpy(self.kept)
        return np.where(kept, np.float32(0), np.float32(MASKED))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "shape": list(self.shape)}


def constant_layers(model: keras.Model) -> list[DDQConstant]:
    """Returns the model's layers that hold tensors of weights, in network order."""
    return [layer for layer in model.layers if isinstance(layer, DDQConstant)]
