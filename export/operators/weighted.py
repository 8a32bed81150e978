"""Convolutions and fully connected layers.

All of them: y = clip(rint(f32(acc) * f32(f32(s_x * s_w) / s_y)) + z_y), where acc is the int32 sum
of (x - z_x) * w and the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ddq_tf import xnnpack
from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.export.operators.arithmetic import (
    F32,
    product_multiplier,
    quantization,
    round_to,
    scale,
)
from ddq_tf.export.operators.operand import Operand, refuse
from ddq_tf.export.operators.operator import FUSED, WINDOW, Operator, Requantization
from ddq_tf.export.operators.windows import Window, pad, taps
from ddq_tf.targets import OpKind

_BITS = {DType.INT8: 8, DType.INT4: 4, DType.INT2: 2}


def conv_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """CONV_2D with (O, h, w, I / groups) weights."""
    image, weights = reads[:2]
    channels, height, width, depth = weights.values.shape
    groups = image.values.shape[-1] // depth
    per_group = channels // groups
    window = Window.of(op.attrs, (height, width))
    padded = pad(image.centred().astype(np.float64), window, 0)
    parts = []
    for group in range(groups):
        kernels = weights.values[group * per_group : (group + 1) * per_group].astype(np.float64)
        pixels = padded[..., group * depth : (group + 1) * depth]
        parts.append(sum(x @ kernels[:, i, j].T for i, j, x in taps(pixels, window)))
    return _finish(op, np.concatenate(parts, axis=-1), reads, output)


def depthwise_conv_2d(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """DEPTHWISE_CONV_2D with (1, h, w, C * depth_multiplier) weights."""
    image, weights = reads[:2]
    kernel = weights.values[0].astype(np.float64)
    attrs = op.attrs
    window = Window.of(attrs, (kernel.shape[0], kernel.shape[1]))
    pixels = np.repeat(image.centred().astype(np.float64), attrs["depth_multiplier"], axis=-1)
    padded = pad(pixels, window, 0)
    accumulator = np.zeros(1)
    for i, j, x in taps(padded, window):
        accumulator = accumulator + x * kernel[i, j]
    return _finish(op, accumulator, reads, output)


def fully_connected(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """FULLY_CONNECTED with (O, I) weights, on the last axis or on rows of I values."""
    image, weights = reads[:2]
    rows = image.centred().astype(np.float64)
    if not op.attrs["keep_num_dims"]:
        rows = rows.reshape(-1, weights.values.shape[1])
    return _finish(op, rows @ weights.values.T.astype(np.float64), reads, output)


def transpose_conv(op: Op, reads: Sequence[Operand], output: Tensor) -> np.ndarray:
    """TRANSPOSE_CONV with (O, h, w, I) weights; its inputs are the output's shape, then as others.

    Each pixel adds its kernel to the output, `stride` apart; SAME cuts the border off as SAME
    padding of the convolution back would add it. XNNPACK does not take SAME with kernels shorter
    than the stride.
    """
    attrs, (_, weights, image, *bias) = op.attrs, reads
    batch, rows, columns, _ = image.values.shape
    channels, *size, _ = weights.values.shape
    strides = (attrs["stride_h"], attrs["stride_w"])
    same = attrs["padding"] == "SAME"
    if same and any(n < stride for n, stride in zip(size, strides, strict=True)):
        raise refuse(op, f"XNNPACK does not take SAME padding with kernel {size} < {strides}")
    spans = [(n - 1) * stride for n, stride in zip((rows, columns), strides, strict=True)]
    extents = [s + k for s, k in zip(spans, size, strict=True)]
    outer = [max(n, m) for n, m in zip(extents, output.shape[1:3], strict=True)]
    accumulator = np.zeros((batch, *outer, channels))
    pixels, kernels = image.centred().astype(np.float64), weights.values.astype(np.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            down = slice(i, i + spans[0] + 1, strides[0])
            right = slice(j, j + spans[1] + 1, strides[1])
            accumulator[:, down, right] += pixels @ kernels[:, i, j].T
    top, left = (
        max(n - m, 0) // 2 if same else 0 for n, m in zip(extents, output.shape[1:3], strict=True)
    )
    _, height, width, _ = output.shape
    cut = accumulator[:, top : top + height, left : left + width]
    return _finish(op, cut, (image, weights, *bias), output)


def _finish(
    op: Op, accumulator: np.ndarray, reads: Sequence[Operand], output: Tensor
) -> np.ndarray:
    """Adds the bias and requantizes.

    float64 holds the sums exactly: they stay far below 2^53. Like the kernels' registers, they
    wrap around at `xnnpack.sum_limit`; INT4's do so on ARM, not on every x86.
    """
    image, weights = reads[:2]
    _check_weights(op, weights.tensor)
    if len(reads) > 2:
        accumulator = accumulator + reads[2].values
    limit = xnnpack.sum_limit(_BITS[weights.tensor.dtype])
    wrapped = (accumulator.astype(np.int64) + limit) % (2 * limit) - limit
    multiplier = product_multiplier(image.scale, quantization(weights.tensor).scale, scale(output))
    activation = op.attrs["fused_activation_function"]
    return round_to(wrapped.astype(F32) * multiplier, output, activation)


def _check_weights(op: Op, weights: Tensor) -> None:
    """Raises for weights that XNNPACK leaves to built-in kernels, which round differently."""
    grid = quantization(weights)
    if grid.zero_point != 0:
        raise refuse(op, f"the zero point of weights must be 0. Received: {grid.zero_point}")
    if not takes(op, weights):
        raise refuse(
            op, f"XNNPACK does not take {weights.dtype.value} weights of shape {weights.shape}"
        )


def takes(op: Op, weights: Tensor) -> bool:
    """Returns whether XNNPACK runs a weighted op with weights of their type.

    Args:
        op: with all its attributes.
        weights: its input 1.
    """
    grid = weights.quantization
    return weights.dtype in _BITS and xnnpack.takes_weights(
        _KINDS[op.kind](op),
        _BITS[weights.dtype],
        row=weights.shape[-1],
        per_channel=grid is not None and grid.scale.size == weights.shape[0],
    )


def reached_sums(op: Op, tensors: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the least and the greatest sum of products and bias that each channel can reach.

    With l = -128 - z_x and h = 127 - z_x: from sum(min(w, 0)) h + sum(max(w, 0)) l to
    sum(min(w, 0)) l + sum(max(w, 0)) h. Padding adds 0, which lies between l and h.

    Args:
        op: a weighted op.
        tensors: of its graph.

    Returns:
        Two int64 arrays (output channels,); None if weights or bias are no constants.
    """
    image, weights, bias = _parts(op)
    codes, grid = tensors[weights].data, quantization(tensors[image])
    biases = tensors[bias].data if bias else np.zeros((), np.int32)
    if codes is None or biases is None:
        return None
    axis = _CHANNEL_AXES.get(op.kind, 0)
    rows = np.moveaxis(codes, axis, 0).reshape(codes.shape[axis], -1)
    negative, positive = (
        part(rows, 0).sum(axis=1, dtype=np.int64) for part in (np.minimum, np.maximum)
    )
    low, high = (limit - grid.zero_point for limit in (-128, 127))
    offset = biases.astype(np.int64)
    return negative * high + positive * low + offset, negative * low + positive * high + offset


def sum_limit(op: Op, weights: Tensor) -> int:
    """Returns where sums of an op wrap around; built-in kernels have 32 bits for every type.

    Args:
        op: with all its attributes.
        weights: its input 1.
    """
    return xnnpack.sum_limit(_BITS[weights.dtype] if takes(op, weights) else 8)


def _parts(op: Op) -> tuple[str, str, str]:
    """The names of image, weights and bias; "" for none."""
    first, weights, *more = op.inputs
    image, *bias = more if op.kind == "TRANSPOSE_CONV" else (first, *more)
    return image, weights, bias[0] if bias else ""


def _multipliers(op: Op, tensors: Mapping[str, Tensor]) -> Iterator[Requantization]:
    """f32(f32(s_x * s_w) / s_y) of each channel; built-in kernels take all of them."""
    image, weights, _ = _parts(op)
    if takes(op, tensors[weights]):
        yield Requantization(
            name="input scale * weight scale / output scale",
            values=product_multiplier(
                scale(tensors[image]),
                quantization(tensors[weights]).scale,
                scale(tensors[op.outputs[0]]),
            ),
            taken=xnnpack.PRODUCT_SUMS,
        )


def _conv_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """1 in floats, 3 with INT8 weights, 6 if grouped, 7 with INT4 weights."""
    image, weights = (tensors[name] for name in op.inputs[:2])
    by_type = {DType.INT8: 3, DType.INT4: 7}.get(weights.dtype, 1)
    grouped = op.kind == "CONV_2D" and image.shape[-1] != weights.shape[-1]
    return max(by_type, 6 if grouped else 1)


def _fully_connected_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """4 with INT8 weights, 5 keeping dimensions, 6 without bias, 10 with INT4, 14 with INT2.

    LiteRT's own rules have no number for both keep_num_dims and INT4; the higher of the two holds.
    """
    weights = tensors[op.inputs[1]]
    return max(
        {DType.INT8: 4, DType.INT4: 10, DType.INT2: 14}.get(weights.dtype, 1),
        5 if op.attrs["keep_num_dims"] else 1,
        6 if len(op.inputs) < 3 or not op.inputs[2] else 1,
    )


def _transpose_conv_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """1 in floats, 2 with INT8 weights, 3 with a bias, 4 with a fused activation."""
    if op.attrs["fused_activation_function"] != "NONE":
        return 4
    if len(op.inputs) > 3 and op.inputs[3]:
        return 3
    return 1 if tensors[op.inputs[1]].dtype is DType.FLOAT32 else 2


_KINDS: Mapping[str, Callable[[Op], OpKind]] = {
    "CONV_2D": lambda op: OpKind.CONV,
    "DEPTHWISE_CONV_2D": lambda op: OpKind.DEPTHWISE,
    "FULLY_CONNECTED": lambda op: OpKind.POINTWISE if op.attrs["keep_num_dims"] else OpKind.DENSE,
    "TRANSPOSE_CONV": lambda op: OpKind.TRANSPOSED,
}
_CHANNEL_AXES = {"DEPTHWISE_CONV_2D": 3}  # 0 in all others

_CONV = {**WINDOW, "dilation_h_factor": 1, "dilation_w_factor": 1}

OPERATORS = (
    Operator(
        kind="CONV_2D",
        kernel=conv_2d,
        options="Conv2DOptions",
        attrs=_CONV,
        version=_conv_version,
        weights=_KINDS["CONV_2D"],
        requantizations=_multipliers,
    ),
    Operator(
        kind="DEPTHWISE_CONV_2D",
        kernel=depthwise_conv_2d,
        options="DepthwiseConv2DOptions",
        attrs={**_CONV, "depth_multiplier": 1},
        version=_conv_version,
        weights=_KINDS["DEPTHWISE_CONV_2D"],
        requantizations=_multipliers,
    ),
    Operator(
        kind="FULLY_CONNECTED",
        kernel=fully_connected,
        options="FullyConnectedOptions",
        attrs={**FUSED, "keep_num_dims": False},
        version=_fully_connected_version,
        weights=_KINDS["FULLY_CONNECTED"],
        requantizations=_multipliers,
    ),
    Operator(
        kind="TRANSPOSE_CONV",
        kernel=transpose_conv,
        options="TransposeConvOptions",
        attrs=WINDOW,
        version=_transpose_conv_version,
        image=2,
        weights=_KINDS["TRANSPOSE_CONV"],
        requantizations=_multipliers,
    ),
)
