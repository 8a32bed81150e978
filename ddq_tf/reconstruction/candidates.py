"""What each kernel would be at each precision, for the search to choose from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from ddq_tf.reconstruction.blocks import Block
from ddq_tf.reconstruction.blockwise import outputs_of
from ddq_tf.reconstruction.moments import input_moments
from ddq_tf.reconstruction.rounding import is_plain, rounded_at


def candidate_layers(blocks: Sequence[Block]) -> list[Any]:
    """Returns the layers that have candidates: several precisions, and a kernel to round."""
    return [layer for block in blocks for layer in block.kernels if _has_candidates(layer)]


@contextlib.contextmanager
def holding_candidates(
    blocks: Sequence[Block], inputs: tf.Tensor, on_layer: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Lets kernels be, at each precision, what second-order rounding would make of them.

    What a layer loses to the nearest levels says little of what it will lose: rounding by the
    correlations of its inputs (`rounding.round_kernel`) repairs some layers and not others. The
    inputs are those at the highest precisions, means included: no shift is mended meanwhile.

    Args:
        blocks: of a model with calibrated ranges, in order, its highest precisions in force.
        inputs: of the first block, (images, ...).
        on_layer: called after each of `candidate_layers`.
    """
    stream = inputs
    try:
        for block in blocks:
            for layer in block.kernels:
                if _has_candidates(layer):
                    layer.quantizer.candidates = _candidates(block, layer, stream)
                    on_layer()
            stream = outputs_of(block, stream)
        yield
    finally:
        for layer in candidate_layers(blocks):
            layer.quantizer.candidates = None


def _has_candidates(layer: Any) -> bool:
    return len(layer.quantizer.precisions) > 1 and is_plain(layer)


def _candidates(block: Block, layer: Any, inputs: tf.Tensor) -> Any:
    """A layer's kernel at each precision: float32, (num_precisions, *kernel shape)."""
    moments = input_moments(block, layer, inputs).about_zero()
    count = len(layer.quantizer.precisions)
    rows = [rounded_at(layer, moments, index) for index in range(count)]
    return ops.convert_to_tensor(np.stack(rows).astype(np.float32))
