r"""Precision gates: how they merge levels, and what the loss says about them.

**Merging.** A tensor of at most b bits has levels q of length 2^b and gates g_1..g_b. With
U_i = g_i I + (1 - g_i) 1_{2x2}, U = U_1 x ... x U_b (Kronecker) and Z_U the size of its blocks, the
levels in force are (U / Z_U)^T q (paper): every gate that closes halves the number of distinct
levels by averaging neighbours. Neighbours merge only if the closed gates come last, so gates are
ordered: g_i counts only if all before it are open (reconstructed).

**Learning.** Over ascending precisions b_0 < ... < b_m the ordered gates G_1..G_m give
    x_q = Q_{b_0}(x) + sum_i G_i * (Q_{b_i}(x) - Q_{b_{i-1}}(x)),
of which the forward pass sees exactly one term, Q at the precision in force. The straight-through
gradient of gate i is  dL/dG_i = <dL/dx_q, Q_{b_i}(x) - Q_{b_{i-1}}(x)>, for both level families.
(Reconstructed. Differentiating the merge instead leaves closed gates without gradient: the levels
of a merged block all receive the same.)

That gradient is taken where the network stands. At the upper precision of a trained network it is
about 0, at the lower it is about twice the loss that the step would save; the mean of both ends is
right to second order (trapezoid rule). So each gate remembers the two ends apart, and training
visits neighbouring precisions at random while it searches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from ddq_tf.quantizers.selection import pick

Tensor = Any

MEMORY = 0.995


def merge_levels(levels: Tensor, gates: np.ndarray) -> Tensor:
    """Returns (U / Z_U)^T q by reshaping, without building U: the means of neighbours, repeated.

    Means are taken pair by pair, so that every backend rounds them alike. Costs O(2^b).

    Args:
        levels: float32, shape (2^b,), ascending.
        gates: shape (b,), each 0 or 1; one closed gate closes all after it.

    Returns:
        float32, shape (2^b,): 2^s distinct levels with s open gates, each repeated 2^(b-s) times.
    """
    num_open, count = int(np.cumprod(gates).sum()), int(levels.shape[0])
    merged = levels
    for _ in range(len(gates) - num_open):
        merged = ops.mean(ops.reshape(merged, (2**num_open, 2, -1)), axis=1)
    merged = ops.reshape(merged, (2**num_open, 1))
    return ops.reshape(ops.tile(merged, (1, count // 2**num_open)), (count,))


def learn_gates(
    x_q: Tensor,
    evidence: Tensor,
    selection: Tensor,
    searching: Tensor,
    quantize: Callable[[Tensor], Tensor],
    calls: int = 1,
    replicas: int = 1,
) -> Tensor:
    """Returns x_q; backward, returns the new evidence as the gradient of the old.

    The evidence variable is marked `overwrite_with_gradient`, so every Keras optimizer stores
    what arrives here, whatever its learning rate. The neighbouring precisions are computed in the
    backward pass only, and only while searching.

    Args:
        x_q: float32, any shape: the tensor at the precision of this step.
        evidence: float32, shape (num_precisions - 1, 2, 2): for each gate, at its lower and at its
            upper precision, the decayed sum of -dL/dG and the decayed number of visits.
        selection: float32, shape (num_precisions,), one-hot: the precision of this step.
        searching: bool scalar; if False the evidence stays.
        quantize: from a selection to the tensor at that precision, without gradients.
        calls: how often the quantizer stands in the model. The gradients of all calls are added
            up; so each brings its share of what was known, and all it saw.
        replicas: of the model, each of which sees its share of the loss. The variable keeps the
            mean over them.
    """

    @ops.custom_gradient
    def identity(x_q: Tensor, evidence: Tensor) -> Tensor:
        def grad(*args: Tensor, upstream: Tensor = None) -> tuple[Tensor, Tensor]:
            g = args[0] if upstream is None else upstream

            def updated() -> Tensor:
                last = selection.shape[0] - 1
                below, above = (
                    pick(selection, np.eye(last + 1, dtype=np.float32)[numbers])
                    for numbers in ([0, *range(last)], [*range(1, last + 1), last])
                )
                saved = ops.stack(
                    [
                        ops.sum(g * (x_q - quantize(above))),
                        ops.sum(g * (quantize(below) - x_q)),
                    ]
                )
                visited: Tensor = ops.stack([selection[:-1], selection[1:]], axis=1)
                seen = ops.stack([visited * saved * replicas, visited / calls], axis=2)
                decay: Tensor = ops.where(ops.greater(ops.expand_dims(visited, 2), 0), MEMORY, 1.0)
                return ops.add(ops.multiply(decay, evidence / calls), seen)

            return g, ops.cond(searching, updated, lambda: evidence / calls)

        return x_q, grad

    return identity(x_q, evidence)


@dataclasses.dataclass(frozen=True)
class Gated:
    """A quantizer whose gates learn, as a function of tensors alone; see `learn_gates`.

    Args:
        quantize: from a selection and tensors to the tensor quantized at that precision.
        calls: as `learn_gates` takes it.
        replicas: likewise.
    """

    quantize: Callable[..., Tensor]
    calls: int
    replicas: int

    def __call__(
        self, selection: Tensor, searching: Tensor, evidence: Tensor, *tensors: Tensor
    ) -> Tensor:
        """Returns quantize(selection, *tensors)."""
        x_q = self.quantize(selection, *tensors)
        # Stopped here, not in the backward pass: JAX's cannot reach what has a gradient.
        still = [ops.stop_gradient(tensor) for tensor in tensors]
        return learn_gates(
            x_q,
            evidence,
            selection,
            searching,
            lambda other: self.quantize(other, *still),
            self.calls,
            self.replicas,
        )


def loss_saved(evidence: np.ndarray) -> np.ndarray:
    """Returns the estimated loss that opening each gate saves.

    Args:
        evidence: as in `learn_gates`.

    Returns:
        float64, shape (num_precisions - 1,): the mean of both ends; the end that was seen where
        the other was not (halved at the lower end, which sees twice the saving); 0 where neither.
    """
    finite = np.nan_to_num(np.asarray(evidence, np.float64), posinf=0.0, neginf=0.0)
    sums, visits = finite[..., 0], finite[..., 1]
    means = np.divide(sums, visits, out=np.zeros_like(sums), where=visits > 0)
    return means.sum(axis=1) / 2
