"""Convolution and dense layers with quantized kernels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from ddq_tf.latency import OperatorShape
from ddq_tf.layers.activation import DDQActivation, Probe
from ddq_tf.layers.codes import LARGEST_CODE, Grids, sums_of_codes, wide
from ddq_tf.layers.product import DDQMatmul
from ddq_tf.quantizers import WeightQuantizer
from ddq_tf.quantizers.fake_quant import codes_of
from ddq_tf.quantizers.native import shared
from ddq_tf.scheme import WeightScheme
from ddq_tf.targets import OpKind

Tensor = Any

_VALUES_AT_ONCE = 1 << 24  # of all activations


class DDQWeightedLayer:
    """What the weighted DDQ layers share: a kernel and its `WeightQuantizer`.

    Mixed in before the Keras layer. Takes the Keras layer's arguments and:

    Args:
        scheme: how the kernel is quantized; or the options of `WeightScheme` one by one.
        quantizer_trainable: whether range, levels and precision learn. `trainable` speaks of
            kernel and bias alone: a frozen kernel too gets the grid that suits it.
        float_zeros: see the attribute.

    Attributes:
        float_zeros: the share of zeros in the float kernel that it was made from.
        probe: sees inputs and their products with the kernel, while something is measured, and
            returns what to go on with; or None.
        grids: what the inputs lie on, where it is one grid wherever the layer stands; else None.
    """

    _channel_axes = 1
    quantizer: WeightQuantizer
    kernel: Any
    bias: Any
    name: str
    _trainable: bool
    _trainable_variables: list[Any]
    float_zeros: float
    probe: Probe | None = None
    grids: Grids | None = None

    def __init__(
        self,
        *args: Any,
        scheme: WeightScheme | None = None,
        quantizer_trainable: bool = True,
        float_zeros: float = 0.0,
        **kwargs: Any,
    ) -> None:
        scheme = scheme or WeightScheme.taken_from(kwargs)
        super().__init__(*args, **kwargs)
        self.float_zeros = float_zeros
        self.quantizer = WeightQuantizer(
            scheme=scheme,
            channel_axes=self._channel_axes,
            trainable=quantizer_trainable,
            name="quantizer",
        )

    @property
    def trainable(self) -> bool:
        """Whether kernel and bias train; `quantizer.trainable` tells of range and precision."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for variable in self._trainable_variables:
            variable.trainable = self._trainable

    @property
    def trainable_variables(self) -> list[Any]:
        """What trains, of the layer and of its quantizer."""
        return [v for v in self.variables if v.trainable]  # type: ignore[attr-defined]

    @property
    def non_trainable_variables(self) -> list[Any]:
        """What does not train, of the layer and of its quantizer."""
        return [v for v in self.variables if not v.trainable]  # type: ignore[attr-defined]

    def build(self, input_shape: Any) -> None:
        """Creates the kernel and its quantizer, with ranges that cover the initial kernel."""
        super().build(input_shape)  # type: ignore[misc]
        self.quantizer.build(self.kernel.shape)
        self.quantizer.calibrate(ops.convert_to_numpy(self.kernel), method="max")

    @property
    def kind(self) -> OpKind:
        """The kind of operator that targets tell apart."""
        return operator_kind(self)

    @property
    def num_bits(self) -> int:
        """The weight precision in force."""
        return self.quantizer.num_bits

    def integer_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (codes, scale) of the kernel; see `WeightQuantizer.export`."""
        return self.quantizer.export(self.kernel)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),  # type: ignore[misc]
            **self.quantizer.scheme.to_dict(),
            "quantizer_trainable": self.quantizer.trainable,
            "float_zeros": self.float_zeros,
        }

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """Multiplies with the quantized kernel, adds the bias and applies the activation."""
        if training or self.quantizer.bypass:
            outputs = self.multiply(inputs, self.quantizer(self.kernel, training=training))
        else:
            outputs = self._summed(inputs)
        if self.probe is not None:
            outputs = self.probe(inputs, outputs)
        return self._finish(outputs)

    def multiply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Returns the sums of products with a kernel, before bias and activation."""
        raise NotImplementedError

    @property
    def _terms(self) -> int:
        """How many products a sum has."""
        return int(np.prod(self.kernel.shape[: -self._channel_axes]))

    def _summed(self, inputs: Tensor) -> Tensor:
        """Multiplies codes, in inference: a file does so, and no order of summing changes it.

        Where many terms or large ones cancel, float32 sums of real numbers err by as much as
        `grids.align` keeps values away from the middle of two codes, and one code that is rounded
        otherwise than in LiteRT changes many in later layers. A layer that stands on several grids,
        or on none, has no codes to take: there sums are float64.
        """
        if self.grids is None:
            return wide(self.multiply, inputs, self.quantizer(self.kernel))
        codes, weight_step = self.quantizer.codes_and_step(self.kernel)
        (step,) = self.grids.steps()
        sums = sums_of_codes(
            self.multiply,
            shared(codes_of, 0)(inputs, step),
            codes,
            largest=LARGEST_CODE * self.quantizer.levels.largest_code,
            terms=self._terms,
            splits=self._channel_axes == 1 and getattr(self, "groups", 1) == 1,
        )
        return sums * ops.reshape(ops.stop_gradient(step * weight_step), (-1,))

    def _finish(self, outputs: Tensor) -> Tensor:
        """Adds the bias and applies the activation, as the Keras layer does."""
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        activation = self.activation  # type: ignore[attr-defined]
        return outputs if activation is None else activation(outputs)


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQConv2D(DDQWeightedLayer, keras.layers.Conv2D):
    """`keras.layers.Conv2D` (channels last) with a quantized kernel.

    Kernel (height, width, in_channels, filters); one range per filter.
    """

    def multiply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolves."""
        return self.convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQDepthwiseConv2D(DDQWeightedLayer, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` (channels last) with a quantized kernel.

    Kernel (height, width, in_channels, depth_multiplier); one range per output channel.
    """

    _channel_axes = 2

    def multiply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolves each channel."""
        strides: Any = self.strides
        dilations: Any = self.dilation_rate
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=strides,
            padding=self.padding,
            dilation_rate=dilations,
            data_format=self.data_format,
        )


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQDense(DDQWeightedLayer, keras.layers.Dense):
    """`keras.layers.Dense` with a quantized kernel (inputs, units); one range per unit."""

    def multiply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Multiplies with a matrix."""
        return ops.matmul(inputs, kernel)


@keras.saving.register_keras_serializable(package="ddq_tf")
class DDQConv2DTranspose(DDQWeightedLayer, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` (channels last) with a quantized kernel.

    Kernel (height, width, in_channels, filters), its last axes exchanged against the Keras layer's,
    so that the output channels come last here too; one range per filter.
    """

    def build(self, input_shape: Any) -> None:
        """Creates the kernel and its quantizer, with ranges that cover the initial kernel."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, input_shape[-1], self.filters),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.filters,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.quantizer.build(self.kernel.shape)
        self.quantizer.calibrate(ops.convert_to_numpy(self.kernel), method="max")

    def multiply(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Convolves, transposed."""
        strides: Any = list(self.strides)
        return ops.conv_transpose(
            inputs,
            ops.swapaxes(kernel, -1, -2),
            strides=strides,
            padding=self.padding,
            data_format=self.data_format,
        )


_KINDS = {
    OpKind.DEPTHWISE: keras.layers.DepthwiseConv2D,
    OpKind.DENSE: keras.layers.Dense,
    OpKind.TRANSPOSED: keras.layers.Conv2DTranspose,
}


def operator_kind(layer: Any) -> OpKind:
    """Returns which kind of operator a convolution or dense layer, float or DDQ, becomes.

    POINTWISE is a 1x1 convolution without stride, dilation or groups.
    """
    for kind, layers in _KINDS.items():
        if isinstance(layer, layers):
            return kind
    geometry = (layer.kernel_size, layer.strides, layer.dilation_rate)
    pointwise = layer.groups == 1 and all(tuple(g) == (1, 1) for g in geometry)
    return OpKind.POINTWISE if pointwise else OpKind.CONV


def missing_zeros(layer: Any) -> tuple[int, int]:
    """Returns how many rows and columns of zeros a transposed convolution's kernel gets in a file.

    XNNPACK takes SAME padding only of kernels that are as long as the stride.
    """
    if layer.padding != "same":
        return 0, 0
    down, right = (max(s - k, 0) for s, k in zip(layer.strides, layer.kernel_size, strict=True))
    return down, right


def operator_shape(layer: Any, input_shape: Any, *, in_rows: bool) -> OperatorShape:
    """Returns the operator that a call of a convolution or dense layer becomes, for one example.

    Args:
        layer: built, float or DDQ.
        input_shape: of what it reads; all sizes but the batch's, the first, are fixed.
        in_rows: whether pointwise convolutions become FULLY_CONNECTED.
    """
    kind, kernel = operator_kind(layer), tuple(layer.kernel.shape)
    positions = tuple(layer.compute_output_shape(input_shape))[1:-1]
    if kind is OpKind.DENSE or (kind is OpKind.POINTWISE and in_rows):
        inputs, outputs = kernel[-2:]
        rows = (int(np.prod(positions, dtype=int)),)
        return OperatorShape(operator="FULLY_CONNECTED", positions=rows, weights=(outputs, inputs))
    height, width, inputs, outputs = kernel
    operator, weights = "CONV_2D", (outputs, height, width, inputs)
    groups = int(getattr(layer, "groups", 1))
    if kind is OpKind.DEPTHWISE:
        operator, weights = "DEPTHWISE_CONV_2D", (1, height, width, inputs * outputs)
        groups = inputs
    elif kind is OpKind.TRANSPOSED:
        down, right = missing_zeros(layer)
        operator, weights = "TRANSPOSE_CONV", (outputs, height + down, width + right, inputs)
    return OperatorShape(
        operator=operator,
        positions=positions,
        weights=weights,
        strides=tuple(layer.strides),
        dilations=tuple(layer.dilation_rate),
        groups=groups,
    )


def rounds_kernel(layer: Any) -> bool:
    """Returns whether a layer has a kernel that a quantizer of its own rounds."""
    return isinstance(layer, DDQWeightedLayer)


def multiplies_codes(layer: Any) -> bool:
    """Returns whether a layer multiplies codes in inference, and asks its `grids` for steps."""
    return rounds_kernel(layer) or isinstance(layer, DDQMatmul)


def rounds_activations(layer: Any) -> bool:
    """Returns whether a layer is a quantizer of activations, whose range can move."""
    return isinstance(layer, DDQActivation)


def weighted_layers(model: keras.Model) -> list[Any]:
    """Returns the model's layers with quantized weights, in network order."""
    return [layer for layer in model.layers if rounds_kernel(layer)]


def activation_layers(model: keras.Model) -> list[DDQActivation]:
    """Returns the model's activation quantizers, in network order."""
    return [layer for layer in model.layers if rounds_activations(layer)]


def examples_at_once(model: keras.Model) -> int:
    """Returns how many examples a pass should take at most, for its memory's sake."""
    values = sum(layer.quantizer.num_values for layer in activation_layers(model))
    return max(_VALUES_AT_ONCE // max(values, 1), 1)
