"""What no training moves: grids that TFLite fixes, and the rescaling of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.quantizers.fake_quant import as_float32, fake_quantize

Tensor = Any


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQFixedGrid(keras.layers.Layer):
    """Rounds to a grid of 256 steps: real = scale * code, codes qmin..qmin + 255.

    Args:
        scale: of one step.
        qmin: the lowest code.

    Attributes:
        movable: None: nothing moves the grid.
    """

    movable = None

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

    @property
    def step(self) -> np.float32:
        """The grid's step."""
        return np.float32(self.scale)

    def current_step(self) -> Tensor:
        """Returns the grid's step as a tensor."""
        return as_float32(self.scale)

    @property
    def limits(self) -> tuple[int, int]:
        """The grid's smallest and largest code."""
        return self.qmin, self.qmax

    def call(self, inputs: Tensor, lift: float = 0.0) -> Tensor:
        """Rounds and clips; the gradient passes where nothing is clipped.

        Args:
            inputs: float32.
            lift: share of a step that is added first; see `DDQActivation.call`.
        """
        if lift:
            inputs = inputs + np.float32(lift * self.scale)
        return fake_quantize(
            inputs, as_float32(self.scale), as_float32(self.qmin), as_float32(self.qmax)
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "scale": self.scale, "qmin": self.qmin}


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQRescaling(keras.layers.Layer):
    """`keras.layers.Rescaling` per channel: gain * x + shift.

    The two are variables that training leaves alone, so that `grids.align` can move them a little.

    Args:
        gain: one number, or one for each channel.
        shift: likewise.
    """

    def __init__(self, gain: npt.ArrayLike, shift: npt.ArrayLike = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._initial = (np.ravel(gain).tolist(), np.ravel(shift).tolist())

    def build(self, input_shape: Any) -> None:
        """Creates the variables."""
        self.gain, self.shift = (
            self.add_weight(
                name=name, shape=(input_shape[-1],), initializer="zeros", trainable=False
            )
            for name in ("gain", "shift")
        )
        for variable, values in zip((self.gain, self.shift), self._initial, strict=True):
            variable.assign(np.broadcast_to(np.float32(values), variable.shape))
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        """Multiplies and shifts."""
        return inputs * ops.convert_to_tensor(self.gain) + ops.convert_to_tensor(self.shift)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        gain, shift = self._initial
        return {**super().get_config(), "gain": gain, "shift": shift}


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQSlice(keras.layers.Layer):
    """A part of each example: `size` values from `begin` on, along every axis but the batch.

    Args:
        begin: for each axis the place of the first value.
        size: for each axis how many.
    """

    def __init__(self, begin: Sequence[int], size: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.begin, self.size = [int(n) for n in begin], [int(n) for n in size]

    def call(self, inputs: Tensor) -> Tensor:
        """Cuts."""
        rows = zip(self.begin, self.size, strict=True)
        return inputs[(slice(None), *(slice(start, start + size) for start, size in rows))]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the batch and `size`."""
        return (input_shape[0], *self.size)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "begin": self.begin, "size": self.size}


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQBorderGain(keras.layers.Layer):
    """Multiplies pixels by how many of a window's k^2 values lie within the image: k^2 / count.

    Behind a mean that counts the padding it gives the mean of what is no padding.

    Args:
        rows: for each row of the image, how many of the window's rows lie within.
        columns: likewise.
        pool_size: the window's height and width.
    """

    def __init__(
        self,
        rows: Sequence[int],
        columns: Sequence[int],
        pool_size: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows, self.columns, self.pool_size = list(rows), list(columns), list(pool_size)
        counts = np.outer(self.rows, self.columns)
        multiple = int(np.lcm.reduce(counts.ravel()))
        codes = multiple // counts
        divisor = int(np.gcd.reduce(codes.ravel()))
        self.codes = (codes // divisor).reshape(1, *counts.shape, 1)
        self.scale = float(np.prod(self.pool_size)) * divisor / multiple

    @property
    def has_codes(self) -> bool:
        """Whether the factors are multiples, within INT8, of one step."""
        return int(self.codes.max()) <= 127

    def call(self, inputs: Tensor) -> Tensor:
        """Multiplies."""
        return inputs * ops.convert_to_tensor(np.float32(self.codes * self.scale))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "rows": self.rows,
            "columns": self.columns,
            "pool_size": self.pool_size,
        }
