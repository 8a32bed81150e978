"""Layers with a kernel: convolutions and dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode
from ddq_tf.kinds import checks
from ddq_tf.kinds.functions import activation_name, function_of
from ddq_tf.kinds.rule import (
    Example,
    Family,
    LayerRule,
    OnRow,
    Output,
    Twin,
    but_the_last,
    config_of,
    on_any_rank,
)
from ddq_tf.layers import (
    DDQConv2D,
    DDQConv2DTranspose,
    DDQDense,
    DDQDepthwiseConv2D,
    FloatConv2D,
    FloatConv2DTranspose,
    FloatDense,
    FloatDepthwiseConv2D,
    missing_zeros,
    operator_kind,
)

if TYPE_CHECKING:
    from ddq_tf.config import DDQConfig
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers


# Rewriting


def _with_activation(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Splits off an activation that no integer operator fuses."""
    function, own = function_of(node.layer), node.layer.activation
    is_layer = isinstance(own, L.Layer)
    if node.outputs[0] in to.bare or not (is_layer or (function and not function.is_fused)):
        return [node]
    middle = to.new_tensor()
    to.bare.add(middle)
    label = f"{node.name}_{own.name if is_layer or function is None else function.name}"
    activation = own
    if not is_layer:
        activation = to.layer(node.layer, "activation", lambda: L.Activation(own, name=label))
    shape = node.layer.compute_output_shape(node.shapes[0])
    return [
        node.calling(node.layer, outputs=(middle,)),
        node.reading(middle, shape, activation, label),
    ]


def _separable(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A depthwise and a pointwise convolution; the activation stays with the second."""
    layer, name = node.layer, node.name
    if layer.data_format != "channels_last":
        return [node]
    spatial = to.layer(
        layer,
        "depthwise",
        lambda: L.DepthwiseConv2D(
            layer.kernel_size,
            layer.strides,
            layer.padding,
            layer.depth_multiplier,
            dilation_rate=layer.dilation_rate,
            use_bias=False,
            depthwise_regularizer=layer.depthwise_regularizer,
            name=f"{name}_depthwise",
        ),
    )
    point = to.layer(
        layer,
        "pointwise",
        lambda: L.Conv2D(
            layer.filters,
            1,
            use_bias=layer.use_bias,
            activation=layer.activation,
            kernel_regularizer=layer.pointwise_regularizer,
            bias_regularizer=layer.bias_regularizer,
            activity_regularizer=layer.activity_regularizer,
            name=f"{name}_pointwise",
        ),
    )
    shape = spatial.compute_output_shape(node.shapes[0])
    if not spatial.built:
        spatial.build(node.shapes[0])
        point.build(shape)
        spatial.kernel.assign(layer.depthwise_kernel)
        point.kernel.assign(layer.pointwise_kernel)
        if layer.use_bias:
            point.bias.assign(layer.bias)
    middle = to.new_tensor()
    return [
        node.calling(spatial, name=spatial.name, outputs=(middle,)),
        node.reading(middle, shape, point),
    ]


def _transposed(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """Without an output padding that makes the output as large as it is without."""
    layer, shape = node.layer, node.shapes[0]
    if layer.output_padding is None or None in shape[1:]:
        return _with_activation(to, node)
    plain = {**layer.get_config(), "output_padding": None}
    known = type(layer).from_config(plain).compute_output_shape(shape)
    if tuple(known) != tuple(layer.compute_output_shape(shape)):
        return [node]

    def make() -> Any:
        twin = type(layer).from_config(plain)
        twin.build(shape)
        for mine, theirs in zip(twin.weights, layer.weights, strict=True):
            mine.assign(theirs)
        return twin

    return [node.calling(to.layer(layer, "unpadded", make))]


# On sequences


_REGULARIZERS = tuple(
    f"{of}_regularizer" for of in ("kernel", "depthwise", "pointwise", "bias", "activity")
)


def _common(layer: Any, name: str) -> dict[str, Any]:
    """The arguments that all layers with weights take alike."""
    return {
        "kernel_size": (1, *layer.kernel_size),
        "dilation_rate": (1, *layer.dilation_rate),
        "activation": layer.activation,
        "use_bias": layer.use_bias,
        **{name: getattr(layer, name) for name in _REGULARIZERS if hasattr(layer, name)},
        "name": name,
    }


def _padding(layer: Any) -> str:
    """Causal padding is a ZeroPadding before the layer."""
    return "valid" if layer.padding == "causal" else layer.padding


def _conv_row(layer: Any, name: str) -> Any:
    return L.Conv2D(
        filters=layer.filters,
        strides=(1, *layer.strides),
        padding=_padding(layer),
        groups=layer.groups,
        **_common(layer, name),
    )


def _transposed_row(layer: Any, name: str) -> Any:
    return L.Conv2DTranspose(
        filters=layer.filters,
        strides=(1, *layer.strides),
        padding=layer.padding,
        output_padding=None if layer.output_padding is None else (0, *layer.output_padding),
        **_common(layer, name),
    )


def _depthwise_row(layer: Any, name: str) -> Any:
    # TensorFlow wants equal strides; down a single row any stride is one step.
    return L.DepthwiseConv2D(
        strides=layer.strides * 2,
        padding=_padding(layer),
        depth_multiplier=layer.depth_multiplier,
        **_common(layer, name),
    )


def _separable_row(layer: Any, name: str) -> Any:
    return L.SeparableConv2D(
        filters=layer.filters,
        strides=layer.strides * 2,
        padding=_padding(layer),
        depth_multiplier=layer.depth_multiplier,
        **_common(layer, name),
    )


# Checks


def _check(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "needs data_format='channels_last'. Received: 'channels_first'"
    if getattr(layer, "padding", "valid") not in ("valid", "same"):
        return f"needs padding 'valid' or 'same'. Received: padding={layer.padding!r}"
    return checks.known_activation(node)


def _check_transposed(graph: FlatGraph, node: FlatNode) -> str | None:
    layer = node.layer
    if layer.output_padding is not None and any(layer.output_padding):
        return (
            "needs output_padding=None, or one that gives the same size. "
            f"Received: output_padding={layer.output_padding}"
        )
    if any(rate != 1 for rate in layer.dilation_rate):
        return f"needs dilation_rate=1. Received: dilation_rate={layer.dilation_rate}"
    return checks.fixed_size(graph, node) or _check(graph, node)


# The DDQ twin


def _twin(quantized: Any, in_float: Any) -> Twin:
    def make(config: DDQConfig, node: FlatNode, name: str) -> Any:
        layer, channels = node.layer, node.shapes[0][-1] or 0
        options = {**config_of(node, name), "activation": "linear"}
        if config.leaves_in_float(name):
            return in_float(**options)
        return quantized(**options, scheme=config.scheme_for(operator_kind(layer), channels, name))

    return make


# Integer operators


def _check_linear(graph: FlatGraph, node: FlatNode) -> str | None:
    if activation_name(node.layer) != "linear":
        return "needs activation='linear' and a DDQActivation after it"
    return None


def _is_pointwise(node: FlatNode, axis: int) -> bool:
    """Whether a window is one pixel long along an axis."""
    if not but_the_last(node, axis):
        return False
    layer = node.layer
    return layer.kernel_size[axis - 1] == 1 and layer.strides[axis - 1] == 1


def _outputs_first(codes: np.ndarray) -> tuple[np.ndarray, int]:
    return codes.transpose(3, 0, 1, 2), 0


def _lower_conv(into: Lowering, node: FlatNode) -> None:
    """CONV_2D, with the BatchNorm behind it."""
    into.weighted("CONV_2D", node, _outputs_first, **_window(node.layer))


def _lower_depthwise(into: Lowering, node: FlatNode) -> None:
    """DEPTHWISE_CONV_2D, with the BatchNorm behind it."""
    layer = node.layer

    def layout(codes: np.ndarray) -> tuple[np.ndarray, int]:
        return codes.reshape(1, *codes.shape[:2], -1), 3

    window = {**_window(layer), "depth_multiplier": int(layer.depth_multiplier)}
    into.weighted("DEPTHWISE_CONV_2D", node, layout, **window)


def _lower_dense(into: Lowering, node: FlatNode) -> None:
    """FULLY_CONNECTED, with the BatchNorm behind it."""
    keeps = len(node.shapes[0]) > 2
    into.weighted("FULLY_CONNECTED", node, lambda codes: (codes.T, 0), keep_num_dims=keeps)


def _lower_transposed(into: Lowering, node: FlatNode) -> None:
    """TRANSPOSE_CONV, with the BatchNorm behind it.

    With SAME padding, kernels shorter than the stride get zeros at their ends, which change nothing
    but make XNNPACK take the operator.
    """
    layer = node.layer
    short = missing_zeros(layer)

    def layout(codes: np.ndarray) -> tuple[np.ndarray, int]:
        return _outputs_first(np.pad(codes, [*((0, n) for n in short), (0, 0), (0, 0)]))

    window = _window(layer)
    kept = ("padding", "stride_h", "stride_w")
    into.weighted("TRANSPOSE_CONV", node, layout, **{name: window[name] for name in kept})


def _window(layer: Any) -> dict[str, Any]:
    return {
        "padding": layer.padding.upper(),
        "stride_h": int(layer.strides[0]),
        "stride_w": int(layer.strides[1]),
        "dilation_h_factor": int(layer.dilation_rate[0]),
        "dilation_w_factor": int(layer.dilation_rate[1]),
    }


def _on_row(layer: type, twin: OnRow, words: str, *examples: Example) -> LayerRule:
    """The rule of a layer on sequences."""
    return LayerRule(
        layers=(layer,),
        words=words,
        on_row=twin,
        problem=checks.on_sequences,
        examples=examples,
    )


_SEQUENCE = (12, 4)

FAMILY = Family(
    title="weights",
    rules=(
        LayerRule(
            layers=(L.Conv2D,),
            words="Conv2D (strides, dilation, groups)",
            expand=_with_activation,
            problem=_check,
            output=Output.OWN,
            twin=_twin(DDQConv2D, FloatConv2D),
            examples=(
                Example(build=lambda x: L.Conv2D(6, 3, activation="relu")(x)),
                Example(build=lambda x: L.Conv2D(6, 3, strides=2, padding="same", groups=2)(x)),
                Example(build=lambda x: L.Conv2D(6, (1, 3), dilation_rate=(1, 2))(x)),
                Example(build=lambda x: L.Conv2D(5, 1, activation="relu6")(x)),
                Example(build=lambda x: L.BatchNormalization()(L.Conv2D(6, 1, use_bias=False)(x))),
                Example(build=lambda x: L.Conv2D(6, 1, activation=L.ReLU(0.5))(x)),
                Example(build=lambda x: L.Conv2D(6, 1, activation=L.LeakyReLU(25 / 256))(x)),
            ),
        ),
        LayerRule(
            layers=(DDQConv2D, FloatConv2D),
            problem=_check_linear,
            output=Output.OWN,
            lower=_lower_conv,
            each_alone=_is_pointwise,
        ),
        LayerRule(
            layers=(L.DepthwiseConv2D,),
            words="DepthwiseConv2D",
            expand=_with_activation,
            problem=_check,
            output=Output.OWN,
            twin=_twin(DDQDepthwiseConv2D, FloatDepthwiseConv2D),
            examples=(
                Example(build=lambda x: L.DepthwiseConv2D(3, padding="same")(x)),
                Example(build=lambda x: L.DepthwiseConv2D(3, 2, depth_multiplier=2)(x)),
                Example(
                    build=lambda x: L.BatchNormalization()(L.DepthwiseConv2D(3, use_bias=False)(x))
                ),
            ),
        ),
        LayerRule(
            layers=(DDQDepthwiseConv2D, FloatDepthwiseConv2D),
            problem=_check_linear,
            output=Output.OWN,
            lower=_lower_depthwise,
            each_alone=_is_pointwise,
        ),
        LayerRule(
            layers=(L.SeparableConv2D,),
            words="SeparableConv2D",
            expand=_separable,
            problem=_check,
            examples=(Example(build=lambda x: L.SeparableConv2D(6, 3, activation="relu")(x)),),
        ),
        LayerRule(
            layers=(L.Conv2DTranspose,),
            words="Conv2DTranspose (without dilation)",
            expand=_transposed,
            problem=_check_transposed,
            output=Output.OWN,
            twin=_twin(DDQConv2DTranspose, FloatConv2DTranspose),
            examples=(
                Example(build=lambda x: L.Conv2DTranspose(5, 3, 2, padding="same")(x)),
                Example(build=lambda x: L.Conv2DTranspose(5, 2, 3)(x)),
                Example(build=lambda x: L.Conv2DTranspose(5, 3, 2, "same", output_padding=1)(x)),
            ),
        ),
        LayerRule(
            layers=(DDQConv2DTranspose, FloatConv2DTranspose),
            problem=_check_linear,
            output=Output.OWN,
            lower=_lower_transposed,
        ),
        LayerRule(
            layers=(L.Dense,),
            words="Dense",
            expand=_with_activation,
            on_row=on_any_rank,
            problem=_check,
            output=Output.OWN,
            twin=_twin(DDQDense, FloatDense),
            examples=(
                Example(build=lambda x: L.Dense(6, activation="relu")(L.Flatten()(x))),
                Example(build=lambda x: L.Dense(6)(x)),
                Example(build=lambda x: L.BatchNormalization()(L.Dense(6)(x)), shape=(7,)),
                Example(build=lambda x: L.Dense(6, activation="tanh")(x), shape=_SEQUENCE),
            ),
        ),
        LayerRule(
            layers=(DDQDense, FloatDense),
            problem=_check_linear,
            output=Output.OWN,
            lower=_lower_dense,
            each_alone=but_the_last,
        ),
        _on_row(
            L.Conv1D,
            _conv_row,
            "",
            Example(build=lambda x: L.Conv1D(6, 3, padding="causal")(x), shape=_SEQUENCE),
            Example(build=lambda x: L.Conv1D(6, 3, strides=2)(x), shape=_SEQUENCE),
        ),
        _on_row(
            L.Conv1DTranspose,
            _transposed_row,
            "",
            Example(build=lambda x: L.Conv1DTranspose(6, 3, strides=2)(x), shape=_SEQUENCE),
        ),
        _on_row(
            L.DepthwiseConv1D,
            _depthwise_row,
            "",
            Example(build=lambda x: L.DepthwiseConv1D(3, padding="same")(x), shape=_SEQUENCE),
        ),
        _on_row(
            L.SeparableConv1D,
            _separable_row,
            "",
            Example(build=lambda x: L.SeparableConv1D(6, 3)(x), shape=_SEQUENCE),
        ),
    ),
)
