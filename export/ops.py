"""What the exporter knows of TFLite's operators: their attributes and versions, in one table.

Adding an operator that TFLite already has is one line in `OPS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ddq_tf.errors import DDQError
from ddq_tf.export.ir import DType, Op, Tensor
from ddq_tf.targets import OpKind

Version = Callable[[Op, Mapping[str, Tensor]], int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpSchema:
    """One operator of TFLite.

    Attributes:
        options: the name of its options table in TFLite's schema, or None if it has none.
        attrs: its attributes with their defaults, under the schema's names in snake case.
        version: the lowest operator version that has the features an op uses; a runtime refuses
            versions that it does not know, so higher than needed locks out old ones.
    """

    options: str | None
    attrs: Mapping[str, Any]
    version: Version


def op_schema(kind: str) -> OpSchema:
    """Returns the table's line for a kind of operator.

    Raises:
        DDQError: if there is none.
    """
    if kind not in OPS:
        raise DDQError(f"operators must be among {sorted(OPS)}. Received: {kind!r}")
    return OPS[kind]


def attributes(op: Op) -> dict[str, Any]:
    """Returns all attributes of an op, the ones it leaves out at their defaults.

    Raises:
        DDQError: if the kind is unknown or has no such attribute.
    """
    defaults = op_schema(op.kind).attrs
    unknown = sorted(set(op.attrs) - set(defaults))
    if unknown:
        raise DDQError(f"{op.kind} has the attributes {sorted(defaults)}. Received: {unknown}")
    return {**defaults, **op.attrs}


_CONVOLUTIONS = {
    "CONV_2D": OpKind.CONV,
    "DEPTHWISE_CONV_2D": OpKind.DEPTHWISE,
    "TRANSPOSE_CONV": OpKind.TRANSPOSED,
}


def weight_kind(op: Op) -> OpKind | None:
    """Returns how targets class an op whose input 1 is a weight, or None for other ops."""
    if op.kind == "FULLY_CONNECTED":
        return OpKind.POINTWISE if attributes(op)["keep_num_dims"] else OpKind.DENSE
    return _CONVOLUTIONS.get(op.kind)


def version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """Returns the operator version to write for an op."""
    return op_schema(op.kind).version(op, tensors)


def _always(number: int) -> Version:
    """The version rule of operators with one version for all that this package writes."""
    return lambda op, tensors: number


def _for_dtypes(numbers: Mapping[DType, int]) -> Version:
    """A version rule by the first input's type; 1 for types not named."""
    return lambda op, tensors: numbers.get(tensors[op.inputs[0]].dtype, 1)


_int8_is_2 = _for_dtypes({DType.INT8: 2})
_eight_bit_is_2 = _for_dtypes({DType.INT8: 2, DType.UINT8: 2})


def _conv_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """3 with INT8 weights, 6 if grouped, 7 with INT4 weights."""
    image, weights = (tensors[name] for name in op.inputs[:2])
    by_dtype = {DType.INT8: 3, DType.INT4: 7}.get(weights.dtype, 1)
    grouped = op.kind == "CONV_2D" and image.shape[-1] != weights.shape[-1]
    return max(by_dtype, 6 if grouped else 1)


def _fully_connected_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """4 with INT8 weights, 5 keeping dimensions, 6 without bias, 10 with INT4, 14 with INT2."""
    weights = tensors[op.inputs[1]]
    return max(
        {DType.INT8: 4, DType.INT4: 10, DType.INT2: 14}.get(weights.dtype, 1),
        5 if attributes(op)["keep_num_dims"] else 1,
        6 if len(op.inputs) < 3 or not op.inputs[2] else 1,
    )


def _dequantize_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 from INT8, 5 if per channel, 6 from INT4, 7 from INT2."""
    source = tensors[op.inputs[0]]
    per_channel = source.quantization is not None and source.quantization.scale.size > 1
    by_dtype = {DType.INT8: 2, DType.INT4: 6, DType.INT2: 7}.get(source.dtype, 1)
    return max(by_dtype, 5 if per_channel else 1)


def _mul_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 for INT8; 3 if the product of the input scales reaches the output scale."""
    quantizations = [tensors[name].quantization for name in (*op.inputs, *op.outputs)]
    scales = [float(item.scale[0]) for item in quantizations if item is not None]
    if len(scales) == 3 and scales[0] * scales[1] >= scales[2]:
        return 3
    return _int8_is_2(op, tensors)


def _resize_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 for INT8; 3 for the sampling positions that came later."""
    attrs = attributes(op)
    newer = attrs["half_pixel_centers"] or (
        op.kind == "RESIZE_NEAREST_NEIGHBOR" and attrs["align_corners"]
    )
    return 3 if newer else _int8_is_2(op, tensors)


def _transpose_conv_version(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """2 with INT8 weights, 3 with a bias, 4 with a fused activation."""
    if attributes(op)["fused_activation_function"] != "NONE":
        return 4
    return 3 if len(op.inputs) > 3 and op.inputs[3] else 2


_FUSED = {"fused_activation_function": "NONE"}
_WINDOW = {"padding": "VALID", "stride_h": 1, "stride_w": 1, **_FUSED}
_CONV = {**_WINDOW, "dilation_h_factor": 1, "dilation_w_factor": 1}
_POOL = {**_WINDOW, "filter_height": 1, "filter_width": 1}
_SLICE: dict[str, int] = dict.fromkeys(
    ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0
)
_RESIZE = {"align_corners": False, "half_pixel_centers": False}


def _schema(options: str | None, attrs: Mapping[str, Any], rule: Version) -> OpSchema:
    """Keeps the table's lines short."""
    return OpSchema(options=options, attrs=attrs, version=rule)


# Versions follow the rules of LiteRT's tflite/tools/versioning/op_version.cc, except that
# FULLY_CONNECTED with both keep_num_dims and INT4 gets the higher number of the two.
OPS: dict[str, OpSchema] = {
    "ADD": _schema("AddOptions", _FUSED, _int8_is_2),
    "AVERAGE_POOL_2D": _schema("Pool2DOptions", _POOL, _int8_is_2),
    "CONCATENATION": _schema("ConcatenationOptions", {"axis": 0, **_FUSED}, _int8_is_2),
    "CONV_2D": _schema("Conv2DOptions", _CONV, _conv_version),
    "DEPTHWISE_CONV_2D": _schema(
        "DepthwiseConv2DOptions", {**_CONV, "depth_multiplier": 1}, _conv_version
    ),
    "DEPTH_TO_SPACE": _schema("DepthToSpaceOptions", {"block_size": 1}, _int8_is_2),
    "DEQUANTIZE": _schema("DequantizeOptions", {}, _dequantize_version),
    "ELU": _schema(None, {}, _always(1)),
    "EXPAND_DIMS": _schema("ExpandDimsOptions", {}, _always(1)),
    "FULLY_CONNECTED": _schema(
        "FullyConnectedOptions",
        {**_FUSED, "keep_num_dims": False},
        _fully_connected_version,
    ),
    "GELU": _schema("GeluOptions", {"approximate": False}, _eight_bit_is_2),
    "HARD_SWISH": _schema("HardSwishOptions", {}, _always(1)),
    "LEAKY_RELU": _schema("LeakyReluOptions", {"alpha": 0.0}, _always(1)),
    "LOGISTIC": _schema(None, {}, _int8_is_2),
    "MAXIMUM": _schema("MaximumMinimumOptions", {}, _int8_is_2),
    "MAX_POOL_2D": _schema("Pool2DOptions", _POOL, _int8_is_2),
    "MEAN": _schema("ReducerOptions", {"keep_dims": False}, _int8_is_2),
    "MINIMUM": _schema("MaximumMinimumOptions", {}, _int8_is_2),
    "MUL": _schema("MulOptions", _FUSED, _mul_version),
    "PAD": _schema("PadOptions", {}, _int8_is_2),
    "PADV2": _schema("PadV2Options", {}, _int8_is_2),
    "PRELU": _schema(None, {}, _always(1)),
    "QUANTIZE": _schema("QuantizeOptions", {}, _always(1)),
    "RELU": _schema(None, {}, _eight_bit_is_2),
    "RELU6": _schema(None, {}, _int8_is_2),
    "RELU_N1_TO_1": _schema(None, {}, _always(1)),
    "RESHAPE": _schema("ReshapeOptions", {"new_shape": ()}, _always(1)),
    "RESIZE_BILINEAR": _schema("ResizeBilinearOptions", _RESIZE, _resize_version),
    "RESIZE_NEAREST_NEIGHBOR": _schema("ResizeNearestNeighborOptions", _RESIZE, _resize_version),
    "SLICE": _schema("SliceOptions", {}, _int8_is_2),
    "SOFTMAX": _schema("SoftmaxOptions", {"beta": 1.0}, _int8_is_2),
    "SPACE_TO_DEPTH": _schema("SpaceToDepthOptions", {"block_size": 1}, _int8_is_2),
    "SQUEEZE": _schema("SqueezeOptions", {"squeeze_dims": ()}, _always(1)),
    "STRIDED_SLICE": _schema("StridedSliceOptions", _SLICE, _int8_is_2),
    "SUB": _schema("SubOptions", _FUSED, _int8_is_2),
    "SUM": _schema("ReducerOptions", {"keep_dims": False}, _int8_is_2),
    "TANH": _schema(None, {}, _int8_is_2),
    "TRANSPOSE": _schema("TransposeOptions", {}, _int8_is_2),
    "TRANSPOSE_CONV": _schema("TransposeConvOptions", _WINDOW, _transpose_conv_version),
}
