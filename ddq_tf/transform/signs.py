"""Negative BatchNorm gains turned into kernels of the other sign: the model computes the same."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from ddq_tf.graph import as_float64, flatten
from ddq_tf.kinds.scales import batch_norm_affine
from ddq_tf.layers import rounds_kernel


def make_gains_positive(model: keras.Model) -> None:
    """Changes the signs of output channels whose BatchNorm multiplies by a negative number.

    Folding a negative gain changes the signs of codes, which takes a full grid (-8..7) out of its
    type. A BatchNorm without gamma has no negative gains. Layers that stand several times, or
    share their BatchNorm, stay as they are.

    Args:
        model: a DDQ model.
    """
    graph = flatten(model)
    for node in graph.nodes:
        after, layer = graph.norm_of(node), node.layer
        if not rounds_kernel(layer) or after is None or not after.layer.scale:
            continue
        norm = after.layer
        if graph.calls(layer) > 1 or graph.calls(norm) > 1:
            continue
        channels = layer.quantizer.num_channels
        signs = np.where(batch_norm_affine(norm, channels)[0] < 0, -1.0, 1.0)
        layer.kernel.assign(as_float64(layer.kernel) * signs.reshape(layer.quantizer.channel_shape))
        changed = [norm.gamma, norm.moving_mean, *([] if layer.bias is None else [layer.bias])]
        for variable in changed:
            variable.assign(ops.convert_to_numpy(variable) * signs)
