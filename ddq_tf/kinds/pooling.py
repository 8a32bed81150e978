"""Pooling and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from ddq_tf.graph import FlatGraph, FlatNode, as_float64
from ddq_tf.graph.windows import (
    EXACT_FACTORS,
    covers_input,
    same_padding,
    stays_inside,
    upsampling_fractions,
    values_inside,
)
from ddq_tf.kinds import checks
from ddq_tf.kinds.rule import Example, Family, LayerRule, OnRow, Output
from ddq_tf.kinds.steps import Steps, Value
from ddq_tf.layers import DDQBorderGain

if TYPE_CHECKING:
    from ddq_tf.export.lowering.builder import Lowering
    from ddq_tf.transform.canonical import Canonicalizer

L = keras.layers


# Rewriting


def _average(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """A mean over windows that reach over the border: padding, a mean, a gain at the border."""
    layer, sizes = node.layer, [size or 0 for size in node.shapes[0][1:3]]
    if stays_inside(node) or 0 in sizes or layer.data_format != "channels_last":
        return [node]
    rows = list(zip(sizes, layer.pool_size, layer.strides, strict=True))
    gain = to.layer(
        layer,
        f"gain{sizes}",
        lambda: DDQBorderGain(
            values_inside(*rows[0]),
            values_inside(*rows[1]),
            layer.pool_size,
            name=f"{node.name}_border",
        ),
    )
    if not gain.has_codes:
        return [node]
    pad = to.layer(
        layer,
        f"pad{sizes}",
        lambda: L.ZeroPadding2D(tuple(same_padding(*row) for row in rows), name=f"{node.name}_pad"),
    )
    mean = to.layer(
        layer,
        "mean",
        lambda: L.AveragePooling2D(layer.pool_size, layer.strides, name=node.name),
    )
    padded, summed = to.new_tensor(), to.new_tensor()
    inner = pad.compute_output_shape(node.shapes[0])
    outer = mean.compute_output_shape(inner)
    return [
        node.calling(pad, name=pad.name, outputs=(padded,)),
        node.calling(
            mean, name=mean.name, inputs=(padded,), outputs=(summed,), shapes=(tuple(inner),)
        ),
        node.reading(summed, outer, gain),
    ]


# On sequences


def _pool_row(kind: Any) -> OnRow:
    def make(layer: Any, name: str) -> Any:
        return kind((1, *layer.pool_size), (1, *layer.strides), layer.padding, name=name)

    return make


def _global_row(kind: Any) -> OnRow:
    return lambda layer, name: kind(keepdims=layer.keepdims, name=name)


def _upsampling_row(layer: Any, name: str) -> Any:
    return L.UpSampling2D((1, layer.size), name=name)


def resized(
    steps: Steps, value: Value, size: Sequence[int], interpolation: str, *, antialias: bool = False
) -> Value | None:
    """Returns images of another size, None where theirs is not fixed.

    Larger by whole factors, "nearest", or "bilinear" by such as LiteRT computes exactly: an
    UpSampling2D. All else is linear along each axis, so it is a dense layer of fixed weights.

    Args:
        steps: where it is written down.
        value: images, channels last.
        size: wanted height and width.
        interpolation: Keras's name.
        antialias: as in Keras.
    """
    shape = value.shape
    if len(shape) != 4 or None in shape[1:] or min(size) < 1:
        return None
    rows = [(new, old or 1) for new, old in zip(size, shape[1:3], strict=True)]
    factors = tuple(new // old for new, old in rows)
    is_whole = not any(new % old for new, old in rows)
    is_exact = interpolation == "nearest" or all(factor in EXACT_FACTORS for factor in factors)
    if is_whole and is_exact and interpolation in ("nearest", "bilinear"):
        kind = {"interpolation": interpolation}
        return steps.call("", lambda name: L.UpSampling2D(factors, name=name, **kind), value)
    for axis, (new, old) in enumerate(rows, 1):
        if new != old:
            matrix = _resizing_matrix(old, new, interpolation, antialias)
            value = _along(steps, value, axis, matrix)
    return value


def _resizing_matrix(old: int, new: int, interpolation: str, antialias: bool) -> np.ndarray:
    """What each of the old pixels of an axis adds to each of the new ones: (old, new)."""
    each: Any = keras.ops.image.resize(
        np.eye(old, dtype=np.float32)[:, None, :, None],
        (1, new),
        interpolation=interpolation,
        antialias=antialias,
        data_format="channels_last",
    )
    return as_float64(each)[:, 0, :, 0]


def _along(steps: Steps, value: Value, axis: int, matrix: np.ndarray) -> Value:
    """An axis times a matrix."""
    last = {1: (2, 3, 1), 2: (1, 3, 2)}[axis]
    back = {1: (3, 1, 2), 2: (1, 3, 2)}[axis]
    value = steps.permuted(f"last_{axis}", value, last)

    def built(name: str) -> Any:
        layer: Any = L.Dense(matrix.shape[1], use_bias=False, trainable=False, name=name)
        layer.build(value.shape)
        layer.kernel.assign(matrix)
        return layer

    value = steps.call(f"resized_{axis}", built, value)
    return steps.permuted(f"back_{axis}", value, back)


def _resizing(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    layer, steps = node.layer, Steps(to, node)
    plain = not (layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio)
    if not plain or layer.data_format != "channels_last":
        return [node]
    made = resized(
        steps,
        steps.inputs[0],
        (layer.height, layer.width),
        layer.interpolation,
        antialias=layer.antialias,
    )
    return [node] if made is None else steps.writing(made)


def _any_upsampling(to: Canonicalizer, node: FlatNode) -> list[FlatNode]:
    """By other factors than LiteRT interpolates exactly: a Resizing."""
    layer, shape = node.layer, node.shapes[0]
    known = layer.interpolation in ("nearest", "bilinear")
    is_exact = layer.interpolation == "nearest" or all(n in EXACT_FACTORS for n in layer.size)
    if (known and is_exact) or layer.data_format != "channels_last" or None in shape[1:]:
        return [node]
    steps = Steps(to, node)
    size = [(old or 1) * factor for old, factor in zip(shape[1:3], layer.size, strict=True)]
    made = resized(steps, steps.inputs[0], size, layer.interpolation)
    return [node] if made is None else steps.writing(made)


# Checks


def _check_resizing(graph: FlatGraph, node: FlatNode) -> str | None:
    wanted = (node.layer.height, node.layer.width)
    return (
        "needs images of a fixed size, channels last, and no cropping and padding. "
        f"Received: to {wanted} px from {node.shapes[0]}"
    )


# What the integer graph sees


def _average_output(node: FlatNode) -> Output:
    """A grid of its own; that of the input where windows reach over the border."""
    return Output.OWN if stays_inside(node) else Output.ROUNDS


def _average_factor(node: FlatNode) -> float | None:
    return 1 / float(np.prod(node.layer.pool_size)) if stays_inside(node) else None


def _global_factor(node: FlatNode) -> float | None:
    sizes = [size for size in node.shapes[0][1:3] if size is not None]
    return 1 / float(np.prod(sizes)) if len(sizes) == 2 else None


def _upsampling_output(node: FlatNode) -> Output:
    return Output.ROUNDS if _interpolates(node) else Output.KEEPS


def _interpolates(node: FlatNode) -> bool:
    """Whether new values arise: not by factors of 1, either."""
    return node.layer.interpolation == "bilinear" and upsampling_fractions(node) != 1


def _upsampling_lift(node: FlatNode) -> float:
    return 0.5 / (upsampling_fractions(node) or 1)


# Integer operators


def _lower_average(into: Lowering, node: FlatNode) -> None:
    """MEAN, DEPTHWISE_CONV_2D, or AVERAGE_POOL_2D where windows reach over the border.

    Unlike AVERAGE_POOL_2D the others are delegated, round as Keras does and write grids of their
    own.
    """
    if covers_input(node):
        into.mean(node, keep_dims=True)
    elif stays_inside(node):
        clamp = into.fused_activation(node.outputs[0])
        writes = into.result(node, node.outputs[0], fuses=True)
        _window_sum(into, node, writes, fused_activation_function=clamp)
    else:
        _pool(into, node, "AVERAGE_POOL_2D")


def _lower_max(into: Lowering, node: FlatNode) -> None:
    """MAX_POOL_2D; where it only skips pixels a DEPTHWISE_CONV_2D, which XNNPACK takes."""
    if tuple(node.layer.pool_size) == (1, 1):
        _, writes = into.moved(node)
        _window_sum(into, node, writes)
    else:
        _pool(into, node, "MAX_POOL_2D")


# A power of 2, so that it changes no multiplier; too large for INT4, which XNNPACK would not take.
_MEAN_CODE = 64


def _window_sum(into: Lowering, node: FlatNode, writes: str, **attrs: Any) -> None:
    """The mean of each window as a DEPTHWISE_CONV_2D of one code."""
    layer, (height, width) = node.layer, node.layer.pool_size
    codes = np.full((height, width, node.shapes[0][-1] or 0, 1), _MEAN_CODE, np.int8)
    strides = {"stride_h": int(layer.strides[0]), "stride_w": int(layer.strides[1])}
    scale = 1 / (height * width * _MEAN_CODE)
    into.depthwise(node, codes, scale, 0.0, writes, **attrs, **strides)


def _pool(into: Lowering, node: FlatNode, operator: str) -> None:
    layer = node.layer
    reads, writes = into.moved(node, rounds=operator == "AVERAGE_POOL_2D")
    into.emit(
        operator,
        (reads,),
        writes,
        source=node.name,
        padding=layer.padding.upper(),
        filter_height=int(layer.pool_size[0]),
        filter_width=int(layer.pool_size[1]),
        stride_h=int(layer.strides[0]),
        stride_w=int(layer.strides[1]),
    )


def _lower_global_max(into: Lowering, node: FlatNode) -> None:
    """MAX_POOL_2D over the whole image, and a RESHAPE that drops its axes."""
    batch, height, width, channels = node.shapes[0]
    reads = into.names[node.inputs[0]]
    pooled = into.alike(f"{node.name}_pool", reads, (batch, 1, 1, channels))
    size = {"filter_height": int(height or 0), "filter_width": int(width or 0)}
    into.emit("MAX_POOL_2D", (reads,), pooled, source=node.name, **size)
    into.names[node.outputs[0]] = pooled
    if not node.layer.keepdims:
        _, writes = into.moved(node)
        into.reshape(node, pooled, writes)


def _lower_global_average(into: Lowering, node: FlatNode) -> None:
    """MEAN over height and width."""
    into.mean(node, keep_dims=bool(node.layer.keepdims))


def _lower_border_gain(into: Lowering, node: FlatNode) -> None:
    """MUL with a constant image of one channel."""
    layer, reads = node.layer, into.names[node.inputs[0]]
    clamp = into.fused_activation(node.outputs[0])
    writes = into.result(node, node.outputs[0], fuses=True)
    gains = into.codes(f"{node.name}/gains", layer.codes, layer.scale)
    into.emit("MUL", (reads, gains), writes, source=node.name, fused_activation_function=clamp)


def _lower_upsampling(into: Lowering, node: FlatNode) -> None:
    """RESIZE_BILINEAR; nearest: pixels, then rows, CONCATENATED with themselves.

    RESIZE_NEAREST_NEIGHBOR would do the latter, but XNNPACK leaves it to a built-in kernel.
    """
    rounds = _interpolates(node)
    reads, writes = into.moved(node, rounds=rounds)
    if rounds:
        size = into.constant(f"{node.name}/size", into.tensors[writes].shape[1:3])
        into.emit(
            "RESIZE_BILINEAR", (reads, size), writes, source=node.name, half_pixel_centers=True
        )
        return
    batch, height, width, channels = into.tensors[reads].shape
    rows, columns = (int(factor) for factor in node.layer.size)
    wide = into.joined(node, [reads] * columns, 3)
    flat = into.alike(f"{node.name}/part", wide, (batch, height, 1, width * columns * channels))
    into.reshape(node, wide, flat)
    into.reshape(node, into.joined(node, [flat] * rows, 2), writes)


def _on_row(layer: type, twin: OnRow, *uses: Any) -> LayerRule:
    return LayerRule(
        layers=(layer,),
        on_row=twin,
        problem=checks.on_sequences,
        examples=tuple(Example(build=use, shape=(12, 4)) for use in uses),
    )


FAMILY = Family(
    title="windows",
    rules=(
        LayerRule(
            layers=(L.MaxPooling2D,),
            words="max pooling",
            problem=checks.channels_last,
            output=Output.KEEPS,
            lower=_lower_max,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.MaxPooling2D(3, 2, padding="same")(x)),
                Example(build=lambda x: L.MaxPooling2D(1, 2)(x)),
            ),
        ),
        LayerRule(
            layers=(L.AveragePooling2D,),
            words="average pooling",
            expand=_average,
            problem=checks.channels_last,
            output=_average_output,
            lower=_lower_average,
            factor=_average_factor,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.AveragePooling2D(2)(x)),
                Example(build=lambda x: L.AveragePooling2D(3, 2, padding="same")(x)),
                Example(build=lambda x: L.AveragePooling2D(8)(x)),
            ),
        ),
        LayerRule(
            layers=(DDQBorderGain,),
            output=Output.OWN,
            lower=_lower_border_gain,
            factor=lambda node: node.layer.scale,
        ),
        LayerRule(
            layers=(L.GlobalAveragePooling2D,),
            words="global average pooling",
            problem=checks.channels_last,
            output=Output.OWN,
            lower=_lower_global_average,
            factor=_global_factor,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.GlobalAveragePooling2D()(x)),
                Example(build=lambda x: L.GlobalAveragePooling2D(keepdims=True)(x)),
            ),
        ),
        LayerRule(
            layers=(L.GlobalMaxPooling2D,),
            words="global max pooling",
            problem=checks.fixed_size,
            output=Output.KEEPS,
            lower=_lower_global_max,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.GlobalMaxPooling2D()(x)),
                Example(build=lambda x: L.GlobalMaxPooling2D(keepdims=True)(x)),
            ),
        ),
        LayerRule(
            layers=(L.UpSampling2D,),
            words="UpSampling2D",
            expand=_any_upsampling,
            problem=checks.fixed_size,
            output=_upsampling_output,
            lift=_upsampling_lift,
            lower=_lower_upsampling,
            is_homogeneous=True,
            examples=(
                Example(build=lambda x: L.UpSampling2D(3)(x)),
                Example(build=lambda x: L.UpSampling2D(2, interpolation="bilinear")(x)),
                Example(build=lambda x: L.UpSampling2D((1, 4), interpolation="bilinear")(x)),
                Example(build=lambda x: L.UpSampling2D(1, interpolation="bilinear")(x)),
                Example(build=lambda x: L.UpSampling2D((3, 2), interpolation="bilinear")(x)),
            ),
        ),
        LayerRule(
            layers=(L.Resizing,),
            words="Resizing",
            expand=_resizing,
            problem=_check_resizing,
            examples=(
                Example(build=lambda x: L.Resizing(16, 24, interpolation="nearest")(x)),
                Example(build=lambda x: L.Resizing(16, 16)(x)),
                Example(build=lambda x: L.Resizing(8, 8)(x)),
                Example(build=lambda x: L.Resizing(11, 5)(x)),
                Example(build=lambda x: L.Resizing(3, 8, "bicubic", antialias=True)(x)),
            ),
        ),
        _on_row(L.MaxPooling1D, _pool_row(L.MaxPooling2D), lambda x: L.MaxPooling1D()(x)),
        _on_row(
            L.AveragePooling1D,
            _pool_row(L.AveragePooling2D),
            lambda x: L.AveragePooling1D(3, 2, "same")(x),
        ),
        _on_row(
            L.GlobalMaxPooling1D,
            _global_row(L.GlobalMaxPooling2D),
            lambda x: L.GlobalMaxPooling1D()(x),
        ),
        _on_row(
            L.GlobalAveragePooling1D,
            _global_row(L.GlobalAveragePooling2D),
            lambda x: L.GlobalAveragePooling1D()(x),
        ),
        _on_row(L.UpSampling1D, _upsampling_row, lambda x: L.UpSampling1D(2)(x)),
    ),
)
