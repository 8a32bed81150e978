"""The weight quantizer: learned range per channel and precision, learned precision per tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.errors import DDQError
from ddq_tf.quantizers import gates
from ddq_tf.quantizers.calibration import max_weight_range, optimal_weight_range
from ddq_tf.quantizers.fake_quant import fake_quantize
from ddq_tf.quantizers.grid import signed_qmax
from ddq_tf.quantizers.ranges import learned_range

Tensor = Any


@keras.saving.register_keras_serializable(package="ddq_tf")
class WeightQuantizer(keras.layers.Layer):
    r"""Fake-quantizes a kernel to one of several uniform precisions.

    Forward, at the precision b in force, per output channel:
        x_q = s * clip(round(w / s), -n, n),   n = 2^(b-1) - 1,   s = alpha_b / n,
        alpha_b = learned_range(base_b, log_range_b)
    with one range per precision (see `quantizers.ranges`), since fewer levels want a tighter one.
    Ranges of more than 4 bits learn (7/n)^2 times slower: the rounding error that a better range
    can save falls as 1/n^2, and what remains of their gradient is noise.

    Variables: `log_range`, trainable, and `base_range`, both (num_precisions, *channel_shape);
    `evidence` of the gates (see `quantizers.gates`); `choice`, int32, index of the precision in
    force; `explore`, the probability of visiting a neighbouring precision in a training step;
    `frozen`, whether the choice is final.

    Args:
        precisions: ascending, each 2..8.
        channel_axes: how many trailing axes of the kernel tell the output channels.
        seed: for exploration.
    """

    def __init__(
        self,
        precisions: Sequence[int] = (4, 8),
        channel_axes: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.precisions = tuple(int(b) for b in precisions)
        if not self.precisions or list(self.precisions) != sorted(set(self.precisions)):
            raise DDQError(f"precisions must ascend. Received: precisions={precisions!r}")
        if self.precisions[0] < 2 or self.precisions[-1] > 8:
            raise DDQError(f"precisions must lie in 2..8. Received: precisions={precisions!r}")
        self.channel_axes = channel_axes
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.bypass = False

    def build(self, kernel_shape: Sequence[int]) -> None:
        """Creates the variables for a kernel of this shape."""
        self.kernel_shape = tuple(int(d) for d in kernel_shape)
        channels = self.kernel_shape[len(self.kernel_shape) - self.channel_axes :]
        shape = (len(self.precisions), *channels)
        self.log_range = self.add_weight(name="log_range", shape=shape, initializer="zeros")
        self.base_range = self.add_weight(
            name="base_range", shape=shape, initializer="ones", trainable=False
        )
        if len(self.precisions) > 1:
            self.evidence = self.add_weight(
                name="evidence",
                shape=(len(self.precisions) - 1, 2, 2),
                initializer="zeros",
                overwrite_with_gradient=True,
            )
        self.choice = self.add_weight(
            name="choice",
            shape=(),
            dtype="int32",
            initializer=keras.initializers.Constant(len(self.precisions) - 1),
            trainable=False,
        )
        self.explore = self.add_weight(
            name="explore", shape=(), initializer="zeros", trainable=False
        )
        self.frozen = self.add_weight(
            name="frozen", shape=(), dtype="bool", initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, kernel: Tensor, training: bool | None = None) -> Tensor:
        """Returns the fake-quantized kernel; float32, the kernel's shape."""
        kernel = ops.copy(kernel)  # a tensor: custom gradients take no variables
        if self.bypass:
            return kernel
        rounded = self._quantize(kernel)
        if len(self.precisions) == 1:
            return rounded[0]
        index = self._visited(self.choice) if training else self.choice
        selection = ops.one_hot(index, len(self.precisions), dtype="float32")
        if training:
            selection = gates.gate(selection, ops.convert_to_tensor(self.evidence))
        return ops.tensordot(selection, rounded, axes=1)

    def _quantize(self, kernel: Tensor) -> Tensor:
        """The kernel at all precisions, stacked along a new axis 0: fewer, larger operations."""
        rank = len(self.kernel_shape)
        channels = tuple(self.log_range.shape[1:])
        shape = (len(self.precisions), *(1,) * (rank - len(channels)), *channels)
        scale = ops.reshape(self._scale(), shape)
        limits: Tensor = ops.reshape(self._qmax(), (-1, *(1,) * rank))
        stacked = ops.stack([kernel] * len(self.precisions))
        return fake_quantize(stacked, scale, ops.negative(limits), limits)

    def _qmax(self) -> Tensor:
        """The largest code of each precision, float32."""
        return ops.convert_to_tensor([float(signed_qmax(b)) for b in self.precisions], "float32")

    def _scale(self) -> Tensor:
        """The scale of each precision and channel; float32, the shape of `log_range`."""
        per_precision = (-1, *(1,) * (len(self.base_range.shape) - 1))
        qmax = np.array([signed_qmax(b) for b in self.precisions], np.float32)
        speed = np.minimum(1.0, np.square(7 / qmax)).reshape(per_precision)
        alpha = learned_range(self.base_range, self.log_range, speed)
        return alpha * np.reciprocal(qmax).reshape(per_precision)

    def _visited(self, choice: Tensor) -> Tensor:
        """The precision of this training step: the one in force, or by chance a neighbour."""
        draw = keras.random.uniform((2,), seed=self.seed_generator)
        step = ops.where(draw[1] < 0.5, -1, 1)
        moved = ops.clip(choice + ops.cast(step, "int32"), 0, len(self.precisions) - 1)
        return ops.where(draw[0] < self.explore, moved, ops.convert_to_tensor(choice))

    def calibrate(self, kernel: np.ndarray, *, method: str = "mse") -> None:
        """Sets the ranges for this kernel.

        Args:
            kernel: float32, the kernel's shape.
            method: "mse" for the least squared error per channel and precision, "max" for the
                largest magnitude.
        """
        channel_shape = self.log_range.shape[1:]
        flat = np.asarray(kernel).reshape(-1, int(np.prod(channel_shape)))
        if method == "mse":
            ranges = [optimal_weight_range(flat, bits) for bits in self.precisions]
        else:
            ranges = [max_weight_range(flat)] * len(self.precisions)
        self.base_range.assign(np.stack(ranges).reshape(self.base_range.shape))
        self.log_range.assign(np.zeros(self.log_range.shape, np.float32))

    @property
    def num_bits(self) -> int:
        """The precision in force."""
        return self.precisions[int(self.choice)]

    @property
    def is_frozen(self) -> bool:
        """Whether the choice of precision is final."""
        return bool(ops.convert_to_numpy(self.frozen))

    @property
    def num_weights(self) -> int:
        """How many weights the kernel has."""
        return int(np.prod(self.kernel_shape))

    @property
    def num_channels(self) -> int:
        """How many output channels the kernel has, each with a range of its own."""
        return int(np.prod(self.kernel_shape[len(self.kernel_shape) - self.channel_axes :]))

    def loss_saved(self) -> np.ndarray:
        """Returns the loss that each next precision is estimated to save."""
        if len(self.precisions) == 1:
            return np.zeros(0)
        return gates.loss_saved(np.asarray(ops.convert_to_numpy(self.evidence)))

    def export(self, kernel: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns the integer codes and scales at the precision in force.

        Args:
            kernel: the float kernel.

        Returns:
            codes: int8, the kernel's shape, |code| <= 2^(num_bits-1) - 1.
            scale: float32, the channel shape; codes * scale is what the forward pass uses.
        """
        index = int(self.choice)
        scale = np.asarray(ops.convert_to_numpy(self._scale()))[index]
        quantized = np.asarray(ops.convert_to_numpy(self._quantize(ops.copy(kernel))))[index]
        return np.rint(quantized / scale).astype(np.int8), scale

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "precisions": list(self.precisions),
            "channel_axes": self.channel_axes,
            "seed": self.seed,
        }
