"""Small integer graphs, put together by hand for the exporter's tests."""

from __future__ import annotations

import numpy as np

from ddq_tf.export.ir import DType, Graph, Op, Quantization, Tensor


class Builder:
    """Appends ops to a graph; every method returns the name of the tensor it made."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []

    def tensor(self, shape, dtype=DType.INT8, scale=None, zero_point=0, data=None, axis=0):
        """Adds a tensor; `scale` may be a number, a vector, or None for no quantization."""
        name = f"t{len(self.tensors)}"
        quantization = None
        if scale is not None:
            scale = np.atleast_1d(np.asarray(scale, np.float32))
            quantization = Quantization(scale=scale, zero_point=zero_point, axis=axis)
        if data is not None:
            data = np.asarray(data, dtype.numpy)
            shape = data.shape
        self.tensors[name] = Tensor(
            name=name, shape=tuple(shape), dtype=dtype, quantization=quantization, data=data
        )
        return name

    def op(self, kind, inputs, shape, scale=None, zero_point=0, dtype=DType.INT8, **attrs):
        """Adds an op with one output."""
        output = self.tensor(shape, dtype, scale, zero_point)
        self.ops.append(
            Op(
                kind=kind,
                inputs=tuple(inputs),
                outputs=(output,),
                attrs=attrs,
                source=f"layer_{len(self.ops)}",
            )
        )
        return output

    def indices(self, values):
        """Adds an INT32 constant: axes, paddings, a shape."""
        return self.tensor((), DType.INT32, data=np.array(values, np.int32))

    def weighted(
        self,
        kind,
        image,
        weight_shape,
        shape,
        *,
        axis=0,
        limit=127,
        dtype=DType.INT8,
        scale=0.05,
        zero_point=3,
        **attrs,
    ):
        """Adds an op with random weights in [-limit, limit] and a random bias."""
        channels = weight_shape[axis]
        image_scale = self.tensors[image].quantization.scale[0]
        fan_in = np.prod(weight_shape) / weight_shape[axis]
        # Outputs then span about the int8 range, clipping some.
        weight_scale = 60 * scale / (image_scale * 60 * limit / 3 * np.sqrt(fan_in))
        weight_scale = (weight_scale * self.rng.uniform(0.5, 1.5, channels)).astype(np.float32)
        codes = self.rng.integers(-limit, limit + 1, weight_shape)
        weights = self.tensor((), dtype, weight_scale, axis=axis, data=codes)
        bias_scale = np.float32(image_scale) * weight_scale
        bias_codes = np.round(self.rng.normal(0, 20 * scale, weight_shape[axis]) / bias_scale)
        bias = self.tensor((), DType.INT32, bias_scale, data=bias_codes)
        return self.op(kind, (image, weights, bias), shape, scale, zero_point, **attrs)

    def graph(self, inputs, outputs, metadata=None):
        """Returns the graph with its interface."""
        return Graph(
            tensors=dict(self.tensors),
            ops=tuple(self.ops),
            inputs=inputs,
            outputs=outputs,
            metadata=metadata or {},
        )


def small_network(narrow: DType = DType.INT4, limit: int = 7) -> Graph:
    """conv -> depthwise -> pointwise FC -> ADD -> MEAN -> dense FC, batch dynamic.

    Args:
        narrow: how the weights of the two FULLY_CONNECTED are stored.
        limit: their largest code.
    """
    make = Builder()
    image = make.tensor((-1, 8, 8, 3), scale=0.02, zero_point=-5)
    conv = make.weighted(
        "CONV_2D",
        image,
        (8, 3, 3, 3),
        (-1, 4, 4, 8),
        padding="SAME",
        stride_h=2,
        stride_w=2,
        fused_activation_function="RELU6",
        zero_point=-128,
        scale=6 / 255,
    )
    depthwise = make.weighted(
        "DEPTHWISE_CONV_2D",
        conv,
        (1, 3, 3, 8),
        (-1, 4, 4, 8),
        axis=3,
        padding="SAME",
        fused_activation_function="RELU",
        zero_point=-128,
        scale=0.04,
    )
    pointwise = make.weighted(
        "FULLY_CONNECTED",
        depthwise,
        (8, 8),
        (-1, 4, 4, 8),
        keep_num_dims=True,
        dtype=narrow,
        limit=limit,
        scale=0.03,
        zero_point=4,
    )
    added = make.op("ADD", (pointwise, conv), (-1, 4, 4, 8), 0.045, -7)
    mean = make.op("MEAN", (added, make.indices([1, 2])), (-1, 8), 0.02, -20, keep_dims=False)
    logits = make.weighted("FULLY_CONNECTED", mean, (5, 8), (-1, 5), dtype=narrow, limit=limit)
    return make.graph({"image": image}, {"logits": logits}, {"made_by": b"hand"})
